"""The report as a picture: ratios to the other libraries, and rates against the machine's peak."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minifcn.benchmarking.suite import OURS
from minifcn.visualize.save import save_figure
from minifcn.visualize.style import LINE_COLORS, PANEL, TEXT, matplotlib_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIMITS = (1 / 8, 8)  # what ratios beyond are drawn at; their numbers say what they are


def draw_chart(report: dict[str, Any], path: str | Path) -> Figure:
    """Write a PNG with one line a case: on the left the ratio of times to each other library, a bar from 1 to the left
    where minifcn is faster; on the right the rates in GFLOP/s of all of them, or their times where no operations are
    counted. Without others, only the right half.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    others = [name for name in report["libraries"] if name != OURS]
    cases = report["cases"]
    lines = len(cases) * (1 + len(others))
    figure = Figure(
        figsize=(14 if others else 9, 2.2 + 0.21 * lines),
        dpi=100,
        layout="constrained",
        facecolor=matplotlib_color(PANEL),
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if others else 1, sharey=True, squeeze=False)[0]
    colors = dict(zip(report["libraries"], LINE_COLORS, strict=False))
    if others:
        _draw_ratios(panels[0], cases, others, colors)
    _draw_rates(panels[-1], report, colors)
    places = np.arange(len(cases))
    panels[0].set_yticks(places, [case["name"] for case in cases])
    panels[0].set_ylim(len(cases) - 0.5, -0.5)  # the first case on top
    for axes in panels:
        _style(axes)
    versions = ", ".join(f"{name} {library['version']}" for name, library in report["libraries"].items())
    figure.suptitle(
        f"{report['machine']['processor']}, {report['threads']} threads, device {report['device']}, {versions}",
        fontsize=11,
        color=matplotlib_color(TEXT),
    )
    save_figure(figure, path)
    return figure


def _draw_ratios(axes: Axes, cases: list[dict[str, Any]], others: list[str], colors: dict[str, str]) -> None:
    height = 0.8 / len(others)
    for number, name in enumerate(others):
        for place, case in enumerate(cases):
            ratio = case["ratios"].get(name, {}).get("time")
            if ratio is None:
                continue
            y = place + (number - (len(others) - 1) / 2) * height
            end = min(max(ratio, _LIMITS[0]), _LIMITS[1])
            axes.barh(y, end - 1, height, left=1, color=colors[name], label=name)
            side = 1 if end >= 1 else -1
            axes.annotate(
                f"{ratio:.2f}",
                (end, y),
                xytext=(3 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=8,
                color=matplotlib_color(TEXT),
            )
    axes.axvline(1, color=matplotlib_color(TEXT), linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(_LIMITS[0] / 1.6, _LIMITS[1] * 1.6)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    axes.set_xticks(ticks, ["⅛", "¼", "½", "1", "2", "4", "8"])
    axes.set_xlabel(f"time of {OURS} over the other's: left of 1, {OURS} is faster")
    _legend(axes)


def _draw_rates(axes: Axes, report: dict[str, Any], colors: dict[str, str]) -> None:
    names = list(report["libraries"])
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        for place, case in enumerate(report["cases"]):
            result, y = case["results"].get(name, {}), place + (number - (len(names) - 1) / 2) * height
            if result.get("flops") is not None:
                axes.barh(y, result["flops"] / 1e9, height, color=colors[name], label=name)
            elif "median_seconds" in result:  # what has no multiplications to count
                axes.annotate(
                    f"{result['median_seconds'] * 1e3:.3g} ms",
                    (0, y),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=colors[name],
                )
    peak = report["matrix_product"]["peak_flops"] / 1e9
    axes.axvline(peak, color=matplotlib_color(TEXT), linewidth=1, linestyle="--", label="matrix product")
    axes.set_xlabel("GFLOP/s, steady state")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """One entry a library, however many bars it has."""
    handles, labels = axes.get_legend_handles_labels()
    single = dict(zip(labels, handles, strict=True))
    axes.legend(single.values(), single.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _style(axes: Axes) -> None:
    axes.set_facecolor("white")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=matplotlib_color(TEXT))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
