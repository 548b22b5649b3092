"""classes.txt: the names of a data set's classes and, for masks in colour, their colours."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minifcn.data.images import Color
from minifcn.data.palette import voc_palette
from minifcn.data.sample import VOID
from minifcn.errors import DataError

_WITH_COLOR = re.compile(r"(?P<name>.*\S)\s+(?P<red>\d+)\s+(?P<green>\d+)\s+(?P<blue>\d+)")
_MOST_BYTES = 1_000_000  # no list of 255 names is longer


class ClassList(NamedTuple):
    """names: class 0 first.  colors: the label of each colour, empty if the file names none."""

    names: tuple[str, ...]
    colors: dict[Color, int]

    def palette(self) -> np.ndarray:
        """uint8 (256, 3): the colours of the file; those of PASCAL VOC where it names none."""
        palette = voc_palette()
        for color, label in self.colors.items():
            palette[label] = color
        return palette


def read_classes(path: Path) -> ClassList:
    """Read a class list: UTF-8 text, one class a line, `name` or `name R G B`; the first is class 0.

    Blank lines, and comments, which are lines that begin with #, do not count. Names may hold spaces. Either every
    line has a colour, or none has. A line `void R G B` is no class: it gives the colour of pixels that do not count.

    Raises DataError, with file and line, for a name or colour that comes twice, a colour outside 0–255, a class
    without colour among coloured ones, a class called void, no class at all, and more than 255.
    """
    names: list[str] = []
    colors: dict[Color, int] = {}
    first_line: dict[str | Color, int] = {}
    plain_lines: list[int] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _WITH_COLOR.fullmatch(line)
        name = match["name"] if match else line
        if name.lower() == "void" and not match:
            raise DataError(
                f"{path}, line {number}: void is not a class. In masks of numbers it is {VOID} and needs no line; "
                f"for masks in colour, write its colour after it: `void R G B`."
            )
        label = VOID if name.lower() == "void" else min(len(names), VOID)
        keys: list[str | Color] = [name]
        if match:
            color = int(match["red"]), int(match["green"]), int(match["blue"])
            if max(color) > 255:
                raise DataError(
                    f"{path}, line {number}: the colour {color} of {name!r} is not within 0–255. Correct it."
                )
            colors[color] = label
            keys.append(color)
        else:
            plain_lines.append(number)
        for key in keys:
            if key in first_line:
                what = "the class" if isinstance(key, str) else "the colour"
                raise DataError(
                    f"{path}, line {number}: {what} {key!r} stands in line {first_line[key]} already. Each comes once."
                )
            first_line[key] = number
        if name.lower() != "void":
            names.append(name)
        if len(names) > VOID:
            raise DataError(f"{path}: more than {VOID} classes. Labels are 0–254, since {VOID} is void. Join some.")
    if not names:
        raise DataError(f"{path}: no class is named. Write one name a line, class 0 first.")
    if colors and plain_lines:
        raise DataError(
            f"{path}: line {plain_lines[0]} has no colour but others have one. "
            f"Write `name R G B` in every line (for masks in colour), or in none (for masks of numbers)."
        )
    return ClassList(tuple(names), colors)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: longer than a class list can be. It should hold one class name a line.")
        return content.decode("utf-8-sig")  # -sig: editors on Windows put a byte order mark first
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: this class list cannot be read ({error}). Save it as UTF-8 text, one name a line."
        ) from error
