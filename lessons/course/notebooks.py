"""The notebooks as files: made from their text form, run with solutions or as they are, copied for students.

A lesson is written once, as text: `lessons/text/NN_name.py`, Python with cells marked `# %%` (jupytext's percent form),
which can be read, reviewed and linted. `lessons/NN_name.ipynb` is made from it, without outputs, byte for byte the same
each time. A cell tagged "exercise" is the stub of the function that it defines.
"""

import ast
import os
import shutil
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

from course.exercises import EXERCISES
from course.saving import SOLUTIONS

LESSONS_FOLDER = Path(__file__).parents[1]
TEXT_FOLDER = LESSONS_FOLDER / "text"
README = LESSONS_FOLDER / "README.md"
_GLOSSARY = "<!-- glossary: made from terms.toml by python -m course build -->"
Notebook = nbformat.NotebookNode


def texts(lessons: Iterable[int] = ()) -> list[Path]:
    """The text forms of these lessons, or of all."""
    wanted = {f"{lesson:02d}" for lesson in lessons}
    return [path for path in sorted(TEXT_FOLDER.glob("[0-9][0-9]_*.py")) if not wanted or path.name[:2] in wanted]


def notebook_path(text: Path) -> Path:
    return LESSONS_FOLDER / f"{text.stem}.ipynb"


def read(text: Path) -> Notebook:
    """The notebook of a text form, with cell ids that depend on nothing but the place."""
    notebook = jupytext.read(text, fmt="py:percent")
    notebook.metadata = nbformat.NotebookNode(
        jupytext={"formats": "ipynb,text//py:percent"},
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    nbformat.validate(notebook)
    return notebook


def as_json(notebook: Notebook) -> str:
    return nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def build(lessons: Iterable[int] = ()) -> list[Path]:
    """Make the notebooks from their texts, and the glossary from the list of terms; returns what was not up to date."""
    contents = {notebook_path(text): as_json(read(text)) for text in texts(lessons)}
    contents[README] = with_glossary(README.read_text(encoding="utf-8"))
    changed = [
        path for path, content in contents.items() if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    for path in changed:
        path.write_text(contents[path], encoding="utf-8")
    return changed


def terms() -> dict[str, dict[str, Any]]:
    """The technical terms: for each the lesson that introduces it, its Chinese name, and its meaning in a sentence."""
    return tomllib.loads((LESSONS_FOLDER / "terms.toml").read_text(encoding="utf-8"))


def with_glossary(readme: str) -> str:
    """The text of lessons/README.md with the glossary at its end."""
    rows = [
        f"| {term} | {entry['chinese']} | {entry['meaning']} | {entry['lesson']} |"
        for term, entry in sorted(terms().items(), key=lambda item: item[0].lower())
    ]
    head = ["| Term | 中文 | Meaning | Lesson |", "|---|---|---|---|"]
    return "\n".join([readme[: readme.index(_GLOSSARY)] + _GLOSSARY, "", *head, *rows, ""])


def exercise_of(cell: Notebook) -> str | None:
    """The name of the exercise whose stub, or solution, this cell is, if it is one."""
    if "exercise" not in cell.metadata.get("tags", ()):
        return None
    names = [node.name for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
    return next(name for name in names if name in EXERCISES)


def with_solutions(notebook: Notebook) -> Notebook:
    """The notebook with each stub replaced by its solution."""
    for cell in notebook.cells:
        name = exercise_of(cell)
        if name is not None:
            cell.source = (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")
    return notebook


def run(notebook: Notebook, mine: Path, folder: Path = LESSONS_FOLDER) -> float:
    """Execute all cells, with solved exercises kept in `mine`; the seconds it took. Outputs are left in the notebook.

    folder: the lessons in which it runs, these or a copy for students.
    A cell that raises is an error of the lesson: checks answer with a verdict, never with an exception.
    """
    started = time.perf_counter()
    with _environment(MINIFCN_MINE=str(mine), MINIFCN_SLIDERS="pictures"):
        execute(notebook, folder)
    return time.perf_counter() - started


def execute(notebook: Notebook, folder: Path) -> None:
    """Execute all cells by a kernel of its own, in this folder."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],  # no word about how kernel and client talk to each other
        resources={"metadata": {"path": str(folder)}},
    )
    with TemporaryDirectory() as sockets:
        if os.name == "posix":  # by way of files: of two kernels that take one port at once, the second dies
            manager = client.create_kernel_manager()
            manager.transport, manager.ip = "ipc", str(Path(sockets) / "socket")
            manager.connection_file = str(Path(sockets) / "kernel.json")
        client.execute()


def problems(notebook: Notebook, *, solutions: bool) -> list[str]:
    """What an executed lesson should not have: warnings, and checks that do not answer as they should.

    With solutions each exercise's check says that it is right and kept; with the stubs, that it is not written yet.
    """
    answers: dict[str, str] = {}
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{cell.id} writes to stderr: {text.strip()[:300]}")
            name, _, answer = text.partition(": ")
            if name in EXERCISES:
                answers[name] = answer
    wanted = "right. It is kept" if solutions else "not written yet"
    for name in filter(None, map(exercise_of, notebook.cells)):
        answer = answers.get(name, "no check has answered")
        if not answer.startswith(wanted):
            found.append(f"{name}: “{wanted}” is expected, but: {answer[:300]}")
    return found


def run_all(
    lessons: Iterable[int] = (), *, solutions: bool, folder: Path = LESSONS_FOLDER
) -> Iterator[tuple[Path, Notebook, float]]:
    """Each lesson's text, executed notebook and seconds; solved exercises go from lesson to lesson, as a learner's do,
    in a folder of their own that is removed in the end. folder: as in run.
    """
    with TemporaryDirectory() as temporary:
        for text in texts(lessons):
            notebook = with_solutions(read(text)) if solutions else read(text)
            yield text, notebook, run(notebook, Path(temporary) / "mine", folder)


def student_copy(target: Path) -> None:
    """The lessons for students: without the solutions and without what the teacher has solved."""
    shutil.copytree(
        LESSONS_FOLDER, target, ignore=shutil.ignore_patterns("solutions", "mine", "__pycache__", ".ipynb_checkpoints")
    )


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for the kernels started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
