"""`python -m minifcn.check_data DATA`: everything that is wrong with a data set, before training finds it."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from minifcn import visualize
from minifcn.commands import Parser, run_command
from minifcn.data import download
from minifcn.data.check import Report, SplitSummary, check_data
from minifcn.files import to_json, write_atomically
from minifcn.metrics import format_table

EPILOG = """examples:
  python -m minifcn.check_data pictures
  python -m minifcn.check_data voc:VOCdevkit/VOC2012 --split train --split val --json check.json

Every picture is read once. Errors are what training would stop at, and what would make its figures too good, such as
a picture both in train and in val; warnings are for you to judge. The sheet shows whether masks lie on their images.
Exit codes: 0 training can start, 1 there are errors, 2 wrong usage, 130 interrupted."""

_LISTED = 5  # messages of one kind that are printed


def make_parser() -> Parser:
    parser = Parser("check_data", "Check a data set before training, and show what is in it.", EPILOG)
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="a folder of images and masks, voc:ROOT, sbd:ROOT, voc+sbd:ROOT, camvid:ROOT, or shapes",
    )
    add("--split", action="append", metavar="NAME", help="check this split; repeatable (default: all but trainval)")
    add("--foreground", type=int, metavar="VALUE", help="a folder whose masks hold only 0 and VALUE: make it class 1")
    add("--download", action="store_true", help="download voc, sbd, voc+sbd or camvid first if it is not there")
    add("--sheet", type=_png, metavar="FILE", help="the contact sheet, a PNG (default: check-NAME.png, NAME from DATA)")
    add("--json", metavar="FILE", help="write all figures and messages to FILE, or to standard output for -")
    parser.add_debug_option()
    return parser


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):  # said now, not after every picture has been read
        raise argparse.ArgumentTypeError(f"{text!r}: the sheet is written as PNG; let the name end in .png")
    return Path(text)


def main(arguments: argparse.Namespace) -> int:
    spec = arguments.data
    if arguments.download:
        spec = download(spec, progress=sys.stderr.isatty(), say=partial(print, file=sys.stderr))
    report = check_data(spec, arguments.split, foreground=arguments.foreground, progress=_progress)
    code = 1 if report.errors else 0
    sheet = arguments.sheet or Path(f"check-{_short_name(spec)}.png")
    if report.examples:
        visualize.save_picture(_sheet(report), sheet)
    if arguments.json == "-":
        print(to_json(report.as_dict()), end="")
        return code
    print("\n\n".join(_paragraphs(report)) + "\n")
    if report.examples:
        print(f"contact sheet: {sheet}. Look whether the colours lie on what they name.")
    if arguments.json:
        write_atomically(arguments.json, to_json(report.as_dict()).encode())
        print(f"all figures and messages: {arguments.json}")
    print(_verdict(report, arguments.foreground))
    return code


def _progress(indices: Sequence[int], split: str) -> Iterable[int]:
    return tqdm(indices, desc=split, unit="picture", leave=False, disable=not sys.stderr.isatty())


def _short_name(spec: str) -> str:
    """The last part of a path, for a file name: voc:VOCdevkit/VOC2012 -> VOC2012."""
    return re.sub(r"[^\w.-]+", "-", Path(spec.rpartition(":")[2]).resolve().name) or "data"


# ---------------------------------------------------------------------------------------------------- what is printed


def _paragraphs(report: Report) -> Iterable[str]:
    if report.splits:
        yield f"{report.data}\n\n" + _splits_table(report.splits)
    for summary in report.splits:
        if summary.names:
            yield f"Classes of {summary.split}\n" + _classes_table(summary)
    if report.splits:
        yield (
            "Sizes are height × width. share: of all labelled pixels; where present: of the labelled pixels of those\n"
            "pictures that contain the class, the frequency from which median-frequency weights are made."
        )
    for kind in ("notes", "warnings", "errors"):
        if messages := getattr(report, kind):
            yield f"{kind.upper()}\n" + _grouped(messages)


def _splits_table(splits: Sequence[SplitSummary]) -> str:
    rows = []
    for summary in splits:
        sizes = {name: f"{h} × {w}" for name, (h, w) in summary.size_range().items()} if summary.names else {}
        cells = [sizes.get(name) for name in ("smallest", "largest", "most_frequent")]
        rows.append([summary.split, len(summary.names), *cells, 100 * summary.void_share])
    headers = ["split", "sound pictures", "smallest", "largest", "most frequent", "void %"]
    return format_table(headers, rows, formats=["", ",d", "", "", "", ".1f"])


def _classes_table(summary: SplitSummary) -> str:
    rows = [
        [row["class"], row["pixels"], 100 * row["share"], 100 * row["share_where_present"], row["images"]]
        for row in summary.class_rows()
    ]
    headers = ["class", "pixels", "share %", "where present %", "pictures"]
    return format_table(headers, rows, formats=["", ",d", ".2f", ".2f", ",d"])


def _grouped(messages: Sequence[str]) -> str:
    """Messages with the same remedy, which is their last sentence, stand together, and the remedy once below them."""
    groups: dict[str, list[str]] = {}
    for message in messages:
        problem, _, remedy = message.rpartition(". ")
        groups.setdefault(remedy, []).append(problem)
    lines = []
    for remedy, problems in groups.items():
        lines += [f"- {problem}" if problem else f"- {remedy}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            lines.append(f"  … and {len(problems) - _LISTED} more (--json FILE lists all)")
        if problems[0]:
            lines.append(f"  -> {remedy}")
    return "\n".join(lines)


def _verdict(report: Report, foreground: int | None) -> str:
    errors, warnings = (
        f"{len(found)} {word}{'' if len(found) == 1 else 's'}"
        for found, word in ((report.errors, "error"), (report.warnings, "warning"))
    )
    if report.errors:
        return f"\n{errors}, {warnings}. Put the errors right before training."
    option = "" if foreground is None else f" --foreground {foreground}"
    command = f"python -m minifcn.train --data {shlex.quote(report.data)}{option}"
    return f"\nNo errors, {warnings}: training can start, with\n  {command}"


def _sheet(report: Report) -> np.ndarray:
    """The examples with their masks over them, named, with a legend: uint8 (h, w, 3)."""
    most_classes = max(
        report.splits, key=lambda summary: len(summary.classes)
    )  # should they differ: an error by itself
    classes, palette = most_classes.classes, most_classes.palette
    background = 0 if classes[0] == "background" else None  # background stays as it is in the picture
    present = {int(label) for _, sample in report.examples for label in np.unique(sample.labels)} - {background}
    pictures = [
        visualize.overlay(sample.image, sample.labels, palette, alpha=0.5, background=background)
        for _, sample in report.examples
    ]
    captions = [f"{split}/{sample.name}" for split, sample in report.examples]
    return visualize.add_legend(visualize.contact_sheet(pictures, captions), classes, palette, present, font_size=18)


if __name__ == "__main__":
    run_command(main, make_parser())
