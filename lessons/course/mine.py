"""Your own functions, by name: `from course.mine import conv2d`.

A function that you have solved comes from its file in `lessons/mine/`; one that you have not yet solved is borrowed
from the library (`course/borrowed.py`). An instructor or a test may put another folder in the place of `lessons/mine/`
with the environment variable MINIFCN_MINE.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course import borrowed
from course.exercises import EXERCISES

_loaded: dict[Path, tuple[float, Callable[..., Any]]] = {}  # by file: when it was written, and its function


def folder() -> Path:
    """Where solved exercises are kept."""
    return Path(os.environ.get("MINIFCN_MINE") or Path(__file__).parents[1] / "mine")


def is_solved(name: str) -> bool:
    return (folder() / f"{name}.py").is_file()


def find(name: str) -> Callable[..., Any]:
    """Your function of this name if it is solved, else the library's."""
    if name not in EXERCISES:
        raise LookupError(f"there is no exercise {name!r}; the exercises are: {', '.join(EXERCISES)}.")
    return load(folder() / f"{name}.py", name) if is_solved(name) else getattr(borrowed, name)


def load(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of a file, read anew only if the file has changed."""
    written = path.stat().st_mtime_ns
    if _loaded.get(path, (None,))[0] != written:
        spec = importlib.util.spec_from_file_location(f"mine.{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[path] = (written, getattr(module, name))
    return _loaded[path][1]


def __getattr__(name: str) -> Any:
    """What `from course.mine import name` asks for."""
    if name in EXERCISES:
        return find(name)
    raise AttributeError(f"course.mine has no {name!r}; the exercises are: {', '.join(EXERCISES)}.")
