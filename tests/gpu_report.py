"""The end of gpu_report.sh: `python tests/gpu_report.py OUT` makes report.json and report.md of what the parts left.

A part that failed, or left something unreadable, is named, and the rest is reported.
"""

import csv
import json
import platform
import sys
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minifcn
from minifcn.benchmarking.machine import find_commit
from minifcn.benchmarking.report import full_text

PRECISIONS = ("float32", "tf32")
STOPPED = (124, 130, 137)  # by timeout, or by what it sends
TARGETS = {  # the cases whose ratios to PyTorch's time are in the table
    "forward 500×500": "fcn8s-500x500/forward",
    "step 500×500": "fcn8s-500x500/training-step",
    "step 8×320×320": "fcn8s-8x320x320/training-step",
}
OURS, THEIRS = "minifcn", "PyTorch"


def collect(out: Path) -> dict[str, Any]:
    """All that is there, as report.json says it; what cannot be read is under "unreadable"."""
    report: dict[str, Any] = {"commit": find_commit(Path(minifcn.__file__).parent), "python": platform.python_version()}
    report["device"] = json.loads((out / "device.json").read_text(encoding="utf-8"))
    report["parts"] = {path.stem: _part(path) for path in sorted(out.glob("*.status"))}
    report["unreadable"] = {}
    found = {
        "tests": (out / "tests.xml", _tests),
        **{f"benchmark-{name}": (out / f"benchmark-{name}" / "benchmark.json", _benchmark) for name in PRECISIONS},
        "training": (out / "camvid" / "metrics.csv", _training),
    }
    for name, (path, read) in found.items():
        if path.exists():
            try:
                report[name] = read(path)
            except Exception as error:  # a part that was killed while it wrote: all others are to be reported
                report["unreadable"][name] = f"{type(error).__name__}: {error}"
    return report


def _part(path: Path) -> dict[str, Any]:
    code, seconds = map(int, path.read_text(encoding="ascii").split())
    return {"exit_code": code, "seconds": seconds, "stopped": code in STOPPED}


def _tests(path: Path) -> dict[str, int]:
    suite = next(xml.parse(path).getroot().iter("testsuite")).attrib
    return {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}


def _benchmark(path: Path) -> Any:
    report = json.loads(path.read_text(encoding="utf-8"))
    return {**report, "text": full_text(report)}


def _training(path: Path) -> dict[str, Any]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    validated = [row["mean_iu"] for row in rows if row.get("mean_iu")]
    return {"steps": rows[-1]["step"] if rows else 0, "val_mean_iu": validated[-1:], "rows": rows[-20:]}


def row(report: dict[str, Any]) -> dict[str, Any]:
    """The cells of the README's table; what was not measured says so."""
    tests, training, device = report.get("tests"), report.get("training", {}), report["device"]
    ran = f"{tests['failures'] + tests['errors']} / {tests['tests'] - tests['skipped']}" if tests else "not finished"
    cells = {"GPU": device["name"], "driver": device["driver"] or device["cuda_of_driver"], "CuPy": device["cupy"]}
    cells |= {"commit": report["commit"], "tests failed / run": ran}
    for title, case in TARGETS.items():
        cells[f"{title}, time over PyTorch's: {' / '.join(PRECISIONS)}"] = _both(report, case, _ratio("time"))
    step = TARGETS["step 500×500"]
    cells["its peak memory over PyTorch's"] = _both(report, step, _ratio("peak_memory"))
    cells["its idle share"] = _both(report, step, lambda case: case["results"][OURS]["idle_share"])
    cells["its share of the product peak"] = _both(report, step, lambda case: case["results"][OURS]["share_of_peak"])
    cells["CamVid: steps of FCN-Basic"] = training.get("steps", "not run")
    cells["val mean IU"] = "".join(training.get("val_mean_iu", [])) or "not measured"
    return cells


def _ratio(word: str) -> Callable[[dict[str, Any]], float]:
    return lambda case: case["ratios"][THEIRS][word]


def _both(report: dict[str, Any], name: str, figure: Callable[[dict[str, Any]], float]) -> str:
    """A figure of a case in either precision: "0.95 / -", a dash for what was not measured."""
    texts = []
    for precision in PRECISIONS:
        cases = {case["name"]: case for case in report.get(f"benchmark-{precision}", {}).get("cases", [])}
        try:
            texts.append(f"{figure(cases[name]):.2f}")
        except KeyError:
            texts.append("-")
    return " / ".join(texts)


def text(report: dict[str, Any]) -> str:
    """report.md: the row, each part's end, and the benchmark's tables with PyTorch's flags."""
    cells = row(report)
    lines = ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]
    lines += ["| " + " | ".join(str(value) for value in cells.values()) + " |", ""]
    for name, part in report["parts"].items():
        end = "stopped at its limit of time" if part["stopped"] else f"exit code {part['exit_code']}"
        lines.append(f"- {name}: {end}, after {part['seconds']} s")
    lines += [f"- {name}: left what cannot be read ({why})" for name, why in report["unreadable"].items()]
    for precision in PRECISIONS:
        if f"benchmark-{precision}" in report:
            lines += ["", f"## benchmark, {precision}", "", "```", report[f"benchmark-{precision}"]["text"], "```"]
    return "\n".join(lines) + "\n"


def bad_parts(report: dict[str, Any]) -> list[str]:
    """What failed. Training is expected to be stopped: it has the time that is left."""
    failed = [name for name, p in report["parts"].items() if p["exit_code"] and not (name == "train" and p["stopped"])]
    return list(dict.fromkeys([*failed, *report["unreadable"]]))


def main(out: Path) -> int:
    report = collect(out)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(text(report), encoding="utf-8")
    sys.stdout.write(f"{text(report)}\nwritten: {out / 'report.json'} and {out / 'report.md'}\n")
    if bad := bad_parts(report):
        sys.stderr.write(f"failed or stopped: {', '.join(bad)} (see {out}/NAME.log)\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
