"""What Winograd's ways make of a layer's weights, kept from one call to the next while the weights cannot change.

U = G w Gᵀ is made anew in each call, since finding out that w is still the same would mean to read it all. Within
`keep_filters` nobody has to find out: NumPy lets nobody write to w, so U is made in the first call, and is right until
the block ends. That saves a layer of 64 or 128 channels 5 to 18 % of its time, the more the smaller its map is.

    with no_grad(), ops.keep_filters(model.parameters()):
        for picture in pictures:
            scores = model(picture)

What is kept belongs to the array, not to the thread or the context: it is the same for whoever computes with it.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend

# Of one U. To make a larger one takes little of its layer's time, and reading it back from memory takes most of that:
# of 512·512 filters, for tiles of 4×4, 2.4 ms to make, 1.6 ms to read 38 MB. And all of VGG16's would be 235 MB.
MOST_BYTES = 4 * 2**20

Transform = Callable[[Backend, Array, Any], Array]  # of a weight (O, C, 3, 3), by the matrices of a tile


@dataclass(frozen=True, eq=False)
class _Fixed:
    """An array that cannot change, and what was made of it, by the function that made it and the tile.

    It holds the array, so that no other can have its id meanwhile.
    """

    weight: np.ndarray
    made: dict[Hashable, Array] = field(default_factory=dict)


_fixed: dict[int, _Fixed] = {}  # by id() of the array
# While arrays enter or leave. Reentrant: a block that a generator holds may end wherever garbage is collected.
_changing = threading.RLock()


@contextlib.contextmanager
def keep_filters(weights: Iterable[Tensor]) -> Iterator[None]:
    """Within this `with`, these Tensors' arrays are read-only, and conv2d keeps what it makes of them.

    For a network that is used several times as it is; the results are the same, bit for bit. Whoever writes to a
    weight, as a step of an optimiser does, gets NumPy's ValueError "assignment destination is read-only" (or "output
    array is read-only"). Another array may be assigned to `.data`; of that nothing is kept. When the block ends, by an
    error too, the arrays can be written to as before, and what was kept is dropped. Blocks may be nested.

    Nothing is kept of arrays that this block cannot vouch for: those on a GPU, which knows no read-only arrays; views,
    since what they look at can be written to by another name; and those that were read-only before, whose owner can
    change that. For one thing it cannot vouch either: a view that was taken of a weight before can be written to still.
    Do not do that.
    """
    own: list[np.ndarray] = []
    try:
        with _changing:
            for weight in (tensor.data for tensor in weights):
                if isinstance(weight, np.ndarray) and weight.flags.owndata and weight.flags.writeable:
                    own.append(weight)
                    weight.flags.writeable = False
                    _fixed[id(weight)] = _Fixed(weight)
        yield
    finally:
        with _changing:
            for weight in own:
                _fixed.pop(id(weight), None)  # first: nothing may be kept of what can be written to
                weight.flags.writeable = True


def kept(transform: Transform) -> Transform:
    """Marks a function of a weight whose results `keep_filters` keeps, in memory of their own."""

    @functools.wraps(transform)
    def find(backend: Backend, weight: Array, tile: Hashable) -> Array:
        fixed = _fixed.get(id(weight))
        if fixed is None:
            return transform(backend, weight, tile)
        filters = fixed.made.get((transform, tile))
        if filters is None:
            filters = transform(backend, weight, tile)
            if filters.nbytes <= MOST_BYTES:
                fixed.made[transform, tile] = filters.copy()  # it may lie in scratch memory
        return filters

    return find
