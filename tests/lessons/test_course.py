"""check, and what it keeps: verdicts, saved modules that stand alone, borrowed functions, the drawing."""

import linecache
import operator

import numpy as np
import pytest

from course import borrowed, check, checking, drawing, explaining, mine, open_library, saving, show_solution
from course.comparing import Wrong, compare, compare_all, unchanged
from course.exercises import EXERCISES, LESSONS, PARTS
from course.saving import SOLUTIONS
from course.verdict import Verdict
from minifcn import ops

SOLUTION = (SOLUTIONS / "im2col.py").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIFCN_MINE", str(tmp_path / "mine"))
    return tmp_path / "mine"


def cell(source, **names):
    """The names that a notebook's cell defines: its functions belong to __main__, and their text can be found."""
    file = f"<cell {abs(hash(source))}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace = {"__name__": "__main__", **names}
    exec(compile(source, file, "exec"), namespace)
    return namespace


def test_a_right_answer_is_kept_and_found_again(folder, capsys):
    im2col = cell(SOLUTION)["im2col"]
    assert mine.find("im2col") is borrowed.im2col
    assert check(im2col) is im2col
    assert "right. It is kept in mine/im2col.py" in capsys.readouterr().out
    assert (folder / "im2col.py").read_text(encoding="utf-8") == SOLUTION
    from course.mine import im2col as found

    assert found.__module__ == "mine.im2col"


def test_a_wrong_answer_is_not_kept_and_the_librarys_goes_on(folder, capsys):
    wrong = cell("def im2col(x, kernel_size, *, stride=1, padding=0):\n    return x\n")["im2col"]
    assert check(wrong) is borrowed.im2col
    said = capsys.readouterr().out
    assert "yours:" in said
    assert "expected:" in said
    assert not folder.exists()


def test_a_wrong_answer_leaves_the_right_one_of_before(folder):
    check(cell(SOLUTION)["im2col"])
    check(cell("def im2col(x, kernel_size, *, stride=1, padding=0):\n    return x\n")["im2col"])
    assert (folder / "im2col.py").read_text(encoding="utf-8") == SOLUTION


def test_helpers_constants_and_imports_are_kept_with_it(folder):
    names = cell(
        "import numpy as np\n"
        "from math import sqrt\n"
        "FACTOR = 1\n"
        "def half(x):\n"
        "    return FACTOR * sqrt(4) * x / 4\n"
        "def tanh(x):\n"
        "    return np.tanh(2 * half(x))\n"
    )
    check(names["tanh"])
    source = (folder / "tanh.py").read_text(encoding="utf-8")
    for line in ("import numpy as np", "from math import sqrt", "FACTOR = 1", "def half(x):"):
        assert line in source.splitlines()
    assert mine.find("tanh")(0.5) == pytest.approx(np.tanh(0.5))


def test_other_exercises_are_imported_not_copied(folder):
    """A later, better im2col is used by the conv2d of before."""
    solution = (SOLUTIONS / "conv2d.py").read_text(encoding="utf-8").replace("from course.mine import im2col\n", "")
    check(cell(solution, im2col=borrowed.im2col)["conv2d"])
    assert "from course.mine import im2col" in (folder / "conv2d.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "names", "said"),
    [
        (
            "def tanh(x):\n    return np.tanh(x) + missing.sum()\n",
            {"missing": np.zeros(1)},
            "uses `missing` from another",
        ),
        ("tanh = lambda x: np.tanh(x)\ntanh.__name__ = 'tanh'\n", {}, "not defined with `def`"),
    ],
)
def test_what_cannot_stand_alone_is_right_but_not_kept(source, names, said, folder, capsys):
    function = cell(source, np=np, **names)["tanh"]
    check(function)
    out = capsys.readouterr().out
    assert "right, but it cannot be kept" in out
    assert said in out
    assert not folder.exists()


def test_a_function_without_text_is_not_kept(folder):
    namespace = {"__name__": "__main__", "np": np}
    exec("def tanh(x):\n    return np.tanh(x)\n", namespace)
    assert "its text cannot be found" in checking.keep("tanh", namespace["tanh"]).message


def test_names_inside_comprehensions_and_defaults_are_seen():
    function = cell("import math\nBASE = 2\ndef tanh(x, k=BASE):\n    return [math.exp(v) for v in [x]]\n")["tanh"]
    source = saving.module_source(function)
    assert "import math" in source
    assert "BASE = 2" in source


def test_a_crash_shows_the_line_of_the_learner():
    function = cell("def tanh(x):\n    y = x\n    return y.missing_attribute\n")["tanh"]
    verdict = checking.judge("tanh", function)
    assert "AttributeError" in verdict.message
    assert verdict.place == "line 3: return y.missing_attribute"


def test_a_crash_says_what_is_likely_behind_it_and_which_arrays_met():
    function = cell(
        "def im2col(x, kernel_size, *, stride=1, padding=0):\n    return x + np.zeros((1, 1, 5, 5))\n", np=np
    )["im2col"]
    verdict = checking.judge("im2col", function)
    assert "could not be broadcast together" in verdict.message
    assert "Is an axis of length 1 missing" in verdict.message
    assert verdict.place == "line 2: return x + np.zeros((1, 1, 5, 5)) (there x is (1, 1, 3, 3))"
    assert verdict.call == "im2col(the picture of 3×3 pixels, (2, 2))"


def test_what_never_ends_can_be_stopped_and_says_where():
    """What the stop button of a notebook raises, which no `except Exception` sees."""

    def tanh(x):
        raise KeyboardInterrupt

    verdict = checking.judge("tanh", tanh)
    assert "stopped from outside" in verdict.message
    assert verdict.place == "line 2: raise KeyboardInterrupt"
    assert verdict.call == "tanh(0.5)"


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda: np.zeros(3) + np.zeros(4), "Is an axis of length 1 missing"),
        (lambda: np.zeros((2, 3)).__setitem__(0, np.zeros(4)), "begin and end where it should"),
        (lambda: np.zeros((2, 3)) @ np.zeros((2, 3)), "Are the factors in the right order"),
        (lambda: np.dot(np.zeros((2, 3)), np.zeros((2, 3))), "Are the factors in the right order"),
        (lambda: 2.0 @ np.zeros(3), "is the product of matrices"),
        (lambda: np.matmul(2.0, np.zeros(3)), "is the product of matrices"),
        (lambda: np.zeros(6).reshape(4, 2), "keeps the number of entries"),
        (lambda: np.pad(np.zeros((1, 1, 3, 3)), ((1, 1), (1, 1))), "np.pad wants a pair"),
        (lambda: np.zeros(3).sum(axis=1), "Axes are counted from 0"),
        (lambda: np.zeros(3)[0, 0], "Axes are counted from 0"),
        (lambda: np.zeros(3)[3], "one too far"),
        (lambda: [1, 2][2], "one too far"),
        (lambda: np.zeros((2, 4, 3))[np.ones((2, 3), bool)], "A mask picks from the first axes"),
        (lambda: np.zeros(6 / 2), "divide with `//`"),
        (lambda: np.zeros((6 / 2, 2)), "divide with `//`"),
        (lambda: np.zeros(3)[1.0], "divide with `//`"),
        (lambda: operator.getitem([1, 2], 1.0), "divide with `//`"),
        (lambda: np.zeros(3)[np.array([0.5])], "divide with `//`"),
        (lambda: np.zeros((2, 3)).sum(axis=[0, 1]), "as a tuple"),
        (lambda: 1 if np.zeros(3) > 0 else 0, "Entry by entry there are np.where"),
        (lambda: 2.0 ^ 2, "with `**`"),
        (lambda: None + 1.0, "Something is None"),
        (lambda: 2.0 * [1, 2], "no array"),
        (lambda: (1, 2) - 1, "no array"),
        (lambda: [1, 2].shape, "no array"),
        (lambda: list(2.0), "A single number came in"),
        (lambda: operator.getitem(2.0, 0), "A single number came in"),
        (lambda: (2.0).shape, "A single number came in"),
        (lambda: float(np.zeros(3)), "take a single number"),
        (lambda: np.zeros(3).item(), "take a single number"),
        (lambda: exp(1), "NumPy's functions begin with"),  # noqa: F821
        (lambda: np.ones(3, int).__iadd__(0.5), "takes no fractions"),
        (lambda: np.broadcast_to(1.0, (2, 2)).__setitem__(0, 1), "Work on a copy"),
        (lambda: np.take_along_axis(np.zeros((2, 3)), np.zeros(2, int), 1), "give the indices one of length 1"),
        (lambda: [height for height, width in [(1, 2, 3)]], "How many axes"),
        (lambda: [height for height, width in [(1,)]], "How many axes"),
        (lambda: np.zeros((0, 3)).max(), "An array is empty here"),
        (lambda: (lambda x: x)(1, 2), "arguments that it does not take"),
        (lambda: {}["missing"], "`counts.get(key, 0)`"),
        (lambda: 1 / 0, "the divisor is 0"),
    ],
)
def test_what_numpy_says_gets_a_likely_cause(mistake, hint):
    """The patterns are of what this NumPy says; if its words change, so must they."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        mistake()
    said = explaining.explain(raised.value)
    assert hint in said
    assert str(raised.value).strip().rstrip(".") in said


def test_a_name_used_before_it_has_a_value():
    function = cell("def tanh(x):\n    x = x * y\n    y = 2\n    return x\n")["tanh"]
    assert "not before this line" in checking.judge("tanh", function).message


def test_unknown_names_are_told_which_exercises_there_are():
    with pytest.raises(LookupError, match="im2col"):
        check(lambda: None)
    with pytest.raises(LookupError, match="im2col"):
        show_solution("image_to_columns")
    with pytest.raises(ImportError, match="image_to_columns"):
        from course.mine import image_to_columns  # noqa: F401
    with pytest.raises(LookupError, match="im2col"):
        mine.find("image_to_columns")


def test_a_saved_file_that_the_learner_edits_is_read_anew(folder):
    check(cell(SOLUTION)["im2col"])
    first = mine.find("im2col")
    assert mine.find("im2col") is first
    path = folder / "im2col.py"
    path.write_text("def im2col():\n    return 'edited'\n", encoding="utf-8")
    import os

    os.utime(path, ns=(1, 1))
    assert mine.find("im2col")() == "edited"


def test_solutions_and_library_texts_can_be_opened(capsys, monkeypatch, tmp_path):
    show_solution("im2col")
    open_library(ops.conv2d)
    said = capsys.readouterr().out
    assert "solutions/im2col.py" in said
    assert "minifcn/ops/conv.py" in said.replace("\\", "/")
    monkeypatch.setattr(saving, "SOLUTIONS", tmp_path)
    show_solution("im2col")
    assert "without solutions" in capsys.readouterr().out


def test_the_drawing_tells_yours_begun_and_borrowed(folder, capsys):
    drawing.begin(7)
    said = capsys.readouterr().out
    assert "Borrowed from the library: tanh," in said
    check(cell(SOLUTION)["im2col"])
    capsys.readouterr()
    drawing.begin(7)
    said = capsys.readouterr().out
    assert "convolution begun (1 of" in said
    assert "im2col" not in said.split("Borrowed from the library:")[1]
    page = drawing._Drawing(7, set(EXERCISES))._repr_html_()
    assert "borrowed</title>" not in page
    assert 'aria-label="FCN-8s as boxes.' in page


def test_every_part_has_its_box():
    assert {box[1] for box in drawing._BOXES} == set(PARTS)
    assert {exercise.lesson for exercise in EXERCISES.values()} == set(LESSONS)


def test_compare_names_what_can_be_told_without_knowing_the_exercise():
    expected = np.arange(6.0).reshape(2, 3)
    for yours, hint in (
        (None, "`return`"),
        (expected.T, "transpose"),
        (expected.ravel(), "number of entries is right"),
        ((expected,), "Does the line end with a comma"),
        (np.zeros((2, 3)), "everything is zero"),
        (-expected, "sign"),
        (3 * expected, "3 times"),
        (expected[::-1], "wrong places"),
        (expected + np.array([0, 0, 1]), "2 of 6 numbers differ, the first at [0, 2]: 3 instead of 2"),
        (expected * np.nan, "NaN"),
        ("text", "str came back"),
        ([[1], [1, 2]], "rows differ in length"),
    ):
        with pytest.raises(Wrong) as wrong:
            compare(yours, expected, "f(x)")
        assert hint in wrong.value.hint, wrong.value.hint
    compare(expected * (1 + 1e-12), expected, "f(x)")
    with pytest.raises(Wrong) as wrong:
        compare(expected + 1, expected, "f(x)", {"one too many": lambda: expected + 1})
    assert wrong.value.hint == "one too many"


def test_compare_all_wants_as_many_things_as_there_are():
    for yours, hint in ((np.zeros(2), "2 things are expected, (a, b), but one ndarray"), ((1, 2, 3), "3 things came")):
        with pytest.raises(Wrong) as wrong:
            compare_all(yours, {"a": 1.0, "b": 2.0}, "f()", {})
        assert hint in wrong.value.hint
    with pytest.raises(Wrong) as wrong:
        compare_all((1.0, 3.0), {"a": 1.0, "b": 2.0}, "f()", {"b": {"added": 3.0}})
    assert (wrong.value.call, wrong.value.hint) == ("b of f()", "added")


def test_changed_arguments_are_noticed():
    def doubles_in_place(x):
        x *= 2
        return x

    with pytest.raises(Wrong, match="argument number 1"):
        unchanged("f(x)", doubles_in_place, np.ones(2))


def test_what_is_code_in_a_hint_is_set_as_code():
    page = Verdict("im2col", False, "not `x < y`")._repr_html_()
    assert "not <code>x &lt; y</code>" in page


def test_verdicts_show_the_corner_where_things_differ():
    """The difference lies far from the beginning of a large array."""
    expected = np.zeros((2, 40, 40))
    yours = expected.copy()
    yours[1, 35, 37] = 5
    verdict = Verdict("im2col", False, "hint", call="f(x)", yours=yours, expected=expected)
    for text in (repr(verdict), verdict._repr_html_()):
        assert "5" in text
        assert "[1, 31:39, 32:40]" in text
