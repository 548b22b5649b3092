"""Writing files so that what stands under a name is always whole."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write under a temporary name beside it, wait until the disk has it, then rename.

    Whatever happens on the way, what stands at `path` is the old file or the new one, whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Indented JSON. NaN (a class that does not occur) becomes null, since JSON has no word for it."""
    return json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
