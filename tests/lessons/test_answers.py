"""Each exercise's check: it accepts the solution and other right answers, and rejects wrong ones for their cause."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from course import borrowed, checking, mine
from course.exercises import EXERCISES
from course.saving import SOLUTIONS

ANSWERS = Path(__file__).parent / "answers"


def _answers(lesson: int):
    path = ANSWERS / f"lesson_{lesson:02d}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{lesson:02d}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {
    lesson: _answers(lesson)
    for lesson in sorted({one.lesson for one in EXERCISES.values()})
    if (ANSWERS / f"lesson_{lesson:02d}.py").exists()
}  # TEMP
RIGHT = [(name, one) for module in MODULES.values() for name, many in module.CORRECT.items() for one in many]
WRONG = [(name, *one) for module in MODULES.values() for name, many in module.WRONG.items() for one in many]


def _title(value):
    return getattr(value, "__name__", None) or (value if value in EXERCISES else "")


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    """Nothing is solved, whatever lies in the checkout's mine/."""
    monkeypatch.setenv("MINIFCN_MINE", str(tmp_path / "mine"))


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_two_right_and_five_wrong_answers(name):
    module = MODULES[EXERCISES[name].lesson]
    assert len({one.__code__ for one in module.CORRECT[name]}) >= 2
    assert len({one.__code__ for one, _ in module.WRONG[name]}) >= 5


@pytest.mark.parametrize("seed", ["0", "1", "2026"])
@pytest.mark.parametrize("name", EXERCISES)
def test_solutions_and_the_library_are_right(name, seed, monkeypatch):
    """With any seed of the checks, which an instructor may change."""
    monkeypatch.setenv("MINIFCN_LESSON_SEED", seed)
    solution = checking.judge(name, mine.load(SOLUTIONS / f"{name}.py", name))
    assert solution.right, repr(solution)
    library = checking.judge(name, getattr(borrowed, name))
    assert library.right, repr(library)


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=_title)
def test_right_answers_are_accepted(name, answer):
    verdict = checking.judge(name, answer)
    assert verdict.right, repr(verdict)


@pytest.mark.parametrize("seed", ["0", "7"])
@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=_title)
def test_wrong_answers_get_the_hint_that_names_their_cause(name, answer, hint, seed, monkeypatch):
    monkeypatch.setenv("MINIFCN_LESSON_SEED", seed)
    verdict = checking.judge(name, answer)
    assert not verdict.right
    assert hint in verdict.message, repr(verdict)
    assert repr(verdict)
    assert "<div" in verdict._repr_html_()


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_written_yet(name):
    def stub(*arguments, **options):
        raise NotImplementedError

    assert "not written yet" in checking.judge(name, stub).message


@pytest.mark.parametrize("name", EXERCISES)
def test_useless_functions_are_rejected(name):
    """None, zeros, the first argument, and a crash: whatever the exercise, these are wrong, and said kindly."""
    candidates = [
        lambda *arguments, **options: None,
        lambda *arguments, **options: 0.0,
        lambda *arguments, **options: arguments[0] if arguments else [],
        lambda *arguments, **options: np.zeros(3),
        lambda *arguments, **options: {}["missing"],
    ]
    for candidate in candidates:
        verdict = checking.judge(name, candidate)
        assert not verdict.right
        assert verdict.message
