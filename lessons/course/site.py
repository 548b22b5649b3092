"""The site and the browser edition: two folders of static pages, each made by one command."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from course import notebooks
from course.exercises import LESSONS

PROJECT = notebooks.LESSONS_FOLDER.parent

# The pages of the library's docstrings: title, and the modules whose public names they show.
API = {
    "Tensors and gradients": ("minifcn.autograd",),
    "Operations": ("minifcn.ops",),
    "Layers": ("minifcn.nn",),
    "Networks": ("minifcn.models",),
    "Weights": ("minifcn.weights",),
    "Data": ("minifcn.data",),
    "Training": ("minifcn.training",),
    "Metrics": ("minifcn.metrics",),
    "Pictures": ("minifcn.visualize",),
    "Devices, threads, errors": ("minifcn.backend", "minifcn.threads", "minifcn.errors"),
}


def build_site(target: Path, *, solutions: bool = True) -> None:
    """The Sphinx site of the lessons, executed, with the pages of docs/ and of the docstrings, in `target`.

    solutions: run the lessons with the solutions in place, show their outputs beside the stubs, and let the solutions
    be opened. Without them, as for students, the checks answer that nothing is written yet, and the lessons run in a
    copy that has no solutions, so that no page, source or search index can hold one.
    """
    with TemporaryDirectory() as folder:
        source, lessons = Path(folder) / "source", notebooks.LESSONS_FOLDER
        if not solutions:
            lessons = Path(folder) / "lessons"
            notebooks.student_copy(lessons)
        (source / "lessons").mkdir(parents=True)
        (source / "docs").mkdir()
        for name in ("conf.py", "favicon.svg"):
            shutil.copy(PROJECT / "docs" / name, source)
        for text, notebook, seconds in notebooks.run_all(solutions=solutions, folder=lessons):
            print(f"{text.stem}: {seconds:.1f} s", flush=True)
            if found := notebooks.problems(notebook, solutions=solutions):
                sys.exit("\n".join([f"{text.stem} is not fit to be shown:", *found]))
            _restore_stubs(notebook, notebooks.read(text))
            path = source / "lessons" / f"{text.stem}.ipynb"
            path.write_text(notebooks.as_json(notebook), encoding="utf-8")
        shutil.copy(notebooks.LESSONS_FOLDER / "README.md", source / "lessons" / "index.md")
        pages = sorted((PROJECT / "docs").glob("*.md"))
        for page in pages:
            text = page_for_site(page.read_text(encoding="utf-8"))
            (source / "docs" / page.name).write_text(text, encoding="utf-8")
        _write_api(source / "api")
        _write_index(source / "index.md", [page.stem for page in pages])
        options = ["-W", "--keep-going", "-q", "-b", "html", "-d", Path(folder) / "doctrees"]
        if subprocess.run([sys.executable, "-m", "sphinx", *options, source, target]).returncode:
            sys.exit(f"Sphinx could not build the site in {target}: what it says above is to be mended first.")


def page_for_site(text: str) -> str:
    """A page of docs/ without its links to source files, which the site does not hold: of those the names remain."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)\s]+\.py\)", r"`\1`", text)


def build_lite(target: Path, *, solutions: bool = True) -> None:
    """The JupyterLite site of the lessons with the package's wheel, in `target`: a notebook server in the browser.

    solutions: with the solutions, to be opened afterwards.
    """
    with TemporaryDirectory() as folder:
        contents, wheels = Path(folder) / "contents", Path(folder) / "wheels"
        notebooks.student_copy(contents)
        if solutions:
            shutil.copytree(notebooks.LESSONS_FOLDER / "solutions", contents / "solutions")
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", wheels, PROJECT], check=True)
        (wheel,) = wheels.glob("*.whl")
        first = f"%pip install -q {wheel.stem.split('-')[0]} ipywidgets"  # these make the sliders
        _install_first(contents, first)
        settings = Path(folder) / "jupyter_lite_config.json"
        settings.write_text(json.dumps({"PipliteAddon": {"piplite_urls": [str(wheel)]}}), encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "jupyter", "lite", "build", "--config", settings),
                *("--contents", contents, "--output-dir", target.absolute(), "--lite-dir", folder),
            ],
            check=True,
            cwd=folder,  # where it leaves its notes
        )


def _restore_stubs(executed: notebooks.Notebook, as_written: notebooks.Notebook) -> None:
    """The learner sees the stub to fill, and below it what the solved lesson shows."""
    for cell, original in zip(executed.cells, as_written.cells, strict=True):
        cell.source = original.source
        cell.pop("execution_count", None)
        if cell.cell_type == "code":
            cell.execution_count = None


def _install_first(contents: Path, line: str) -> None:
    """In the browser a notebook installs the package itself, in a cell before all others."""
    for path in contents.glob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        cell = {"cell_type": "code", "id": "install", "metadata": {}, "execution_count": None, "outputs": []}
        content["cells"].insert(1, {**cell, "source": line})
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_api(folder: Path) -> None:
    folder.mkdir()
    for title, modules in API.items():
        parts = [f"# {title}", "```{eval-rst}"]
        for module in modules:
            # A package says in __all__ what it shows of its modules; a module shows what it defines itself.
            imported = "   :imported-members:\n" if hasattr(import_module(module), "__all__") else ""
            parts.append(f".. automodule:: {module}\n   :members:\n{imported}")
        (folder / f"{modules[0].rpartition('.')[2]}.md").write_text("\n\n".join([*parts, "```"]), encoding="utf-8")


def _write_index(path: Path, pages: Iterable[str]) -> None:
    def contents(caption: str, entries: Iterable[str]) -> str:
        return "\n".join(["```{toctree}", ":maxdepth: 1", f":caption: {caption}", "", *entries, "```"])

    path.write_text(
        "\n\n".join(
            [
                "# minifcn",
                f"A fully convolutional network for semantic segmentation, written by hand: {len(LESSONS)} lessons "
                "from one derivative to an FCN-8s trained on operations that you wrote yourself, and the library that "
                "they lead to. Begin with [the lessons](lessons/index.md).",
                contents("Lessons", ["lessons/index", *(f"lessons/{text.stem}" for text in notebooks.texts())]),
                contents("Reading", [f"docs/{page}" for page in pages]),
                contents("Library", [f"api/{modules[0].rpartition('.')[2]}" for modules in API.values()]),
            ]
        ),
        encoding="utf-8",
    )
