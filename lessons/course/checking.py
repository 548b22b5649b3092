"""check(function): compare what the learner wrote with what is expected, show the verdict, and keep what is right."""

import html
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minifcn
from course import borrowed, explaining, mine, saving
from course.comparing import Wrong
from course.exercises import EXERCISES
from course.verdict import Verdict, show


def seed() -> int:
    """What the checks draw their numbers from. An instructor changes it with the environment variable
    MINIFCN_LESSON_SEED, so that answers typed in for one seed do not pass with another.
    """
    return int(os.environ.get("MINIFCN_LESSON_SEED", "0"))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compare a function with what is expected of the exercise of its name, and show yours beside the expected.

    If it is right, it is kept in `lessons/mine/`, and returned. If not, the library's function is returned, so that
    the rest of the lesson works: write `conv2d = check(conv2d)`.
    """
    name = getattr(function, "__name__", "")
    if name not in EXERCISES:
        names = ", ".join(EXERCISES)
        raise LookupError(f"check: there is no exercise {name or function!r}; give one of the functions {names}.")
    verdict = judge(name, function)
    if verdict.right:
        verdict = keep(name, function)
    show(verdict)
    return function if verdict.right else getattr(borrowed, name)


def judge(name: str, function: Callable[..., Any]) -> Verdict:
    """The verdict on a function, which is neither shown nor kept."""
    checks = importlib.import_module(f"course.checks.lesson_{EXERCISES[name].lesson:02d}")
    generator = np.random.default_rng([seed(), EXERCISES[name].lesson])
    try:
        with np.errstate(all="ignore"):
            getattr(checks, f"check_{name}")(function, generator)
    except NotImplementedError:
        return Verdict(name, right=False, message="not written yet. Replace the line `raise NotImplementedError`.")
    except Wrong as wrong:
        place = explaining.place(wrong.__cause__, function) if wrong.__cause__ else ""
        return Verdict(
            name, False, wrong.hint, call=wrong.call, yours=wrong.yours, expected=wrong.expected, place=place
        )
    except RecursionError:
        return Verdict(name, False, "RecursionError: the function calls itself too deeply; use a loop and a list.")
    except KeyboardInterrupt as stop:
        message = "stopped from outside. If it would not come to an end: can the condition of its loop become False?"
        return Verdict(name, False, message, call=_call(stop), place=explaining.place(stop, function))
    except Exception as error:  # whatever the learner's function may raise belongs in the verdict
        place = explaining.place(error, function)
        return Verdict(name, False, explaining.explain(error), call=_call(error), place=place)
    return Verdict(name, right=True, message="right.")


def keep(name: str, function: Callable[..., Any]) -> Verdict:
    """Save a right function to its file in mine/, and see that it is still right when it is read from there."""
    path = mine.folder() / f"{name}.py"
    try:
        source = saving.module_source(function)
    except saving.CannotSave as error:
        return Verdict(name, True, f"right, but it cannot be kept for later lessons: {error}")
    previous = path.read_text(encoding="utf-8") if path.is_file() else None
    saving.write(path, source)
    again = judge(name, _loaded_or_failing(path, name))
    if again.right:
        return Verdict(name, True, f"right. It is kept in {path.parent.name}/{path.name}; later lessons run on it.")
    if previous is None:
        path.unlink()
    else:
        saving.write(path, previous)
    cause = f"{again.message} Define within the function what it needs."
    return Verdict(name, True, f"right here, but not when it stands alone, so it is not kept: {cause}")


def _loaded_or_failing(path: Any, name: str) -> Callable[..., Any]:
    try:
        return mine.load(path, name)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"

        def failing(*_: Any, **__: Any) -> Any:
            raise RuntimeError(message)

        return failing


def _call(error: BaseException) -> str:
    """What was called when it came up, where `unchanged` has noted it."""
    return next(iter(getattr(error, "__notes__", ())), "")


def open_library(thing: Any) -> None:
    """The text of a function or class of the library or of `course`, folded up, and the file in which it stands."""
    thing = inspect.unwrap(thing)
    file = Path(inspect.getsourcefile(thing) or "")
    home = next(folder for folder in (Path(minifcn.__file__), Path(__file__)) if folder.parents[1] in file.parents)
    file = file.relative_to(home.parents[1])
    line = inspect.getsourcelines(thing)[1]
    source = html.escape(inspect.getsource(thing))
    page = f"<details><summary>{thing.__name__}: {file}, line {line}</summary><pre>{source}</pre></details>"
    show(_Page(page, f"{thing.__name__} stands in {file}, line {line}."))


def show_solution(name: str) -> None:
    """A solution, folded up, to be opened afterwards."""
    if name not in EXERCISES:
        raise LookupError(f"show_solution: there is no exercise {name!r}; the exercises are: {', '.join(EXERCISES)}.")
    path = saving.SOLUTIONS / f"{name}.py"
    if not path.is_file():
        print("This copy of the lessons comes without solutions.")
        return
    source = path.read_text(encoding="utf-8")
    page = f"<details><summary>A solution of {name}</summary><pre>{html.escape(source)}</pre></details>"
    show(_Page(page, f"A solution of {name} stands in solutions/{name}.py."))


class _Page:
    """HTML for a notebook, and a line for everything else."""

    def __init__(self, page: str, line: str) -> None:
        self._page, self._line = page, line

    def _repr_html_(self) -> str:
        return self._page

    def __repr__(self) -> str:
        return self._line
