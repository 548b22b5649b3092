"""Ways to compute the same convolution, and which to take.

    "im2col"           columns of pixels and a matrix product, block by block (blocks.py); any geometry, exact
    "im2col-rows"      the same, with one small product for each row of output (rows_route.py); stride 1, exact
    "winograd-rows"    four ninths of the multiplications (winograd_rows.py); 3×3, stride 1, float32; rounds to 5e-6
    "winograd-6x6"     a fifth of the multiplications (winograd.py), likewise; rounds to about 2e-5
    "winograd-4x4"     a quarter of them, and rounds to about 5e-6
    "winograd-2x2"     four ninths of them, and rounds to about 1e-6; by name only
    "winograd-filters", "winograd-filters-4x4"  the same by blocks of filters (winograd_filters.py): for many channels
    "sparse"           multiplication by the explicit sparse matrix (geometry.py): the definition, and the slowest

`conv_route` forces one, to compare or to learn; without it `choose` takes the fastest, by a table of measurements (for
a GPU: of what was reckoned). It is a part of the source, and nothing is measured at run time, so that one computation
always takes the same route.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from minifcn.backend import Backend
from minifcn.errors import UsageError
from minifcn.ops import rows_route, winograd, winograd_filters, winograd_rows
from minifcn.ops.geometry import ConvGeometry

ROUTES = (
    "im2col",
    "im2col-rows",
    "winograd-rows",
    "winograd-6x6",
    "winograd-4x4",
    "winograd-2x2",
    "winograd-filters",
    "winograd-filters-4x4",
    "sparse",
)
# Winograd's ways: the module, and the tile.
WINOGRAD = {
    "winograd-rows": (winograd_rows, winograd.TILE_6),
    "winograd-6x6": (winograd, winograd.TILE_6),
    "winograd-4x4": (winograd, winograd.TILE_4),
    "winograd-filters": (winograd_filters, winograd.TILE_6),
    "winograd-filters-4x4": (winograd_filters, winograd.TILE_4),
    "winograd-2x2": (winograd, winograd.TILE_2),
}

# From how many output pixels on (of the whole batch) which way is fastest, by the smaller number of channels, in or
# out: the last way for which there are enough, and im2col if there is none. Both gradients follow the same numbers.
# Where winograd_rows.is_fast or winograd_filters.is_fast, with so many channels and pixels at least, those are faster.
# Measured on an AMD EPYC (Zen 4) with OpenBLAS 0.3.31, by timing all three maps on each route at each size.
_FROM_PIXELS: tuple[tuple[int, tuple[tuple[int, str], ...]], ...] = (  # channels from, (pixels from, route)
    (64, ((256, "winograd-4x4"), (2048, "winograd-6x6"))),
    (32, ((2304, "winograd-6x6"),)),
    (1, ((1024, "im2col-rows"),)),
)
# The same where one large product is better than many small ones, on a GPU, where none of _FASTER is taken. Reckoned,
# not measured: see docs/convolution.md.
_FROM_PIXELS_AT_ONCE: tuple[tuple[int, tuple[tuple[int, str], ...]], ...] = (
    (16, ((256, "winograd-4x4"), (2048, "winograd-6x6"))),
    (1, ()),
)
_FASTER = ("winograd-rows", "winograd-filters", "winograd-filters-4x4")
_FASTER_FROM_CHANNELS, _FASTER_FROM_PIXELS = 16, 256

_forced: ContextVar[str | None] = ContextVar("forced", default=None)  # each thread has its own


@contextlib.contextmanager
def conv_route(name: str) -> Iterator[None]:
    """Within this `with`, conv2d and its gradients go the way of this name, one of ROUTES, wherever it can be gone.

    A convolution that a way does not fit (a stride, dilation or groups; for Winograd's another kernel than 3×3, too),
    or where it would take more memory than the budget, goes by im2col all the same. Raises UsageError for another name.
    """
    if name not in ROUTES:
        raise UsageError(f"conv_route: {name!r} is not one of {', '.join(ROUTES)}.")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def is_forced(name: str) -> bool:
    """Whether `conv_route` asks for the route of this name."""
    return _forced.get() == name


def choose(
    backend: Backend,
    geometry: ConvGeometry,
    batch: int,
    channels: int,
    out_channels: int,
    groups: int,
    dtype: Any,
    to_weights: bool = False,
) -> str:
    """The route of one of a convolution's three maps: forward, and the gradients to the input and `to_weights`."""
    is_3x3 = winograd.fits(geometry, groups)
    possible = {
        route: is_3x3
        and way.smallest_bytes(geometry, batch, channels, out_channels, dtype, tile) <= backend.budget_bytes
        for route, (way, tile) in WINOGRAD.items()
    }
    possible["im2col-rows"] = rows_route.fits(geometry, groups)
    route = _forced.get()
    if route is None:
        if not is_3x3 or dtype != "float32" or not backend.winograd:
            return "im2col"
        pixels, fewer = batch * geometry.positions, min(channels, out_channels)
        at_once = backend.large_products
        table = _FROM_PIXELS_AT_ONCE if at_once else _FROM_PIXELS
        ways = next(ways for fewest, ways in table if fewer >= fewest)
        route = next((route for least, route in reversed(ways) if pixels >= least), "im2col")
        if not at_once and fewer >= _FASTER_FROM_CHANNELS and pixels >= _FASTER_FROM_PIXELS:
            for faster in _FASTER:
                way, tile = WINOGRAD[faster]
                if possible[faster] and way.is_fast(geometry, batch, channels, out_channels, to_weights, tile):
                    return faster
    return route if possible.get(route, True) else "im2col"
