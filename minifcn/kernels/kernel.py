"""What a kernel is, and its whole text: CUDA C, one thread for each element of the result.

REAL is float or double, PLACE the type of a place in a pooling window, INDEX that of a sparse matrix's indices, COUNT
that of a number of elements: int, or long long for arrays that need it, with which a kernel has up to twice as many
instructions. They are replaced in the text. Every kernel ends with `COUNT count`, the number of elements, and runs over
them in a loop whose stride is the size of the grid, so that any grid is right.
"""

import re
from dataclasses import dataclass

import numpy as np

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
}
_LETTERS = ("REAL", "PLACE", "INDEX")


@dataclass(frozen=True)
class Kernel:
    """One kernel: the declarations of its parameters, and what is done for element i of `count`."""

    parameters: str
    body: str

    @property
    def letters(self) -> tuple[str, ...]:
        """The types that it leaves open, but COUNT, which each kernel does."""
        return tuple(letter for letter in _LETTERS if re.search(rf"\b{letter}\b", self.parameters))

    @property
    def needs_matrix(self) -> bool:
        """Whether it transforms tiles (tiles.py), by a matrix that is written into the text."""
        return "MATRIX" in self.body

    def source(self, name: str, types: dict[str, str], matrix: np.ndarray | None = None) -> str:
        """The whole text for `nvcc` or NVRTC; types: {"REAL": "float32", "COUNT": "int32", …}, NumPy's names.

        matrix: the constant MATRIX, of AFTER rows and BEFORE columns.
        """
        text = (
            f'extern "C" __global__ void {name}({self.parameters}, COUNT count) {{\n'
            "    const COUNT step = (COUNT)gridDim.x * blockDim.x;\n"
            "    for (COUNT i = (COUNT)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {"
            f"{self.body}    }}\n}}\n"
        )
        words = {letter: C_TYPES[types[letter]] for letter in (*self.letters, "COUNT")}
        if matrix is not None:
            rows = ", ".join("{" + ", ".join(f"(REAL){number!r}" for number in row) + "}" for row in matrix.tolist())
            text = re.sub(r"\bMATRIX\b", f"{{{rows}}}", text)
            words |= {"AFTER": str(len(matrix)), "BEFORE": str(matrix.shape[1])}
        for word, meaning in words.items():
            text = re.sub(rf"\b{word}\b", meaning, text)
        return text
