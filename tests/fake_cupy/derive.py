"""What CuPy has of NumPy's and SciPy's interface, as facts.json: `python tests/fake_cupy/derive.py`, with CuPy.

CuPy imports without a GPU, so this needs none. The fake device is built from these facts: what is not in them is not
in the fake. Only names and parameters are read; what functions do with them was read in CuPy's source (see array.py).
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

FACTS = Path(__file__).with_name("facts.json")


def derive(cupy: Any, sparse: Any) -> dict[str, Any]:
    """shared: the very objects of NumPy (dtypes, constants); ufuncs; functions with their parameters, or None where
    CuPy takes any keyword; methods of ndarray; names of cupyx.scipy.sparse; methods of random.Generator.
    """
    names = [name for name in np.__all__ if hasattr(cupy, name)]
    shared = [name for name in names if getattr(cupy, name) is getattr(np, name)]
    ufuncs = [name for name in names if name == "matmul" or isinstance(getattr(cupy, name), cupy.ufunc)]
    rest = [name for name in names if name not in {*shared, *ufuncs} and callable(getattr(cupy, name))]
    return {
        "cupy": cupy.__version__,
        "shared": sorted(shared),
        "ufuncs": sorted(ufuncs),
        "functions": {name: _parameters(getattr(cupy, name)) for name in sorted(rest)},
        "methods": sorted(name for name in dir(cupy.ndarray) if not name.startswith("_")),
        "sparse": sorted(name for name in scipy.sparse.__all__ if hasattr(sparse, name)),
        "generator": sorted(name for name in dir(cupy.random.Generator) if not name.startswith("_")),
    }


def _parameters(function: Any) -> list[str] | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # compiled, without a signature
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


if __name__ == "__main__":
    import cupy
    import cupyx.scipy.sparse

    FACTS.write_text(json.dumps(derive(cupy, cupyx.scipy.sparse), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {FACTS}\n")
