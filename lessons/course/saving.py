"""From a function in a notebook to a small module that stands alone."""

import ast
import builtins
import dis
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from course.exercises import EXERCISES

SOLUTIONS = Path(__file__).parents[1] / "solutions"


class CannotSave(Exception):
    """Why a function cannot stand alone."""


def module_source(function: Callable[..., Any]) -> str:
    """The function as a module: its imports, the constants and helper functions that it uses, and itself.

    Functions of other exercises are imported from course.mine, so that a later, better version of them is used.
    """
    imports: dict[str, None] = {}  # in the order they are found
    constants: dict[str, None] = {}
    functions: dict[str, str] = {}
    _collect(function, imports, constants, functions)
    parts = ["\n".join(sorted(imports)), "\n".join(constants), *reversed(functions.values())]
    return "\n\n\n".join(part for part in parts if part) + "\n"


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def _collect(
    function: Callable[..., Any], imports: dict[str, None], constants: dict[str, None], functions: dict[str, str]
) -> None:
    functions[function.__name__] = source = _source(function)
    for name in _free_names(source):
        if name in functions or name not in function.__globals__:
            if name not in functions and not hasattr(builtins, name):
                raise CannotSave(f"it uses the name `{name}`, which is not defined.")
            continue
        value = function.__globals__[name]
        if name in EXERCISES and getattr(value, "__module__", "") != "course.engine":  # whose names are the same
            imports[f"from course.mine import {name}"] = None
        elif isinstance(value, types.ModuleType):
            imports[f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else "")] = None
        elif isinstance(value, types.FunctionType) and value.__module__ == "__main__":
            _collect(value, imports, constants, functions)
        elif getattr(value, "__module__", "__main__") != "__main__" and hasattr(value, "__name__"):
            alias = f" as {name}" if value.__name__ != name else ""
            imports[f"from {value.__module__} import {value.__name__}{alias}"] = None
        elif isinstance(value, int | float | str | bool | tuple):
            constants[f"{name} = {value!r}"] = None
        else:
            raise CannotSave(f"it uses `{name}` from another cell; give it as an argument, or define it within.")


def _source(function: Callable[..., Any]) -> str:
    try:
        source = textwrap.dedent(inspect.getsource(function))
        definition = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):
        raise CannotSave("its text cannot be found; define it with `def` in a cell of its own.") from None
    if not isinstance(definition, ast.FunctionDef):
        raise CannotSave("it is not defined with `def`.")
    lines = source.splitlines()[definition.lineno - 1 : definition.end_lineno]  # without decorators
    return "\n".join(lines)


def _free_names(source: str) -> Iterator[str]:
    """The global names that a function reads, in the order of the text; of inner functions and defaults as well."""
    code = compile(source, "<exercise>", "exec")
    seen = set()
    stack = [code]
    while stack:
        current = stack.pop()
        for instruction in dis.get_instructions(current):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval not in seen:
                seen.add(instruction.argval)
                yield instruction.argval
        stack.extend(constant for constant in current.co_consts if isinstance(constant, types.CodeType))
