"""Winograd's convolution: the same numbers as the plain one, within a bound that is stated; and the gradients."""

from contextlib import contextmanager

import numpy as np
import oracles
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from strategies import ConvCase, Machine, random_cases, seeded, small_convolutions

from minifcn import Tensor, backend, ops
from minifcn.autograd import gradcheck
from minifcn.backend import Backend, get_backend, set_budget
from minifcn.errors import UsageError
from minifcn.ops import ConvGeometry, routes, winograd, winograd_filters, winograd_rows
from minifcn.ops.routes import WINOGRAD, conv_route

every_way = pytest.mark.parametrize("route", WINOGRAD)


def geometry(size, padding=1, kernel=3, stride=1, dilation=1):
    return ConvGeometry.of_convolution("test", size, kernel, stride, padding, dilation)


@every_way
def test_counts_of_a_kernel_of_ones(route):
    """A tile put a pixel aside, or padded on one side only, changes these counts; 7×6 cuts tiles at both edges."""
    with conv_route(route):
        y = ops.conv2d(Tensor(np.ones((1, 1, 7, 6))), Tensor(np.ones((1, 1, 3, 3))), padding=1).data[0, 0]
    rows, columns = np.array([2, 3, 3, 3, 3, 3, 2]), np.array([2, 3, 3, 3, 3, 2])
    assert_allclose(y, np.outer(rows, columns), rtol=1e-13)


@every_way
def test_each_matrix_is_right_for_polynomials(route):
    """One tile in one dimension: Aᵀ [(G w) ⊙ (Bᵀ d)] = Σ_k w_k d_{i+k}, for all unit vectors w and d."""
    _, tile = WINOGRAD[route]
    for w in np.eye(3):
        for d in np.eye(tile.inputs):
            y = tile.interpolate @ ((tile.evaluate_filter @ w) * (tile.evaluate_input @ d))
            assert_allclose(y, [w @ d[i : i + 3] for i in range(tile.outputs)], atol=1e-14)


@every_way
@random_cases
@given(case=small_convolutions())
def test_it_equals_the_loops(route, case: ConvCase):
    """Any slip in tiles, bands over several images, edges or threads."""
    with case.machine.running(), conv_route(route):
        y = ops.conv2d(*case.tensors(), **case.arguments)
    expected = oracles.conv2d(*case.arrays(), **case.arguments, stride=(1, 1), dilation=(1, 1), groups=1)
    assert_allclose(y.data, expected, rtol=1e-10, atol=1e-10)


@every_way
@random_cases
@given(case=small_convolutions())
def test_its_gradients_agree_with_finite_differences(route, case: ConvCase):
    """A wrong gradient to input, weight or bias: A for Aᵀ, G for Gᵀ, a total that starts with rubbish."""
    tensors = [tensor for tensor in case.tensors() if tensor is not None]
    with case.machine.running(), conv_route(route):
        assert gradcheck(lambda *inputs: ops.conv2d(*inputs, **case.arguments), tensors)


@pytest.mark.usefixtures("device")
@random_cases
@given(case=small_convolutions())
def test_all_routes_give_the_same(case: ConvCase):
    """The routes are other ways to the same numbers, backward too."""
    results = []
    for route in routes.ROUTES:
        with case.machine.running(), conv_route(route):
            results.append(case.backpropagated())
    for result in results[1:]:
        for expected, found in zip(results[0], result, strict=True):
            assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@every_way
@pytest.mark.parametrize("channels", [3, 64])
def test_float32_stays_within_its_bound(route, channels):
    """The bound holds for every output, is no more than 3,000 times what is seen, and is broken by a wrong entry."""
    x, weight = seeded(2, channels, 13, 18, dtype=np.float32).data, seeded(5, channels, 3, 3, dtype=np.float32).data
    (way, tile), cpu, place = WINOGRAD[route], get_backend("cpu"), geometry((13, 18))
    exact = way.convolve(cpu, x.astype(float), weight.astype(float), None, place, tile)
    error = np.abs(way.convolve(cpu, x, weight, None, place, tile) - exact)
    bound = way.error_bound(x, weight, place, tile)
    assert (error <= bound).all()
    assert (bound < 3000 * error.max()).all()
    evaluate = tile.evaluate_input.copy()
    evaluate[0, 0] *= 1.1
    wrong = winograd.Tile(tile.outputs, evaluate, tile.evaluate_filter, tile.interpolate)
    assert (np.abs(way.convolve(cpu, x, weight, None, place, wrong) - exact) > bound).any()


def test_what_float32_loses_is_what_the_documentation_says():
    """Relative to the largest output, for 64 channels: 1e-5 for tiles of 6×6, 3e-6 for 6 rows and 4×4, 3e-7 for 2×2."""
    x, weight = seeded(1, 64, 32, 32, dtype=np.float32).data, seeded(64, 64, 3, 3, seed=1, dtype=np.float32).data
    lost = {}
    for route, (way, tile) in WINOGRAD.items():
        results = [
            way.convolve(get_backend("cpu"), x.astype(t), weight.astype(t), None, geometry((32, 32)), tile)
            for t in (np.float32, np.float64)
        ]
        lost[route] = np.abs(results[0] - results[1]).max() / np.abs(results[1]).max()
    assert 5e-6 < lost["winograd-6x6"] < 2e-5
    assert 5e-6 < lost["winograd-filters"] < 2e-5
    assert 2e-6 < lost["winograd-rows"] < 5e-6
    assert 1e-6 < lost["winograd-4x4"] < 4e-6
    assert 1e-6 < lost["winograd-filters-4x4"] < 4e-6
    assert 1e-7 < lost["winograd-2x2"] < 1e-6


@every_way
@pytest.mark.parametrize("threads", [1, 2])
def test_runs_are_equal_bit_for_bit_at_one_number_of_threads(route, threads):
    """Partial sums added in the order in which threads happen to finish, or two threads in one scratch array."""
    case = ConvCase((3, 8, 33, 31), (8, 8, 3, 3), (8,), {"padding": 1}, Machine(2**14, threads), seed=0)
    runs = []
    for _ in range(4):
        with case.machine.running(), conv_route(route):
            runs.append(case.backpropagated(np.float32))
    for run in runs[1:]:
        for first, second in zip(runs[0], run, strict=True):
            assert_array_equal(first, second)


@every_way
def test_an_empty_batch_gives_an_empty_result(route):
    """The last batch of a filtered data set may hold nothing; the sum over nothing is zero, not what memory holds."""
    x, weight = seeded(0, 2, 5, 5), seeded(3, 2, 3, 3)
    with conv_route(route):
        y = ops.conv2d(x, weight)
        y.backward(np.zeros(y.shape))
    assert y.shape == (0, 3, 3, 3)
    assert_array_equal(weight.grad, np.zeros(weight.shape))


@pytest.mark.parametrize("route", routes.ROUTES)
def test_what_scratch_memory_held_before_is_never_read(monkeypatch, route):
    """What a larger layer left there, or another batch: pixels beyond the edge, a total that is not begun with zero."""
    case = ConvCase((2, 3, 7, 9), (5, 3, 3, 3), (5,), {"padding": (2, 0)}, Machine(1500, threads=2), seed=0)
    with case.machine.running(), conv_route(route):
        expected = case.backpropagated()
        scratch = Backend.scratch

        def spoiled(self, *arguments):
            array = scratch(self, *arguments)
            array[...] = np.nan
            return array

        monkeypatch.setattr(Backend, "scratch", spoiled)
        for array, found in zip(expected, case.backpropagated(), strict=True):
            assert_array_equal(found, array)


@every_way
def test_arrays_may_lie_in_memory_in_any_order(route):
    """Channels last, and pixels from the end: strides taken for those of a contiguous array."""
    shapes = ((7, 9, 3, 2), (3, 3, 3, 5), (7, 9, 5, 2))  # of x, weight and dL/dy, reversed
    arrays = [seeded(*shape).data.T[..., ::-1] for shape in shapes]
    (way, tile), cpu, place, results = WINOGRAD[route], get_backend("cpu"), geometry((9, 7)), []
    for x, weight, grad in (arrays, [array.copy("C") for array in arrays]):
        y = way.convolve(cpu, x, weight, None, place, tile)
        results.append((y, way.weight_gradient(cpu, x, grad, place, tile)))
    for found, expected in zip(*results, strict=True):
        assert_array_equal(found, expected)


@contextmanager
def budget(size):
    """The budget of this size, and none set afterwards: a GPU's is another than the CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_budget_bytes", None)
        set_budget(size)
        yield


@pytest.mark.parametrize("size", [(64, 64), (40, 172)])  # of the other, a budget holds two and a half rows of tiles
def test_bands_keep_to_the_budget(size):
    """V or M of a band larger than what the user allowed; a row of tiles is the least there is."""
    cpu, place = get_backend("cpu"), geometry(size)
    with budget(2**20):
        bands = [band for share in winograd.split(cpu, 1, place, winograd.TILE_4, 32, 64, 4) for band in share]
    assert all(36 * 64 * band.rows * band.columns * 4 <= 2**20 for band in bands)
    assert [band.start for band in bands[1:]] == [band.stop for band in bands[:-1]]
    assert (bands[0].start, bands[-1].stop) == (0, size[0] // 4)
    assert [band.rows for share in winograd.split(cpu, 1, place, winograd.TILE_4, 32, 64, 4) for band in share] != [
        band.rows for band in bands
    ]


def test_rows_of_tiles_keep_to_the_budget():
    """V, M or the products of dU of a block larger than what the user allowed; every row is in one block."""
    cpu, place, x = get_backend("cpu"), geometry((62, 64)), np.zeros((2, 32, 62, 64), np.float32)
    with budget(2**20):
        blocks = winograd_rows._split(cpu, x, place, 64, winograd.TILE_4)
    assert all(6 * max(96 * 64, 64 * 64, 96 * 64) * -(-block.row_count // 4) * 4 <= 2**20 for block in blocks)
    for image in range(2):
        rows = [block.rows for block in blocks if block.images == slice(image, image + 1)]
        assert [row for part in rows for row in range(62)[part]] == list(range(62))
        assert all(part.start % 4 == 0 for part in rows)
    assert len(winograd_rows._split(cpu, x, place, 64, winograd.TILE_4)) < len(blocks)


@pytest.mark.parametrize(
    ("channels", "out_channels", "size"),
    [(1, 20, (160, 160)), (20, 1, (72, 76)), (400, 40, (4, 4)), (400, 40, (16, 16))],
)
def test_blocks_of_filters_keep_to_the_budget(monkeypatch, channels, out_channels, size):
    """M of sixteen filters is sixteen times as large as V of a single channel; U of 400 channels and few tiles, too."""
    largest, scratch = {}, Backend.scratch

    def watched(self, name, *arguments):
        array = scratch(self, name, *arguments)
        largest[name] = max(largest.get(name, 0), array.nbytes)
        return array

    monkeypatch.setattr(Backend, "scratch", watched)
    x, grad = (seeded(1, count, *size, dtype=np.float32).data for count in (channels, out_channels))
    weight = seeded(out_channels, channels, 3, 3, dtype=np.float32).data
    arguments = (geometry(size), winograd.TILE_4)
    with budget(2**20), conv_route("winograd-filters"):
        assert chosen(1, size, channels, out_channels) == "winograd-filters"
        winograd_filters.convolve(get_backend("cpu"), x, weight, None, *arguments)
        winograd_filters.weight_gradient(get_backend("cpu"), x, grad, *arguments)
    assert {name: count for name, count in largest.items() if count > 2**20} == {}
    assert {"values", "filters", "products"} <= largest.keys()


def block_size(channels, tiles):
    return winograd_filters._block_size(get_backend("cpu"), np.empty((36, channels, tiles), np.float32))


def test_blocks_of_filters_are_larger_where_all_tiles_are():
    """U and M of a block have a quarter of V's numbers, or V is read for too few filters each time; 16 at least."""
    assert block_size(512, 48) == 16  # conv5_1 of VGG16 at 384×512: 16·(512 + 48) is more than 512·48/4 = 6,144
    assert block_size(512, 192) == 64  # conv4_2: 32·704 = 22,528 is less than 24,576
    assert block_size(64, 64) == 16
    assert block_size(256, 2000) == 64
    with budget(2**20):
        assert block_size(256, 2000) == 3  # for each of which M has 36·2000·4 = 288,000 bytes
        assert block_size(1, 10_000) == 1  # whose M alone is over the budget


# --------------------------------------------------------------------------------------------- into how many parts


def test_products_are_cut_until_they_are_small():
    """Halves of eight rows, no fewer; what cannot be made small so is not cut at all, which would only cost calls."""
    assert winograd.count_cuts(8, 125_000) == 1  # a million: OpenBLAS computes it as it stands
    assert winograd.count_cuts(16, 125_000) == 2
    assert winograd.count_cuts(16, 125_001) == 1
    assert winograd.count_cuts(24, 60_000) == 2
    assert winograd.count_cuts(12, 100_000) == 1  # six rows each
    assert winograd.count_cuts(97, 20_000) == 1  # a prime
    assert winograd.count_cuts(512, 12_288) == 8
    assert winograd.count_cuts(1, 1) == winograd.count_cuts(7, 10**6) == 1


def test_cut_products_are_small_and_equal():
    """Over many sizes: a loop that ends too soon, or with a remainder."""
    for rows in range(1, 300):
        for multiplications in (1, 999, 3_500, 10_000, 40_000, 125_000, 10**6, 10**7):
            cuts = winograd.count_cuts(rows, multiplications)
            assert rows % cuts == 0
            if cuts > 1:
                assert rows // cuts >= 8
                assert rows // cuts * multiplications <= winograd.SMALL_PRODUCT < 2 * rows // cuts * multiplications


def test_a_product_in_parts_is_the_whole_one(monkeypatch):
    """Rows of one part multiplied with another place's matrix."""
    left, right = seeded(3, 16, 5).data, seeded(3, 5, 4, seed=1).data
    sizes, matmul = [], np.matmul
    monkeypatch.setattr(winograd, "SMALL_PRODUCT", 160)  # 8·5·4
    monkeypatch.setattr(np, "matmul", lambda a, b, out: sizes.append(a.shape) or matmul(a, b, out=out))
    found = np.empty((3, 16, 4))
    winograd.multiply(get_backend("cpu"), left, right, found)
    assert sizes == [(3, 2, 8, 5)]
    assert_allclose(found, np.einsum("pak,pkb->pab", left, right), rtol=1e-13)


@pytest.mark.parametrize(
    ("threads", "length", "size", "lengths"),
    [
        (2, 10, 10, [10]),  # little to do: one thread does it
        (2, 10, 9, [5, 5]),
        (2, 10, 4, [2, 3, 2, 3]),  # three parts would leave one of two threads without work at the end
        (3, 10, 4, [3, 3, 4]),
        (3, 10, 3, [1, 2, 2, 1, 2, 2]),
        (4, 3, 2, [1, 1, 1]),  # no part is empty
        (1, 5, 0, [1, 1, 1, 1, 1]),  # not even one fits
        (2, 5, 1, [1, 1, 1, 1, 1]),
    ],
)
def test_parts_follow_one_another_and_each_thread_has_as_many(threads, length, size, lengths):
    """An output channel left out, or computed twice; a part of more memory than allowed."""
    with Machine(threads=threads).running():
        parts = winograd.parts(get_backend("cpu"), length, size)
    assert [part.stop - part.start for part in parts] == lengths
    assert [index for part in parts for index in range(length)[part]] == list(range(length))


def test_a_budget_of_less_than_a_mebibyte_is_refused():
    """With none at all, a convolution would be cut into bands of nothing."""
    with pytest.raises(UsageError, match="1 MiB"):
        set_budget(1000)


# ------------------------------------------------------------------------------------------------- which way, and when


def chosen(
    batch=4, size=(64, 64), channels=64, out_channels=64, groups=1, dtype=np.float32, to_weights=False, **options
):
    place, dtype = geometry(size, **options), np.dtype(dtype)
    return routes.choose(get_backend("cpu"), place, batch, channels, out_channels, groups, dtype, to_weights)


@pytest.mark.parametrize(
    ("case", "route"),
    [
        ({"channels": 256}, "winograd-6x6"),
        ({"size": (45, 46), "channels": 256, "batch": 1}, "winograd-6x6"),
        ({"size": (45, 45), "channels": 256, "batch": 1}, "winograd-4x4"),
        ({"channels": 256, "out_channels": 256, "batch": 1, "size": (24, 24)}, "winograd-filters-4x4"),
        ({"channels": 256, "out_channels": 256, "batch": 1, "size": (32, 32)}, "winograd-filters"),
        ({"channels": 256, "out_channels": 256, "batch": 1, "size": (12, 12)}, "im2col"),
        ({}, "winograd-rows"),
        ({"size": (64, 123)}, "winograd-6x6"),  # with rows of over 1.5 million multiplications
        ({"size": (64, 44)}, "winograd-rows"),
        ({"size": (64, 44), "to_weights": True}, "winograd-6x6"),  # too many sums for too little work
        ({"size": (64, 45), "to_weights": True}, "winograd-rows"),
        ({"channels": 16, "batch": 1, "size": (16, 16)}, "winograd-rows"),
        ({"channels": 16, "batch": 1, "size": (15, 17)}, "im2col"),
        ({"channels": 32, "size": (64, 500)}, "winograd-6x6"),
        ({"channels": 15}, "im2col-rows"),
        ({"channels": 3, "batch": 1, "size": (24, 24)}, "im2col"),
        ({"dtype": np.float64}, "im2col"),
        ({"stride": 2}, "im2col"),
        ({"dilation": 2}, "im2col"),
        ({"kernel": 5}, "im2col"),
        ({"kernel": (3, 1)}, "im2col"),
        ({"groups": 2}, "im2col"),
        ({"channels": 1024, "out_channels": 1024}, "im2col"),  # whose filters alone take 144 MiB
        ({"batch": 1, "size": (4, 4000), "channels": 512}, "im2col"),  # one row of whose tiles takes 70 MiB
        ({"batch": 1, "size": (4, 3000), "channels": 512}, "winograd-6x6"),
        # By blocks of filters: U of 2²¹ numbers, 64·C·O, at least, 2²⁰ for the gradient to the weights …
        ({"batch": 1, "size": (8, 32), "channels": 128, "out_channels": 256}, "winograd-filters-4x4"),
        ({"batch": 1, "size": (8, 32), "channels": 128, "out_channels": 255}, "winograd-4x4"),
        (
            {"batch": 1, "size": (8, 32), "channels": 128, "out_channels": 128, "to_weights": True},
            "winograd-filters-4x4",
        ),
        ({"batch": 1, "size": (8, 32), "channels": 128, "out_channels": 127, "to_weights": True}, "winograd-4x4"),
        # … in tiles of 4×4 up to 32 of 6×6 …
        ({"batch": 1, "size": (48, 24), "channels": 256, "out_channels": 256}, "winograd-filters-4x4"),
        ({"batch": 1, "size": (48, 25), "channels": 256, "out_channels": 256}, "winograd-filters"),
        # … tiles·(C + O) ≤ 5·C·O, here 640 tiles, and 25·C·O for the gradient to the weights, 1,600 tiles …
        ({"batch": 1, "size": (6, 3840), "channels": 256, "out_channels": 256}, "winograd-filters"),
        ({"batch": 1, "size": (6, 3841), "channels": 256, "out_channels": 256}, "winograd-6x6"),
        ({"batch": 2, "size": (6, 1920), "channels": 256, "out_channels": 256}, "winograd-filters"),
        ({"batch": 3, "size": (6, 1920), "channels": 256, "out_channels": 256}, "winograd-6x6"),
        ({"batch": 1, "size": (6, 9600), "channels": 128, "out_channels": 128, "to_weights": True}, "winograd-filters"),
        ({"batch": 1, "size": (6, 9601), "channels": 128, "out_channels": 128, "to_weights": True}, "winograd-6x6"),
        # … 16 channels, 256 pixels …
        (
            {"batch": 1, "size": (8, 32), "channels": 16, "out_channels": 1024, "to_weights": True},
            "winograd-filters-4x4",
        ),
        ({"batch": 1, "size": (8, 32), "channels": 15, "out_channels": 1100, "to_weights": True}, "im2col"),
        ({"batch": 1, "size": (8, 31), "channels": 256, "out_channels": 256}, "im2col"),
        # … and V within the budget: 64·256·1024 numbers are 64 MiB.
        ({"batch": 2, "size": (6, 3072), "channels": 256, "out_channels": 256, "to_weights": True}, "winograd-filters"),
        ({"batch": 2, "size": (6, 3073), "channels": 256, "out_channels": 256, "to_weights": True}, "winograd-6x6"),
        # No U of 256 MiB, nor im2col because of it.
        ({"batch": 1, "size": (16, 24), "channels": 1024, "out_channels": 1024}, "winograd-filters-4x4"),
        ({"batch": 1, "size": (76, 76), "channels": 1024, "out_channels": 1024}, "winograd-filters"),
    ],
)
def test_the_route_follows_from_geometry_and_dtype(case, route):
    """float64, in which gradients are checked, and what Winograd's way cannot do, go the exact way."""
    assert chosen(**case) == route


@pytest.mark.parametrize(("channels", "route"), [(836, "winograd-rows"), (837, "im2col")])
def test_filters_over_the_budget_go_another_way(channels, route):
    """By rows U and dU are 24·C·O numbers, here about 64 MiB, whatever the size of the picture."""
    with conv_route("winograd-rows"):
        assert chosen(channels=channels, out_channels=channels, size=(4, 4)) == route


@pytest.mark.parametrize(("size", "route"), [((12, 1536), "winograd-filters"), ((12, 1537), "im2col")])
def test_tiles_over_the_budget_go_another_way(size, route):
    """Filter by filter all of V is there at once: 64·512·512 numbers are 64 MiB, whatever the filters."""
    with conv_route("winograd-filters"):
        assert chosen(1, size, channels=512, out_channels=1) == route


def test_a_forced_route_ends_with_its_block():
    """A route that stays after an error would change everything computed later."""
    with conv_route("sparse"):
        with conv_route("winograd-2x2"):
            assert chosen() == "winograd-2x2"
            assert chosen(dtype=np.float64) == "winograd-2x2"
            assert chosen(stride=2) == "im2col"
        assert chosen() == "sparse"
        with pytest.raises(ZeroDivisionError), conv_route("im2col"):
            raise ZeroDivisionError
        assert chosen() == "sparse"
    assert chosen() == "winograd-rows"


def test_an_unknown_route_is_refused_with_the_known_ones():
    """A slip of the pen would compare a route with itself."""
    with pytest.raises(UsageError, match=r"'winograd' is not one of im2col, im2col-rows, winograd-rows, winograd-6x6"):
        conv_route("winograd").__enter__()


@random_cases
@given(case=small_convolutions())
def test_relu_in_the_same_pass_is_relu_after_it(case: ConvCase):
    """A mask from before the bias, or a gradient that passes where y is 0."""
    for route in routes.ROUTES:
        with case.machine.running(), conv_route(route):
            fused = case.backpropagated(relu=True)
            tensors = case.tensors()
            y = ops.relu(ops.conv2d(*tensors, **case.arguments))
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        separate = [y.data, *(tensor.grad for tensor in tensors if tensor is not None)]
        for expected, found in zip(separate, fused, strict=True):
            assert_array_equal(found, expected)
