"""Imports run one way. Read from the source with `ast`, so that imports inside functions are seen as well."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import minifcn

PACKAGE = Path(minifcn.__file__).parent

LEAVES = {"weights", "data", "metrics", "visualize"}
COMMANDS = {"train", "evaluate", "predict", "convert", "check_data", "study", "benchmark"}
SHARED_BY_COMMANDS = "commands"

# What each part of the package may import besides itself. Commands and minifcn/__init__.py see everything.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "downloads": {"errors", "files"},
    "threads": {"errors"},
    "gpu": {"errors"},
    "kernels": set(),
    "backend": {"errors", "threads", "gpu", "kernels"},
    "autograd": {"errors", "backend"},
    "ops": {"errors", "backend", "autograd"},
    "nn": {"errors", "backend", "autograd", "ops"},
    "models": {"errors", "backend", "autograd", "ops", "nn", *LEAVES},
    **{leaf: {"errors", "files", "downloads", "threads"} for leaf in LEAVES},
    SHARED_BY_COMMANDS: {"errors", "files", "backend", "gpu", "threads"},
    "prediction": {"errors", "autograd", "ops", "nn", "models", *LEAVES},
    "training": {"errors", "files", "threads", "backend", "autograd", "ops", "nn", "models", "prediction", *LEAVES},
    # It calls the library as users do: "" is the package itself.
    "benchmarking": {"", "errors", "threads", "backend", "autograd", "ops", "nn", "models", "training", *LEAVES},
}


def part_of(module: str) -> str:
    """minifcn.ops.conv -> ops; nothing for the package itself."""
    return [*module.split("."), ""][1]


def imported_modules(path: Path, package: Path) -> Iterator[tuple[int, str, bool]]:
    """Every import of the package's own modules in a file: line, module, and whether a method of Tensor holds it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    methods = {
        node
        for parent in ast.walk(tree)
        if isinstance(parent, ast.ClassDef) and parent.name == "Tensor"
        for method in parent.body
        if isinstance(method, ast.FunctionDef)
        for node in ast.walk(method)
    }
    here = [package.name, *path.relative_to(package).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from minifcn import ops` imports minifcn.ops; `from minifcn import Tensor` only the package.
            found = [
                f"{module}.{alias.name}" if _is_module(package, f"{module}.{alias.name}") else module
                for alias in node.names
            ]
        else:
            continue
        for module in found:
            if module.split(".")[0] == package.name:
                yield node.lineno, module, node in methods


def _is_module(package: Path, module: str) -> bool:
    path = package.parent.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def violations(package: Path) -> list[str]:
    """Each import that points up, as "file:line: what it imports"."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        part = relative.parts[0].removesuffix(".py")
        if part in COMMANDS or part.startswith("__"):
            continue
        for line, module, in_tensor_method in imported_modules(path, package):
            target = part_of(module)
            named_exception = relative.as_posix() == "autograd/tensor.py" and in_tensor_method and target == "ops"
            if target != part and target not in ALLOWED.get(part, set()) and not named_exception:
                wrong.append(f"{relative.as_posix()}:{line}: {part} may not import {module}")
    return wrong


def test_imports_run_one_way():
    """A layer that reaches up (an op that asks for a model) can no longer be read, or tested, by itself."""
    assert violations(PACKAGE) == []


def test_every_part_has_its_place_in_the_order():
    """A new part that nobody placed would be checked against nothing."""
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    parts = {part for part in parts if not part.startswith(("_", ".")) and part != "py.typed"}
    assert parts <= set(ALLOWED) | COMMANDS


def test_nobody_imports_a_command():
    """A command that others import becomes a library, with arguments parsed at import."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        private = COMMANDS - {own} if own in COMMANDS else COMMANDS | {SHARED_BY_COMMANDS} - {own}
        for line, module, _ in imported_modules(path, PACKAGE):
            assert part_of(module) not in private, f"{path.name}:{line} imports {module}"


def plant(tmp_path: Path, files: dict[str, str]) -> Path:
    package = tmp_path / "minifcn"
    for directory in ("autograd", "ops", "nn", "models", "data", "weights", "training"):
        (package / directory).mkdir(parents=True)
    for name in ("errors", "backend", "metrics", "visualize", "train"):
        (package / f"{name}.py").touch()
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    return package


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ops/conv.py", "from minifcn.nn.layers import Conv2d"),
        ("ops/conv.py", "import minifcn.models"),
        ("ops/conv.py", "from minifcn import models"),
        ("ops/conv.py", "from ..models import vgg"),
        ("ops/conv.py", "from .. import models"),
        ("ops/conv.py", "def f():\n    from minifcn.data import VOID"),
        ("ops/conv.py", "from minifcn import Tensor"),
        ("backend.py", "from minifcn.ops import conv2d"),
        ("errors.py", "from minifcn import backend"),
        ("data/folder.py", "from minifcn.weights import load"),
        ("weights/file.py", "import minifcn.data.palette"),
        ("metrics.py", "from minifcn.backend import get_backend"),
        ("training/loop.py", "from minifcn.train import main"),
        ("models/fcn.py", "from minifcn.training import loop"),
        ("autograd/tensor.py", "from minifcn.ops import add"),
        ("autograd/tensor.py", "def add(self):\n    from minifcn.ops import add"),
        ("autograd/tensor.py", "class Tensor:\n    from minifcn.ops import add"),
        ("autograd/tensor.py", "class Tensor:\n    def f(self):\n        from minifcn.nn import Module"),
        ("autograd/function.py", "class Tensor:\n    def f(self):\n        from minifcn.ops import add"),
        ("newcomer.py", "from minifcn.ops import add"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, name, text):
    """A test that reads no relative imports, none inside functions, or excuses more than the one exception."""
    found = violations(plant(tmp_path, {name: text}))
    assert len(found) == 1
    assert found[0].startswith(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ops/conv.py", "from minifcn.autograd import Tensor\nfrom . import geometry\nimport numpy"),
        ("autograd/tensor.py", "class Tensor:\n    def __add__(self, other):\n        from minifcn.ops import add"),
        ("models/fcn.py", "from minifcn import weights\nfrom minifcn.ops import crop"),
        ("training/loop.py", "from minifcn import data, metrics, models, visualize"),
        ("train.py", "from minifcn.training import loop\nfrom minifcn.data import VOID"),
        ("data/folder.py", "from minifcn.errors import DataError\nfrom minifcn.data.images import read_image"),
    ],
)
def test_what_is_allowed_is_not_reported(tmp_path, name, text):
    """An order so strict that it would be switched off."""
    assert violations(plant(tmp_path, {name: text})) == []


def test_the_one_exception_exists():
    """An excuse that nothing needs any more should go."""
    imports = imported_modules(PACKAGE / "autograd" / "tensor.py", PACKAGE)
    assert any(in_method and part_of(module) == "ops" for _, module, in_method in imports)


def test_other_libraries_are_imported_by_the_benchmark_only_and_only_when_it_looks_for_them():
    """A library that needs PyTorch after all, or imports it if it happens to be installed: slow, and hidden."""
    others, importing = {"torch", "chainer", "dezero"}, set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        within = {node for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) for node in ast.walk(one)}
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if found := others & {module.split(".")[0] for module in modules}:
                assert node in within, f"{path.name}:{node.lineno} imports {found} whenever it is imported itself"
                importing.add(path.relative_to(PACKAGE).as_posix())
    assert importing == {"benchmarking/pytorch_side.py", "benchmarking/chainer_side.py"}


def test_no_file_imports_itself_in_a_circle():
    """Two files of one part that need each other: the error depends on which is imported first."""
    edges: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        module = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
        edges[module] = {
            target for _, target, in_method in imported_modules(path, PACKAGE) if not in_method and target != module
        }
    done: set[str] = set()
    while remaining := {module: targets - done for module, targets in edges.items() if module not in done}:
        free = {module for module, targets in remaining.items() if not targets & set(edges)}
        assert free, f"a circle among {sorted(remaining)}"
        done |= free
