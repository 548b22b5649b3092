"""What a kernel is, and how its text, CUDA C, is made whole.

A kernel says what is done for one element: a number of the result, or a patch, or a tile of several. Elements are
counted by `i`, up to `count`, which is the last parameter of every kernel. `Kernel.source` puts a loop over them around
it, whose stride is the size of the grid, so that any grid is right; and replaces the words in capitals:

    REAL      float or double
    COUNT     the type of a number of elements: int, or long long for arrays that need it, with which a kernel has up
              to twice as many instructions
    PLACE     the type of a place in a pooling window
    INDEX     the type of a sparse matrix's indices
    MATRIX    the numbers of the matrix that transforms a tile (tiles.py), which has AFTER rows and BEFORE columns
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
_OPEN_TYPES = ("REAL", "PLACE", "INDEX")


@dataclass(frozen=True)
class Kernel:
    """One kernel: the declarations of its parameters, and what is done for element i of `count`."""

    parameters: str
    body: str

    @property
    def open_types(self) -> tuple[str, ...]:
        """The words for types that are chosen at a launch: those in its parameters, and COUNT."""
        return (*(word for word in _OPEN_TYPES if re.search(rf"\b{word}\b", self.parameters)), "COUNT")

    @property
    def needs_matrix(self) -> bool:
        """Whether it transforms tiles, by a matrix that is written into the text."""
        return "MATRIX" in self.body

    def source(self, name: str, types: dict[str, str], matrix: np.ndarray | None = None) -> str:
        """The whole text for `nvcc` or NVRTC; types: {"REAL": "float32", "COUNT": "int32", …}, NumPy's names.

        matrix: what MATRIX stands for, (AFTER, BEFORE).
        """
        # No array that is written overlaps another: so loads need not wait for the stores before them.
        parameters = self.parameters.replace("* ", "* __restrict__ ")
        text = (
            f'extern "C" __global__ void {name}({parameters}, COUNT count) {{\n'
            "    const COUNT step = (COUNT)gridDim.x * blockDim.x;\n"
            "    for (COUNT i = (COUNT)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {"
            f"{self.body}    }}\n}}\n"
        )
        words = {word: C_TYPES[types[word]] for word in self.open_types}
        if matrix is not None:
            rows = ", ".join("{" + ", ".join(f"(REAL){number!r}" for number in row) + "}" for row in matrix.tolist())
            text = re.sub(r"\bMATRIX\b", f"{{{rows}}}", text)
            words |= {"AFTER": str(len(matrix)), "BEFORE": str(matrix.shape[1])}
        for word, meaning in words.items():
            text = re.sub(rf"\b{word}\b", meaning, text)
        return text
