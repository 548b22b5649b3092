"""What a check answers, as a card in a notebook and as lines of text elsewhere."""

import html
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_LARGEST = 8  # rows and columns of an array that are still shown in full
_RIGHT, _WRONG = "#009E73", "#D55E00"  # Okabe and Ito's green and vermilion, told apart by the words as well


@dataclass(frozen=True)
class Verdict:
    """right or not, in one sentence; and where it is not, yours beside the expected.

    call: what was called. place: the line of the learner's code that failed.
    """

    name: str
    right: bool
    message: str
    call: str = ""
    yours: Any = None
    expected: Any = None
    place: str = ""

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.message}"]
        if self.place:
            lines.append(f"  in {self.place}")
        if self.call:
            lines.append(f"  call:     {self.call}")
        if self.yours is not None or self.expected is not None:
            differ = _differences(self)
            for title, value in (("yours", self.yours), ("expected", self.expected), ("differ", differ)):
                if value is not None:
                    first, *rest = _text(value, differ).splitlines() or [""]
                    lines += [f"  {title + ':':<9} {first}", *(" " * 12 + line for line in rest)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        colour = _RIGHT if self.right else _WRONG
        message = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(self.message))
        parts = [f"<b>{html.escape(self.name)}</b>: {message}"]
        if self.place:
            parts.append(f"<div>in {html.escape(self.place)}</div>")
        if self.call:
            parts.append(f"<div><code>{html.escape(self.call)}</code></div>")
        if self.yours is not None or self.expected is not None:
            differ = _differences(self)
            tables = [_table("yours", self.yours, differ), _table("expected", self.expected, differ)]
            parts.append(f'<div style="display:flex;gap:2em;flex-wrap:wrap">{"".join(tables)}</div>')
        style = (
            f"border-left:6px solid {colour};background:#f6f6f4;color:#222222;padding:0.6em 1em;margin:0.4em 0;"
            "line-height:1.5"
        )
        return f'<div style="{style}">{"".join(parts)}</div>'


def show(thing: Any) -> None:
    """As rich as the place allows: a card in a notebook, text in a terminal."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(thing)
        return
    if get_ipython() is None:
        print(thing)
    else:
        display(thing)


def _differences(verdict: Verdict) -> np.ndarray | None:
    """Where yours and the expected differ, or None if they cannot be compared entry by entry."""
    if verdict.yours is None or verdict.expected is None:
        return None
    try:
        yours, expected = np.asarray(verdict.yours), np.asarray(verdict.expected)
    except ValueError:
        return None
    if yours.shape != expected.shape or yours.ndim == 0 or "O" in (yours.dtype.kind, expected.dtype.kind):
        return None
    if yours.dtype.kind in "US" or expected.dtype.kind in "US":
        return yours != expected
    return ~np.isclose(yours, expected, rtol=1e-9, equal_nan=True)


def _text(value: Any, differ: np.ndarray | None) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    corner = _corner(value, differ) if value.ndim and value.size else ()
    part = value[corner]
    where = "" if part.size == value.size else f"of shape {value.shape}, the part [{_index_text(corner, value)}]\n"
    return where + np.array2string(part, precision=4, suppress_small=True, max_line_width=120)


def _table(title: str, value: Any, differ: np.ndarray | None) -> str:
    """An array as a table whose wrong entries stand out; of many axes or long ones, the corner where they begin."""
    if not isinstance(value, np.ndarray) or value.ndim == 0 or value.size == 0:
        return f"<div>{title}<br><code>{html.escape(_text(value, differ))}</code></div>"
    corner = _corner(value, differ)
    rows = np.atleast_2d(value[corner])
    marks = np.zeros(rows.shape, bool) if differ is None else np.atleast_2d(differ[corner])
    cells = "".join(
        "<tr>" + "".join(_cell(entry, mark) for entry, mark in zip(row, marked, strict=True)) + "</tr>"
        for row, marked in zip(rows, marks, strict=True)
    )
    part = "" if rows.size == value.size else f", of shape {value.shape}, the part [{_index_text(corner, value)}]"
    return f'<div>{title}{part}<table style="border-collapse:collapse;color:#222222">{cells}</table></div>'


def _cell(entry: Any, mark: bool) -> str:
    number = f"{entry:.4g}" if np.asarray(entry).dtype.kind == "f" else str(entry)
    style = f"padding:0.1em 0.5em;text-align:right;border:1px solid {_WRONG if mark else '#cccccc'}"
    return (
        f'<td style="{style};{"font-weight:bold;background:#fbe3d6" if mark else "background:#ffffff"}">{number}</td>'
    )


def _corner(value: np.ndarray, differ: np.ndarray | None) -> tuple[Any, ...]:
    """An index of at most two axes and eight entries along each, where the first difference can be seen."""
    start = np.argwhere(differ)[0] if differ is not None and differ.any() else np.zeros(value.ndim, int)
    leading = tuple(int(index) for index in start[:-2])
    windows = []
    for index, length in zip(start[-2:], value.shape[-2:], strict=True):
        first = max(0, min(int(index) - _LARGEST // 2, length - _LARGEST))
        windows.append(slice(first, min(length, first + _LARGEST)))
    return (*leading, *windows)


def _index_text(corner: tuple[Any, ...], value: np.ndarray) -> str:
    lengths = value.shape[-len(corner) :]
    return ", ".join(
        (":" if (part.start, part.stop) == (0, length) else f"{part.start}:{part.stop}")
        if isinstance(part, slice)
        else str(part)
        for part, length in zip(corner, lengths, strict=True)
    )
