"""conv2d: against loops, against finite differences, and what it takes and refuses."""

import threading
import tracemalloc

import numpy as np
import oracles
import pytest
from devices import assert_allclose, assert_array_equal, default_backend, on_device
from hypothesis import given
from strategies import ConvCase, Machine, convolutions, random_cases, seeded

from minifcn import Tensor, no_grad, ops
from minifcn import backend as backend_module
from minifcn.autograd import gradcheck
from minifcn.backend import Backend, get_backend
from minifcn.errors import DtypeError, ShapeError
from minifcn.ops import blocks as blocks_module
from minifcn.ops import im2col_route
from minifcn.ops.conv import weight_gradient
from minifcn.ops.routes import ROUTES

pytestmark = pytest.mark.usefixtures("device")


def ones(*shape):
    return Tensor(np.ones(shape))


def test_a_corner_sees_four_pixels_and_an_edge_six():
    """Padding with anything but zeros, or on one side only, changes these counts."""
    y = ops.conv2d(ones(1, 1, 3, 3), ones(1, 1, 3, 3), padding=1)
    assert_array_equal(y.data[0, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_the_kernel_is_not_flipped():
    """A mathematician's convolution would give 20 + 3 here: networks use the cross-correlation."""
    y = ops.conv2d(Tensor([[[[10.0, 1.0]]]]), Tensor([[[[3.0, 2.0]]]]))
    assert y.numpy().ravel() == [32.0]


def test_height_comes_before_width():
    """Pairs swapped anywhere give another shape or other numbers."""
    x = Tensor(np.arange(20.0).reshape(1, 1, 4, 5))
    y = ops.conv2d(x, ones(1, 1, 2, 1), stride=(2, 3), dilation=(1, 2))
    assert_array_equal(y.data[0, 0], [[0 + 5, 3 + 8], [10 + 15, 13 + 18]])
    assert ops.conv2d(x, ones(1, 1, 1, 1), padding=(2, 0)).shape == (1, 1, 8, 5)
    assert ops.conv2d(x, ones(1, 1, 1, 2), dilation=(1, 3)).shape == (1, 1, 4, 2)


def test_groups_do_not_see_each_other():
    """Groups taken in turns (0, 2 | 1, 3) instead of halves give 1 + 3 and 2 + 4."""
    x = Tensor(np.array([1.0, 2, 3, 4]).reshape(1, 4, 1, 1))
    y = ops.conv2d(x, ones(2, 2, 1, 1), groups=2)
    assert_array_equal(y.data.ravel(), [1 + 2, 3 + 4])


def test_the_bias_reaches_every_position_of_its_own_channel():
    """A bias added along another axis shows here."""
    y = ops.conv2d(ones(2, 1, 2, 2), ones(2, 1, 1, 1), Tensor([10.0, 20.0]))
    assert_array_equal(y.data[:, 0], np.full((2, 2, 2), 11))
    assert_array_equal(y.data[:, 1], np.full((2, 2, 2), 21))


@random_cases
@given(convolutions())
def test_it_equals_the_loops(case: ConvCase):
    """Any slip in stride, padding, dilation, groups, bands or threads."""
    with case.machine.running():
        y = ops.conv2d(*case.tensors(), **case.arguments)
    assert_allclose(y.data, oracles.conv2d(*case.arrays(), **case.arguments), rtol=1e-10, atol=1e-10)


@random_cases
@given(convolutions())
def test_its_gradients_agree_with_finite_differences(case: ConvCase):
    """A wrong gradient with respect to input, weight or bias, in any band."""
    tensors = [tensor for tensor in case.tensors() if tensor is not None]
    with case.machine.running():
        assert gradcheck(lambda *inputs: ops.conv2d(*inputs, **case.arguments), tensors)


@random_cases
@given(convolutions())
def test_the_sparse_matrix_gives_the_same(case: ConvCase):
    """The definition, with strides, dilation and groups: what all other routes are measured by."""
    with ops.conv_route("sparse"):
        found = case.backpropagated()
    for other, expected in zip(found, case.backpropagated(), strict=True):
        assert_allclose(other, expected, rtol=1e-11, atol=1e-11)


@random_cases
@given(convolutions())
def test_block_sizes_and_threads_change_nothing_but_rounding(case: ConvCase):
    """A row that is computed by no band, by two bands, or with another band's padding."""
    results = []
    for machine in (Machine(), Machine(block_bytes=1), Machine(block_bytes=700, threads=2), Machine(threads=3)):
        with machine.running():
            results.append(case.backpropagated())
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert_allclose(second, first, rtol=1e-11, atol=1e-11)


@pytest.mark.cpu_only("blocks and threads are the CPU's")
def test_small_blocks_are_bands_of_single_rows():
    """The random tests above would test nothing of the bands if the settings did not reach them."""
    geometry = ops.ConvGeometry.of_convolution("test", (7, 5), 3, 1, 1, 1)
    with Machine(block_bytes=1).running():
        blocks = blocks_module.split_into_blocks(get_backend("cpu"), 2, 3, geometry, False, 8, 0)
    assert [(block.images.start, block.rows.start, block.rows.stop) for block in blocks] == [
        (image, row, row + 1) for image in range(2) for row in range(7)
    ]


@pytest.mark.cpu_only("blocks and threads are the CPU's")
def test_a_large_batch_of_small_images_is_cut_into_groups_of_images():
    """Images that are lost at the end of a batch which is no multiple of the block."""
    geometry = ops.ConvGeometry.of_convolution("test", (2, 2), 1, 1, 0, 1)
    with Machine(block_bytes=3 * 4 * 8).running():
        blocks = blocks_module.split_into_blocks(get_backend("cpu"), 7, 1, geometry, True, 8, 0)
    assert [(block.images.start, block.images.stop) for block in blocks] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.cpu_only("blocks and threads are the CPU's")
def test_workers_never_share_an_image_that_both_add_to():
    """Bands of one image overlap in the rows that they add to; two threads there lose additions, now and then."""
    geometry = ops.ConvGeometry.of_convolution("test", (7, 5), 3, 1, 1, 1)
    with Machine(block_bytes=1, threads=2).running():
        cpu = get_backend("cpu")
        blocks = blocks_module.split_into_blocks(cpu, 3, 2, geometry, False, 8, 0)
        whole = blocks_module.share_out(cpu, blocks, whole_images=True)
        even = blocks_module.share_out(cpu, blocks)
        assert blocks_module.share_out(cpu, []) == []
    assert [sorted({block.images.start for block in share}) for share in whole] == [[0], [1, 2]]
    assert [len(share) for share in even] == [10, 11]
    for shares in (whole, even):
        assert [block for share in shares for block in share] == blocks


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_are_equal_bit_for_bit_at_one_number_of_threads(threads):
    """Partial sums added in the order in which threads happen to finish."""
    runs = []
    for _ in range(4):
        x, weight, bias = seeded(3, 8, 33, 31, dtype=np.float32), seeded(8, 8, 3, 3, dtype=np.float32), seeded(8)
        bias = Tensor(bias.data.astype(np.float32), requires_grad=True)
        with Machine(block_bytes=2**14, threads=threads).running():
            y = ops.conv2d(x, weight, bias, padding=1)
            y.backward(np.cos(y.data))
        runs.append([y.data, x.grad, weight.grad, bias.grad])
    for run in runs[1:]:
        for first, second in zip(runs[0], run, strict=True):
            assert_array_equal(first, second)


def peak_bytes(function):
    """The most memory that NumPy holds during the call, beyond what it held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = function()
        return tracemalloc.get_traced_memory()[1] - before, result
    finally:
        tracemalloc.stop()


def test_both_maps_of_the_same_columns_add_up_all_blocks(monkeypatch):
    """The last block's weight gradient in place of the sum; a block's rows of y written where another's are."""
    monkeypatch.setattr(backend_module, "_budget_bytes", 1)  # a row of one image at a time
    backend, geometry = default_backend(), ops.ConvGeometry.of_convolution("test", (7, 6), (3, 2), 2, 1, 1)
    shapes = (2, 4, 7, 6), (6, 2, 3, 2), (2, 6, *geometry.output_size)
    x, weight, grad = (on_device(seeded(*shape, seed=seed).data) for seed, shape in enumerate(shapes))
    y, grad_weight = im2col_route.convolve_and_differentiate(backend, x, weight, grad, geometry, 2)
    assert_allclose(y, im2col_route.convolve(backend, x, weight, None, geometry, 2), rtol=1e-12, atol=1e-12)
    expected = im2col_route.weight_gradient(backend, x, grad, geometry, 2)
    assert_allclose(grad_weight, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.cpu_only("on a GPU both are made from the same columns")
@pytest.mark.parametrize("convolve", [ops.conv2d, ops.conv_transpose2d])
def test_each_gradient_goes_its_own_way(monkeypatch, convolve):
    """From one set of whole patches, block after block, on one thread: right, and several times slower."""
    monkeypatch.setattr("minifcn.ops.im2col_route.convolve_and_differentiate", None)
    x, weight = seeded(1, 2, 6, 6), seeded(2, 2, 3, 3)
    convolve(x, weight, padding=1).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None


@pytest.mark.cpu_only("the memory measured is the host's")
def test_the_columns_are_never_whole():
    """im2col of the whole layer, or kept for backward: 9 times the input, 38 MB here."""
    x, weight = seeded(1, 64, 128, 128, dtype=np.float32), seeded(64, 64, 3, 3, dtype=np.float32)
    columns_bytes = 9 * x.data.nbytes
    with Machine(threads=2).running():
        forward, y = peak_bytes(lambda: ops.conv2d(x, weight, padding=1))
        assert forward < y.data.nbytes + columns_bytes / 3
        seed = np.ones_like(y.data)
        backward, _ = peak_bytes(lambda: y.backward(seed))
    assert backward < x.grad.nbytes + weight.grad.nbytes + columns_bytes / 3


@pytest.mark.cpu_only("the memory measured is the host's")
def test_filter_by_filter_no_transformed_filters_are_whole(monkeypatch):
    """U, seven times as large as the weights, or a dU for each worker to add up: what this way is there to avoid."""
    monkeypatch.setattr(backend_module, "_scratch", threading.local())  # none that an earlier test has left
    x, weight = seeded(1, 256, 8, 8, dtype=np.float32), seeded(256, 256, 3, 3, dtype=np.float32)
    transformed_bytes = 64 * 256 * 256 * 4
    with Machine(threads=2).running(), ops.conv_route("winograd-filters"):
        forward, y = peak_bytes(lambda: ops.conv2d(x, weight, padding=1))
        assert forward < transformed_bytes / 3
        geometry = ops.ConvGeometry.of_convolution("test", (8, 8), 3, 1, 1, 1)
        to_weights = (get_backend("cpu"), x.data, np.ones_like(y.data), geometry, 1)
        backward, _ = peak_bytes(lambda: weight_gradient(*to_weights))
    assert backward < weight.data.nbytes + transformed_bytes / 3


@pytest.mark.cpu_only("the memory measured is the host's")
def test_a_1x1_convolution_does_not_copy_its_input():
    """Columns are the image itself here; fc7 and the score layers are such layers."""
    x, weight = seeded(1, 256, 64, 64, dtype=np.float32), seeded(2, 256, 1, 1, dtype=np.float32)
    with Machine(threads=1).running(), no_grad():
        peak, y = peak_bytes(lambda: ops.conv2d(x, weight))
    assert peak < 2 * y.data.nbytes + x.data.nbytes / 8


@pytest.mark.cpu_only("scratch memory is the CPU's")
def test_columns_hold_no_row_that_no_window_sees(monkeypatch):
    """A 1×1 kernel with stride 4: four times the columns, beyond the budget, and a copy of a quarter of them."""
    sizes, scratch = {}, Backend.scratch

    def watched(self, name, shape, dtype):
        array = scratch(self, name, shape, dtype)
        sizes[name] = array.size
        return array

    monkeypatch.setattr(Backend, "scratch", watched)
    x, geometry = seeded(2, 3, 16, 16).data, ops.ConvGeometry.of_convolution("test", (16, 16), 1, 4, 0, 1)
    block = blocks_module.Block(slice(0, 2), slice(0, 4))
    columns = blocks_module.gather_columns(get_backend("cpu"), x, geometry, block, whole=True)
    assert_array_equal(columns, x.transpose(1, 2, 0, 3)[:, None, ::4, :, ::4])
    assert sizes == {"columns": 2 * 3 * 4 * 4}


@pytest.mark.cpu_only("scratch memory is the CPU's")
@pytest.mark.parametrize(
    ("route", "options", "kernel", "size"),
    [
        ("im2col", {"stride": 4}, 1, (400, 400)),  # a column for each sixteenth pixel, and the pixels between
        ("im2col-rows", {"padding": 3}, 7, (300, 24)),  # blocks of few rows, and six more that they see
    ],
)
def test_what_a_block_sees_counts_too(route, options, kernel, size, monkeypatch):
    """Temporary arrays many times the budget, since only the block's own columns were counted."""
    largest, scratch = {}, Backend.scratch

    def watched(self, name, shape, dtype):
        array = scratch(self, name, shape, dtype)
        largest[name] = max(largest.get(name, 0), array.nbytes)
        return array

    monkeypatch.setattr(Backend, "scratch", watched)
    monkeypatch.setattr(backend_module, "_budget_bytes", 2**18)
    x, weight = seeded(1, 8, *size, dtype=np.float32), seeded(8, 8, kernel, kernel, dtype=np.float32)
    with Machine(threads=1).running(), ops.conv_route(route):
        y = ops.conv2d(x, weight, **options)
        y.backward(np.ones_like(y.data))
    assert largest
    assert max(largest.values()) <= 2**18, largest


def test_an_empty_batch_gives_an_empty_result():
    """The last batch of a filtered data set may hold nothing; sums over nothing are zero."""
    x, weight, bias = seeded(0, 2, 5, 5), seeded(3, 2, 3, 3), seeded(3)
    y = ops.conv2d(x, weight, bias)
    y.backward(np.zeros(y.shape))
    assert y.shape == (0, 3, 3, 3)
    assert x.grad.shape == x.shape
    assert_array_equal(weight.grad, np.zeros(weight.shape))
    assert_array_equal(bias.grad, np.zeros(3))


@pytest.mark.cpu_only("host arrays do not meet tensors of other devices")
def test_weights_may_be_plain_arrays():
    """The interface promises arrays or Tensors for weights."""
    x, weight, bias = seeded(1, 2, 4, 4), seeded(3, 2, 3, 3, seed=1), seeded(3, seed=2)
    assert_array_equal(ops.conv2d(x, weight.data, bias.data).data, ops.conv2d(x, weight, bias).data)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "bias_shape", "arguments", "words"),
    [
        ((1, 4, 8, 8), (64, 3, 3, 3), None, {}, r"input has 4 channels but the weight \(64, 3, 3, 3\) expects 3\."),
        ((1, 4, 8, 8), (6, 4, 3, 3), None, {"groups": 2}, "expects 8 in groups=2"),
        ((1, 4, 8, 8), (3, 2, 3, 3), None, {"groups": 2}, "must divide 3"),
        ((1, 4, 8, 8), (3, 2, 3, 3), None, {"groups": 0}, "groups=0"),
        ((4, 8, 8), (3, 4, 3, 3), None, {}, r"\(N, C, H, W\) is expected"),
        ((1, 4, 8, 8), (3, 4, 3), None, {}, r"\(out, in/groups, kh, kw\) is expected"),
        ((1, 4, 8, 8), (3, 4, 3, 3), (4,), {}, r"bias has shape \(4,\); \(3,\) is expected"),
        ((1, 4, 8, 8), (3, 4, 3, 3), (1, 3), {}, r"bias has shape \(1, 3\)"),
        ((1, 4, 2, 8), (3, 4, 3, 3), None, {}, "larger than the input"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"dilation": (1, 4)}, "more padding"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"stride": 0}, "stride must be at least 1"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"padding": -1}, "padding must be at least 0"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"padding": "same"}, "a whole number or a pair"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"stride": 1.5}, "a whole number or a pair"),
        ((1, 4, 8, 8), (3, 4, 3, 3), None, {"stride": (1, 1, 1)}, "a whole number or a pair"),
        ((1, 0, 8, 8), (3, 0, 3, 3), None, {}, r"weight has shape \(3, 0, 3, 3\)"),
        ((1, 4, 8, 8), (0, 4, 3, 3), None, {}, r"weight has shape \(0, 4, 3, 3\)"),
        ((1, 4, 0, 8), (3, 4, 1, 1), None, {}, "input's size must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(x_shape, weight_shape, bias_shape, arguments, words):
    """A NumPy message about shapes nobody typed, or a silent broadcast."""
    bias = None if bias_shape is None else ones(*bias_shape)
    with pytest.raises(ShapeError, match=words) as caught:
        ops.conv2d(ones(*x_shape), ones(*weight_shape), bias, **arguments)
    assert str(caught.value).startswith("conv2d: ")


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, bool])
def test_only_float32_and_float64_are_taken(dtype):
    """Pixels of a picture (uint8) would overflow in silence; half precision is not planned."""
    with pytest.raises(DtypeError, match=f"not {np.dtype(dtype)}.*astype"):
        ops.conv2d(Tensor(np.ones((1, 1, 3, 3), dtype)), Tensor(np.ones((1, 1, 3, 3), dtype)))


def test_a_mix_of_dtypes_is_refused():
    """float32 pictures and float64 weights would go on in float64, at half the speed, unnoticed."""
    with pytest.raises(DtypeError, match=r"float32, float64.*astype"):
        ops.conv2d(Tensor(np.ones((1, 1, 3, 3), np.float32)), ones(1, 1, 3, 3))


def test_the_gradient_to_fc6s_weights_is_made_where_it_stays():
    """Summed in one array and copied into another: 411 MB more for VGG16's fc6, most of what a network takes."""
    x, weight = Tensor(np.ones((1, 32, 7, 7), np.float32)), seeded(512, 32, 7, 7, dtype=np.float32)
    with Machine(threads=1).running():
        y = ops.conv2d(x, weight, padding=3)
        peak, _ = peak_bytes(lambda: y.backward(np.ones_like(y.data)))
    assert peak < 1.6 * weight.data.nbytes


@pytest.mark.cpu_only("the fake GPU cannot show numbers several times")
@pytest.mark.parametrize(
    ("size", "kernel", "padding"), [((90, 2), 3, (100, 1)), ((2, 130), 3, (1, 100)), ((3, 3), 7, 2), ((1, 1), 3, 1)]
)
def test_every_way_sees_zeros_in_a_wide_frame(size, kernel, padding):
    """A block, or a column of the kernel, that meets nothing but padding: −15 as an end of a slice means another."""
    x, weight = seeded(1, 2, *size), seeded(3, 2, kernel, kernel)
    results = []
    for route in ROUTES:
        with Machine(block_bytes=1500).running(), ops.conv_route(route):
            y = ops.conv2d(x, weight, padding=padding)
            weight.grad = None
            y.backward(y.data)
        results.append((y.data, weight.grad))
    for found in results[1:]:
        assert_allclose(found[0], results[0][0], atol=1e-9)
        assert_allclose(found[1], results[0][1], atol=1e-7)


def test_an_empty_batch_goes_every_way():
    """Rows that cannot be stacked, sums of nothing, reshapes to -1."""
    for route in ROUTES:
        x, weight = seeded(0, 2, 5, 5), seeded(3, 2, 3, 3)
        with ops.conv_route(route):
            y = ops.conv2d(x, weight, padding=1)
            y.backward(np.zeros(y.shape))
        assert (y.shape, x.grad.shape) == ((0, 3, 5, 5), x.shape)
        assert_array_equal(weight.grad, np.zeros(weight.shape))
