"""Convolutions with more weights than columns: the same numbers as position by position, and no sums of each worker."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from strategies import Machine, seeded

from minifcn import backend as backend_module
from minifcn.backend import get_backend
from minifcn.ops import ConvGeometry, im2col_route, large_weights

# channels, out_channels, batch, size, kernel, stride, padding; fewer positions than filters, or rows that share nothing
CASES = [
    (5, 40, 1, (6, 5), 3, 1, 0),
    (3, 31, 2, (9, 8), (4, 3), 2, 1),
    (7, 9, 3, (5, 4), 1, 1, 0),
    (2, 3, 1, (1, 1), 7, 1, 3),
]


def arrays(channels, out_channels, batch, size, kernel, stride, padding):
    geometry = ConvGeometry.of_convolution("test", size, kernel, stride, padding, 1)
    x = seeded(batch, channels, *size).data
    weight = seeded(out_channels, channels, *geometry.kernel_size, seed=1).data
    return (
        geometry,
        x,
        weight,
        seeded(out_channels, seed=2).data,
        seeded(batch, out_channels, *geometry.output_size).data,
    )


def maps(backend, geometry, x, weight, bias, grad):
    return [
        im2col_route.convolve(backend, x, weight, bias, geometry, 1, relu=True),
        im2col_route.input_gradient(backend, grad, weight, geometry, 1),
        im2col_route.weight_gradient(backend, x, grad, geometry, 1),
    ]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("block_bytes", [1, 2000])
@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_one_worker_finds(case, block_bytes, threads, monkeypatch):
    """A part of the filters or channels put where another's belongs, or a block that overwrites the one before."""
    backend, inputs = get_backend("cpu"), arrays(*case)
    with Machine(threads=1).running():
        expected = maps(backend, *inputs)
    ways = []
    for name in ("convolve", "input_gradient", "weight_gradient"):
        way = getattr(large_weights, name)
        monkeypatch.setattr(large_weights, name, lambda *a, way=way, name=name, **k: ways.append(name) or way(*a, **k))
    with Machine(block_bytes=block_bytes, threads=threads).running():
        found = maps(backend, *inputs)
    if block_bytes == 1:
        assert ways == ["convolve", "input_gradient", "weight_gradient"]
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_an_empty_batch_has_a_gradient_of_zeros():
    """A gradient that nobody writes is whatever was in memory."""
    geometry, x, _, _, grad = arrays(*CASES[0])
    with Machine(block_bytes=1, threads=2).running():
        np.full((40, 5, 3, 3), np.nan)  # what the next array of this size is likely to find
        gradient = im2col_route.weight_gradient(get_backend("cpu"), x[:0], grad[:0], geometry, 1)
    assert not gradient.any()


@pytest.mark.parametrize(
    ("groups", "out_channels", "weight_bytes", "threads", "fits"),
    [
        (1, 4096, 4 * 2**20 + 1, 2, True),
        (1, 4096, 4 * 2**20, 2, False),  # no larger than a block of columns
        (2, 4096, 4 * 2**20 + 1, 2, False),
        (1, 192, 4 * 2**20 + 1, 2, False),  # as many positions as filters: rows share columns
        (1, 4096, 4 * 2**20 + 1, 1, False),  # nobody to share with
    ],
)
def test_when_it_is_taken(groups, out_channels, weight_bytes, threads, fits):
    """fc6 by positions takes twice the memory; a 3×3 layer by filters reads its image once for each worker."""
    geometry = ConvGeometry.of_convolution("test", (12, 16), 7, 1, 3, 1)
    with Machine(block_bytes=4 * 2**20, threads=threads).running():
        assert large_weights.fit(get_backend("cpu"), geometry, 1, out_channels, weight_bytes, groups) == fits


def test_a_gradient_over_the_budget_is_added_in_parts():
    """Of several blocks, the second's dL/dw is added to the first's: in parts, since all of it is the size of fc6."""
    names = {}
    backend = get_backend("cpu")
    geometry = ConvGeometry.of_convolution("test", (8, 300), (8, 1), 1, 0, 1)  # 300 positions of 8·400 numbers: 3.8 MB
    x, weight = np.ones((3, 400, 8, 300), np.float32), np.ones((1000, 400, 8, 1), np.float32)
    grad = np.ones((3, 1000, 1, 300), np.float32)
    original = type(backend).scratch

    def watched(self, name, shape, dtype):
        array = original(self, name, shape, dtype)
        names[name] = max(names.get(name, 0), array.nbytes)
        return array

    with Machine(block_bytes=4 * 2**20, threads=2).running(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_module, "_budget_bytes", 4 * 2**20)
        patch.setattr(type(backend), "scratch", watched)
        gradient = im2col_route.weight_gradient(backend, x, grad, geometry, 1)
    assert weight.nbytes > 4 * 2**20
    assert (gradient == 900).all()
    assert 0 < names["term"] <= 4 * 2**20
