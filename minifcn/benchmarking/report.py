"""The report as tables that a person reads."""

from __future__ import annotations

from typing import Any

from minifcn.benchmarking.cases import GROUP_3X3
from minifcn.benchmarking.suite import OURS
from minifcn.metrics.tables import format_table


def full_text(report: dict[str, Any]) -> str:
    """Machine, times, first calls and memory, and whatever was left out."""
    parts = [machine_lines(report), times_table(report), card_table(report), means_lines(report)]
    parts.append(first_and_memory_table(report))
    return "\n\n".join(part for part in [*parts, left_out_lines(report)] if part)


def machine_lines(report: dict[str, Any]) -> str:
    """What the figures must be read with."""
    machine, product = report["machine"], report["matrix_product"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    versions = ", ".join(f"{name} {library['version']}" for name, library in report["libraries"].items())
    commit = f" (commit {machine['commit']})" if machine["commit"] else ""
    threads = ", ".join(f"{name} {library['threads']}" for name, library in report["libraries"].items())
    rates = ", ".join(f"{name} {flops / 1e9:.0f}" for name, flops in product["flops"].items())
    return "\n".join(
        [
            f"machine   {machine['processor']}, {machine['cores']} cores{memory}; {machine['system']}",
            f"versions  {versions}{commit}; Python {machine['python']}, NumPy {machine['numpy']}, "
            f"SciPy {machine['scipy']}; BLAS: {', '.join(machine['blas']) or 'unknown'}",
            f"threads   {threads}; device {report['device']}",
            f"peak      {product['peak_flops'] / 1e9:.0f} GFLOP/s, the fastest matrix product of: {rates}",
            *_card_lines(report),
        ]
    )


def _card_lines(report: dict[str, Any]) -> list[str]:
    """The GPU, if it is one that was measured, and what each library was told of precision."""
    if "card" not in report:
        return []
    card = report["card"]
    flags = {name: library["flags"] for name, library in report["libraries"].items() if "flags" in library}
    told = "; ".join(f"{name}: {', '.join(f'{key} {value}' for key, value in f.items())}" for name, f in flags.items())
    return [
        f"card      {card['name']}, driver {card['driver']}, CUDA {card['cuda']}, CuPy {card['cupy']}, "
        f"{card['precision']}; copies {card['copy_bytes_per_second'] / 1e9:.0f} GB/s, read and written",
        f"flags     {told}",
    ]


def card_table(report: dict[str, Any]) -> str:
    """On a GPU: the time of the card alone, the rest of it, in which the card stood still, and how fast bytes moved."""
    if "card" not in report:
        return ""
    names = [name for name, library in report["libraries"].items() if "flags" in library]
    rows = []
    for result in report["cases"]:
        row = [result["name"], _scaled(_figure(result, OURS, "share_of_copy_rate"), 100)]
        for name in names:
            row += [
                _scaled(_figure(result, name, "busy_seconds"), 1e3),
                _scaled(_figure(result, name, "idle_share"), 100),
            ]
        rows.append(row)
    headers = ["case", "% of copies", *(header for name in names for header in (f"{name} busy ms", "idle %"))]
    note = (
        "Busy: one call without waiting for the host. % of copies: inputs and outputs over the time, of copying's rate."
    )
    return format_table(headers, rows, formats=["", ".0f", *[",.2f", ".1f"] * len(names)]) + f"\n{note}"


def times_table(report: dict[str, Any]) -> str:
    """Milliseconds of a call in the steady state (medians), rates, and the ratio to each other library."""
    others = [name for name in report["libraries"] if name != OURS]
    headers = ["case", f"{OURS} ms", "GFLOP/s", "% of peak"]
    headers += [header for name in others for header in (f"{name} ms", "ratio")]
    rows = []
    for result in report["cases"]:
        ours = result["results"][OURS]
        share = ours["share_of_peak"]
        row = [result["name"], 1e3 * ours["median_seconds"], _scaled(ours["flops"], 1e-9), _scaled(share, 100)]
        for name in others:
            row += [_scaled(_figure(result, name, "median_seconds"), 1e3), _ratio(result, name, "time")]
        rows.append(row)
    formats = ["", ",.2f", ".1f", ".0f"] + [",.2f", ".2f"] * len(others)
    note = f"Ratio: {OURS}'s time over the other's, medians of rounds in turn; below 1, {OURS} is faster."
    return format_table(headers, rows, formats=formats) + (f"\n{note}" if others else "")


def means_lines(report: dict[str, Any]) -> str:
    """The geometric means of the 3×3 layers."""
    counted = [result for result in report["cases"] if result["group"] == GROUP_3X3]
    lines = []
    for name, means in report["geometric_means"].items():
        for pass_, mean in means.items():
            layers = sum(result["pass"] == pass_ for result in counted)
            lines.append(f"geometric mean of {layers} {GROUP_3X3}, {pass_}: {mean:.2f} × {name}'s time")
    return "\n".join(lines)


def first_and_memory_table(report: dict[str, Any]) -> str:
    """The very first call, in milliseconds, and the peak of memory, in MiB."""
    names = list(report["libraries"])
    others = [name for name in names if name != OURS]
    headers = ["case", *(f"{name} first ms" for name in names), *(f"{name} MiB" for name in names)]
    headers += [f"ratio {name}" for name in others]
    rows = []
    for result in report["cases"]:
        row = [result["name"], *(_scaled(_figure(result, name, "first_seconds"), 1e3) for name in names)]
        row += [_scaled(_figure(result, name, "peak_bytes"), 2**-20) for name in names]
        row += [_ratio(result, name, "peak_memory") for name in others]
        rows.append(row)
    formats = ["", *[",.2f"] * len(names), *[",.0f"] * len(names), *[".2f"] * len(others)]
    where = "in the library's pool on the card" if "card" in report else "of a process of its own"
    of_what = ", which ratios are of" if others else ""
    note = f"First call: with all that is set up once. MiB: peak memory {where}{of_what}."
    return f"{format_table(headers, rows, formats=formats)}\n{note}"


def left_out_lines(report: dict[str, Any]) -> str:
    """Libraries that are not there, and what those that are could not do."""
    lines = [f"{library}: {reason}" for library, reason in report["absent"].items()]
    for result in report["cases"]:
        reasons = {**result["left_out"], **result["failed"]}
        lines += [f"{result['name']}: {reason}" for reason in reasons.values()]
    return "\n".join(["not measured:", *(f"  {line}" for line in lines)]) if lines else ""


def _figure(result: dict[str, Any], name: str, key: str) -> float | None:
    return result["results"].get(name, {}).get(key)


def _ratio(result: dict[str, Any], name: str, word: str) -> float | None:
    return result["ratios"].get(name, {}).get(word)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
