"""The fake cupyx.scipy.sparse: SciPy's matrices underneath, with CuPy's limits.

Values are bool, float32, float64 or complex, never whole numbers or half precision. A matrix is made of device arrays
(or, explicitly, of a SciPy matrix), its parts and products are device arrays. The transpose of a CSR is a CSC, whose
product is summed in an order that may be another one each time.
"""

from typing import Any

import numpy as np
import scipy.sparse

from fake_cupy.array import FACTS, card, ndarray, operand, wrap

_VALUES = "?fdFD"


class spmatrix:
    __array_ufunc__ = None
    __array_priority__ = 101
    _make: Any = None

    def __init__(self, source: Any, shape: Any = None, dtype: Any = None, copy: bool = False) -> None:
        card.compute()
        if isinstance(source, spmatrix):
            source = source._host
        elif isinstance(source, ndarray):
            source = source._memory
        elif isinstance(source, tuple):
            if isinstance(source[0], ndarray):
                _check_values(source[0].dtype)  # SciPy has rules of its own
            source = tuple(_part(one) for one in source)
        elif isinstance(source, np.ndarray):
            raise TypeError(f"Unsupported type {type(source)}")
        made = type(self)._make(source, shape=shape, dtype=dtype, copy=copy)
        _check_values(made.dtype)
        self._host = made

    def get(self) -> Any:
        card.wait()
        return self._host.copy()

    def __array__(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError("Implicit conversion to a host sparse matrix is not allowed")

    @property
    def T(self) -> "spmatrix":
        return wrap_matrix(self._host.T)

    @property
    def shape(self) -> tuple[int, int]:
        return self._host.shape

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def nnz(self) -> int:
        return self._host.nnz

    @property
    def format(self) -> str:
        return self._host.format

    def __getattr__(self, name: str) -> Any:
        if name in ("data", "indices", "indptr", "row", "col"):
            return wrap(getattr(self._host, name)[:])  # the matrix has the memory, whoever looks at it
        if name in ("tocsr", "tocsc", "tocoo", "copy", "transpose", "astype", "multiply"):
            return lambda *arguments, **keywords: wrap_matrix(getattr(self._host, name)(*arguments, **keywords))
        if name in ("toarray", "todense", "diagonal"):
            return lambda: wrap(np.asarray(getattr(self._host, name)()))
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r} (or the fake was not taught it)"
        )

    def __matmul__(self, other: Any) -> Any:
        card.compute()
        if isinstance(other, spmatrix):
            return wrap_matrix(self._host @ other._host)
        if not isinstance(other, ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        host = self._host
        if host.format == "csc":  # cuSPARSE's transposed path: in any order
            order = card.random.permutation(host.shape[1])
            return wrap(host[:, order] @ operand(other)[order])
        return wrap(host @ operand(other))

    def __rmatmul__(self, other: Any) -> Any:
        raise TypeError(f"Unsupported type {type(other)}")


def _check_values(dtype: np.dtype) -> None:
    if dtype.char not in _VALUES:
        raise ValueError(f"Only bool, float32, float64, complex64 and complex128 are supported, not {dtype}")


def _part(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._memory
    if isinstance(value, tuple):
        return tuple(_part(one) for one in value)
    if isinstance(value, int | np.integer):
        return value
    raise TypeError(f"Unsupported type {type(value)}; a sparse matrix on the device is made of device arrays")


class csr_matrix(spmatrix):
    _make = scipy.sparse.csr_matrix


class csc_matrix(spmatrix):
    _make = scipy.sparse.csc_matrix


class coo_matrix(spmatrix):
    _make = scipy.sparse.coo_matrix


_CLASSES = {"csr": csr_matrix, "csc": csc_matrix, "coo": coo_matrix}


def wrap_matrix(host: Any) -> spmatrix:
    kind = _CLASSES.get(host.format)
    if kind is None:
        host, kind = host.tocsr(), csr_matrix
    made = kind.__new__(kind)
    made._host = host
    return made


def _constructor(name: str) -> Any:
    def function(*arguments: Any, **keywords: Any) -> spmatrix:
        card.compute()
        return wrap_matrix(getattr(scipy.sparse, name)(*(_host(one) for one in arguments), **keywords))

    return function


def _host(value: Any) -> Any:
    if isinstance(value, spmatrix):
        return value._host
    if isinstance(value, list | tuple):
        return [_host(one) for one in value]
    if isinstance(value, np.ndarray) or scipy.sparse.issparse(value):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def issparse(value: Any) -> bool:
    return isinstance(value, spmatrix)


_TAUGHT = {
    "csr_matrix": csr_matrix,
    "csc_matrix": csc_matrix,
    "coo_matrix": coo_matrix,
    "spmatrix": spmatrix,
    "issparse": issparse,
    **{name: _constructor(name) for name in ("identity", "eye", "kron", "block_diag", "hstack", "vstack")},
}
NAMES = {name: value for name, value in _TAUGHT.items() if name in FACTS["sparse"]}
