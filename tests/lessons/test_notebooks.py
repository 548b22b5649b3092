"""The notebooks as files: made from their texts, without outputs; one stub an exercise, terms before their use."""

import ast
import functools
import json
import re
import tomllib

import nbformat
import pytest

from course import notebooks
from course.describing import described
from course.exercises import EXERCISES, LESSONS
from course.saving import SOLUTIONS

TEXTS = notebooks.texts()
TERMS = notebooks.terms()


@functools.cache
def _notebook_of(text):
    return notebooks.read(text)


@functools.cache
def _markdown(text):
    return "\n\n".join(cell.source for cell in _notebook_of(text).cells if cell.cell_type == "markdown")


@functools.cache
def _prose(text):
    """What is said, without the title (which may name what is to come), code, links, headings and sources."""
    prose = _markdown(text).split("\n", 1)[1]
    prose = re.sub(
        r"`[^`]*`|\$\$.*?\$\$|\[[^\]]*\]\([^)]*\)|^#+ [^\n]*$|^\*Sources?\b.*?(?=\n\n|\Z)",
        "",
        prose,
        flags=re.MULTILINE | re.DOTALL,
    )
    return " ".join(prose.split())


def test_there_are_twelve_lessons():
    assert [int(text.name[:2]) for text in TEXTS] == list(LESSONS)
    assert sorted(notebooks.LESSONS_FOLDER.glob("*.ipynb")) == [notebooks.notebook_path(text) for text in TEXTS]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_notebooks_are_what_their_texts_make(text):
    """An edit in only one of the two; outputs that were saved."""
    content = notebooks.notebook_path(text).read_text(encoding="utf-8")
    assert content == notebooks.as_json(_notebook_of(text)), "run python -m course build in lessons/"
    assert all(not cell.get("outputs") for cell in json.loads(content)["cells"])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_lessons_begin_with_their_title_and_their_drawing(text):
    number = int(text.name[:2])
    cells = _notebook_of(text).cells
    assert cells[0].source.startswith(f"# {number}. {LESSONS[number]}\n")
    assert cells[1].source == f"from course import begin, check, open_library, show_solution\n\nbegin({number})"


@pytest.mark.parametrize("name", EXERCISES)
def test_each_exercise_has_its_stub_check_and_solution(name):
    """A stub that gives its solution away, a check that is missing, an exercise in the wrong lesson."""
    (text,) = notebooks.texts([EXERCISES[name].lesson])
    cells = _notebook_of(text).cells
    (place,) = [number for number, cell in enumerate(cells) if notebooks.exercise_of(cell) == name]
    (function,) = ast.parse(cells[place].source).body
    docstring, statement = function.body
    assert isinstance(docstring.value, ast.Constant)
    assert ast.unparse(statement) == "raise NotImplementedError"
    following = [cell.source for cell in cells[place + 1 :]]
    assert f"{name} = check({name})" in following
    assert any(f'show_solution("{name}")' in source for source in following)
    solution = ast.parse((SOLUTIONS / f"{name}.py").read_text(encoding="utf-8"))
    (solved,) = [node for node in solution.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert ast.unparse(solved.args) == ast.unparse(function.args)


def test_every_picture_is_described_and_every_description_is_used():
    """A picture without its words; words that are left over from a picture that is gone."""
    used = {
        (lesson, picture)
        for text in TEXTS
        for lesson, picture in re.findall(r'described\((\d+), "([^"]+)"\)', text.read_text(encoding="utf-8"))
    }
    pictures = tomllib.loads((notebooks.LESSONS_FOLDER / "descriptions.toml").read_text(encoding="utf-8"))
    assert used == {(lesson, picture) for lesson, those in pictures.items() for picture in those}
    for lesson, picture in used:
        words = described(int(lesson), picture)
        assert len(words) > 20
        assert "\n" not in words


def test_a_picture_that_nobody_has_described_is_said_to_be_so():
    with pytest.raises(LookupError, match="no picture 'missing' of lesson 1; those it has: masks"):
        described(1, "missing")


def test_every_solution_belongs_to_an_exercise():
    assert {path.stem for path in SOLUTIONS.glob("*.py")} == set(EXERCISES)


@pytest.mark.parametrize("term", TERMS)
def test_terms_are_introduced_before_they_are_used(term):
    """In bold where the lesson says what it means, and in no lesson before."""
    lesson = TERMS[term]["lesson"]
    spoken = re.compile(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?!\w)", re.IGNORECASE)
    for text in TEXTS:
        prose = _prose(text)
        found = spoken.search(prose)
        if int(text.name[:2]) < lesson:
            assert found is None, f"{text.name}: …{prose[max(0, found.start() - 80) : found.end() + 40]}…"
        elif int(text.name[:2]) == lesson:
            assert found is not None, f"{text.name} does not mention it"
            around = prose[max(0, found.start() - 40) : found.end() + 40]
            assert prose[: found.start()].rstrip("(").endswith("**"), f"its first mention is not in bold: …{around}…"


def test_the_glossary_holds_the_terms():
    readme = notebooks.README.read_text(encoding="utf-8")
    assert readme == notebooks.with_glossary(readme), "run python -m course build in lessons/"
    assert len(TERMS) >= 30
    for term, entry in TERMS.items():
        assert f"| {term} | {entry['chinese']} | {entry['meaning']} | {entry['lesson']} |" in readme


@pytest.mark.parametrize("text", [*TEXTS, notebooks.LESSONS_FOLDER / "README.md"], ids=lambda text: text.stem)
def test_links_lead_somewhere(text):
    source = _markdown(text) if text.suffix == ".py" else text.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", source):
        if not re.match(r"https?://|#", target):
            assert (notebooks.LESSONS_FOLDER / target.partition("#")[0]).exists(), target


def _notebook(*sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    for cell in notebook.cells:
        if "def im2col" in cell.source:
            cell.metadata["tags"] = ["exercise"]
    return notebook


STUB = "def im2col(x, kernel_size, *, stride=1, padding=0):\n    raise NotImplementedError"
WRONG = "def im2col(x, kernel_size, *, stride=1, padding=0):\n    return x"


@pytest.mark.parametrize(
    ("sources", "solutions", "problem"),
    [
        (["from course import check", STUB, "im2col = check(im2col)"], False, None),
        (["from course import check", STUB, "im2col = check(im2col)"], True, "im2col: “right"),
        (["from course import check", WRONG, "im2col = check(im2col)"], False, "im2col: “not written yet”"),
        (["from course import check", STUB], False, "no check has answered"),
        (["import warnings", "warnings.warn('careful')"], False, "writes to stderr"),
    ],
)
def test_runs_tell_what_is_wrong_with_a_lesson(sources, solutions, problem, tmp_path):
    notebook = _notebook(*sources)
    notebooks.run(notebook, tmp_path / "mine")
    found = notebooks.problems(notebook, solutions=solutions)
    assert (found == []) if problem is None else any(problem in one for one in found), found


def test_a_solved_exercise_is_kept_and_used_by_the_next_lesson(tmp_path):
    solution = (SOLUTIONS / "im2col.py").read_text(encoding="utf-8")
    first = _notebook("from course import check", solution, "im2col = check(im2col)")
    notebooks.run(first, tmp_path / "mine")
    assert notebooks.problems(first, solutions=True) == []
    second = _notebook("from course import begin\nbegin(7)", "from course.mine import im2col\nprint(im2col.__module__)")
    notebooks.run(second, tmp_path / "mine")
    said = "".join(output.text for cell in second.cells for output in cell.outputs if output.output_type == "stream")
    assert "Yours: 1 of" in said
    assert "mine.im2col" in said


def test_students_get_the_lessons_without_solutions(tmp_path):
    notebooks.student_copy(tmp_path / "lessons")
    assert not (tmp_path / "lessons" / "solutions").exists()
    assert (tmp_path / "lessons" / "course" / "mine.py").exists()
    assert len(list((tmp_path / "lessons").glob("*.ipynb"))) == len(LESSONS)


def test_in_the_students_copy_no_solution_is_shown(tmp_path):
    """The site for students is made of lessons that ran there; from here, it would show every solution."""
    notebooks.student_copy(tmp_path / "lessons")
    notebook = _notebook("from course import show_solution", "show_solution('im2col')")
    notebooks.run(notebook, tmp_path / "mine", tmp_path / "lessons")
    said = str(notebook.cells[1].outputs)
    assert "comes without solutions" in said
    assert "def im2col" not in said
