"""conv_transpose2d: the multiplication by the transpose of conv2d's sparse matrix."""

import contextlib

import numpy as np
import oracles
import pytest
from devices import assert_allclose, assert_array_equal, to_host
from hypothesis import given
from strategies import ConvCase, Machine, convolutions, random_cases, seeded, transposed_convolutions

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.backend import get_backend
from minifcn.errors import DtypeError, ShapeError
from minifcn.nn import bilinear_weight
from minifcn.ops import geometry as geometry_module
from minifcn.ops import phases
from minifcn.ops.separable import axis_matrices

pytestmark = pytest.mark.usefixtures("device")


def ones(*shape):
    return Tensor(np.ones(shape))


def test_each_number_stamps_the_kernel():
    """Stamps that overwrite (= for +=) give 2 in the middle, and a flipped kernel another order."""
    y = ops.conv_transpose2d(Tensor([[[[1.0, 10.0]]]]), Tensor([[[[1.0, 2.0, 3.0]]]]))
    assert_array_equal(y.data[0, 0], [[1, 2 + 10, 3 + 20, 30]])


def test_stride_spreads_the_stamps():
    """The stride moves the output, not the input."""
    y = ops.conv_transpose2d(Tensor([[[[1.0, 10.0]]]]), Tensor([[[[1.0, 2.0, 3.0]]]]), stride=(1, 2))
    assert_array_equal(y.data[0, 0], [[1, 2, 3 + 10, 20, 30]])


def test_padding_cuts_the_frame_and_output_padding_adds_at_the_end():
    """Output padding at the front, or padding that adds instead of cutting."""
    x, weight = Tensor([[[[1.0, 10.0]]]]), Tensor([[[[1.0, 2.0, 3.0]]]])
    y = ops.conv_transpose2d(x, weight, stride=(1, 2), padding=(0, 1), output_padding=(0, 1))
    assert_array_equal(y.data[0, 0], [[2, 3 + 10, 20, 30]])


def test_output_padding_beyond_the_stride():
    """With dilation 3 and stride 1, two more columns: the number of patches must not be worked out from the output."""
    y = ops.conv_transpose2d(
        Tensor([[[[1.0, 10.0]]]]), Tensor([[[[1.0, 2.0]]]]), dilation=(1, 3), output_padding=(0, 2)
    )
    assert_array_equal(y.data[0, 0], [[1, 10, 0, 2, 20, 0, 0]])


def test_the_weight_is_in_by_out():
    """(out, in, kh, kw), as conv2d has it, would not even fit here."""
    weight = Tensor(np.arange(6.0).reshape(2, 3, 1, 1))
    y = ops.conv_transpose2d(Tensor(np.array([1.0, 10.0]).reshape(1, 2, 1, 1)), weight, Tensor([100.0, 200.0, 300.0]))
    assert_array_equal(y.data.ravel(), [0 + 30 + 100, 1 + 40 + 200, 2 + 50 + 300])


@random_cases
@given(transposed_convolutions())
def test_it_equals_the_loops(case: ConvCase):
    """Any slip in the geometry, up to output_padding = max(stride, dilation) − 1."""
    with case.machine.running():
        y = ops.conv_transpose2d(*case.tensors(), **case.arguments)
    assert_allclose(y.data, oracles.conv_transpose2d(*case.arrays(), **case.arguments), rtol=1e-10, atol=1e-10)


@random_cases
@given(transposed_convolutions())
def test_its_gradients_agree_with_finite_differences(case: ConvCase):
    """A wrong gradient with respect to input, weight or bias."""
    tensors = [tensor for tensor in case.tensors() if tensor is not None]
    with case.machine.running():
        assert gradcheck(lambda *inputs: ops.conv_transpose2d(*inputs, **case.arguments), tensors)


@random_cases
@given(transposed_convolutions())
def test_block_sizes_and_threads_change_nothing_but_rounding(case: ConvCase):
    """A channel that is left out, or written twice, where blocks of channels meet."""
    results = []
    for machine in (Machine(), Machine(block_bytes=1), Machine(block_bytes=700, threads=2)):
        with machine.running():
            x, weight, _ = case.tensors()
            y = ops.conv_transpose2d(x, weight, **case.arguments)
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        results.append([y.data, x.grad, weight.grad])
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert_allclose(second, first, rtol=1e-11, atol=1e-11)


@random_cases
@given(convolutions())
def test_it_is_the_adjoint_of_conv2d(case: ConvCase):
    """⟨C x, y⟩ = ⟨x, Cᵀ y⟩, with both sides from the operations and both from the matrix C itself."""
    x, weight, _ = case.arrays()
    arguments = dict(case.arguments)
    with case.machine.running():
        convolved = ops.conv2d(Tensor(x), Tensor(weight), **arguments).numpy()
        y = np.random.default_rng(case.seed + 1).standard_normal(convolved.shape)
        # What the stride left over at the right and the bottom is the output padding.
        lost = [
            (n + 2 * p - d * (k - 1) - 1) % s
            for n, k, s, p, d in zip(
                x.shape[2:],
                weight.shape[2:],
                arguments["stride"],
                arguments["padding"],
                arguments["dilation"],
                strict=True,
            )
        ]
        spread = ops.conv_transpose2d(Tensor(y), Tensor(weight), **arguments, output_padding=lost).numpy()
    scale = np.abs(convolved * y).sum() + 1
    assert spread.shape == x.shape
    assert abs(np.vdot(convolved, y) - np.vdot(x, spread)) < 1e-10 * scale
    matrix = to_host(ops.conv_matrix(Tensor(weight), x.shape[2:], **arguments))
    for image in range(len(x)):
        assert_allclose(matrix @ x[image].ravel(), convolved[image].ravel(), rtol=1e-10, atol=1e-10)
        assert_allclose(matrix.T @ y[image].ravel(), spread[image].ravel(), rtol=1e-10, atol=1e-10)


@random_cases
@given(convolutions())
def test_it_is_the_gradient_of_conv2d_and_the_other_way_round(case: ConvCase):
    """The two were written apart (slices here, a sparse matrix there) and must be one linear map."""
    case = case.without_bias()
    x, weight, _ = case.tensors()
    with case.machine.running():
        y = ops.conv2d(x, weight, **case.arguments)
        g = np.random.default_rng(case.seed + 1).standard_normal(y.shape)
        y.backward(g)
        matrix = to_host(ops.conv_matrix(weight, x.shape[2:], **case.arguments))
    expected = np.stack([(matrix.T @ image.ravel()).reshape(x.shape[1:]) for image in g])
    assert_allclose(x.grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_multiplies_by_the_cached_sparse_matrix(dtype, batch, monkeypatch):
    """A faster route beside the sparse matrix would not notice that an entry of G has been changed."""
    monkeypatch.setattr(geometry_module, "_cache", geometry_module._ByteBoundedCache(2**20))
    x, weight = Tensor(np.ones((batch, 1, 2, 2), dtype)), Tensor(np.ones((1, 1, 2, 2), dtype))
    before = ops.conv_transpose2d(x, weight, stride=2).numpy()
    assert_array_equal(before, np.ones((batch, 1, 4, 4)))
    patch_matrix = ops.patch_matrix(4, 2, stride=2, dtype=dtype)  # of the convolution 4×4 -> 2×2
    patch_matrix.data[patch_matrix.indices == 0] = 7  # place (0, 0) of the first patch
    after = ops.conv_transpose2d(x, weight, stride=2).numpy()
    assert (before != after).sum() == batch
    assert_array_equal(after[:, 0, 0, 0], [7] * batch)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_bilinear_filter_keeps_a_ramp_a_ramp(stride):
    """A filter of the wrong centre, or a result shifted by half a pixel, bends or moves the line."""
    ramp = np.arange(6.0) * stride + (stride - 1) / 2  # the output coordinate of each input pixel's centre
    x = np.broadcast_to(ramp, (1, 1, 6, 6))
    kernel = 2 * stride
    y = ops.conv_transpose2d(
        Tensor(x.copy()), Tensor(bilinear_weight(1, kernel).astype(float)), stride=stride, padding=stride // 2
    ).numpy()[0, 0]
    assert y.shape == (6 * stride, 6 * stride)
    inside = slice(stride // 2, -(stride // 2))
    assert_allclose(y[inside, inside], np.broadcast_to(np.arange(6.0 * stride), y.shape)[inside, inside], rtol=1e-6)


def test_it_enlarges_and_is_not_an_inverse():
    """(n − 1)·s + k − 2p: the sizes of FCN-8s, and a convolution afterwards does not give the input back."""
    x = seeded(1, 1, 16, 16)
    assert ops.conv_transpose2d(x, ones(1, 1, 4, 4), stride=2).shape == (1, 1, 34, 34)
    assert ops.conv_transpose2d(ones(1, 1, 70, 70), ones(1, 1, 16, 16), stride=8).shape[2:] == (
        568,
        568,
    )
    y = ops.conv2d(ops.conv_transpose2d(x, ones(1, 1, 3, 3)), ones(1, 1, 3, 3))
    assert not np.allclose(y.numpy(), x.numpy())


def test_an_empty_batch_gives_an_empty_result():
    """The last batch of a filtered data set may hold nothing."""
    x, weight, bias = seeded(0, 2, 3, 3), seeded(2, 3, 2, 2), seeded(3)
    y = ops.conv_transpose2d(x, weight, bias, stride=2)
    assert y.shape == (0, 3, 6, 6)
    y.backward(np.zeros(y.shape))
    assert_array_equal(weight.grad, np.zeros(weight.shape))


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "bias_shape", "arguments", "words"),
    [
        ((1, 4, 3, 3), (3, 4, 2, 2), None, {}, r"input has 4 channels but the weight \(3, 4, 2, 2\) expects 3"),
        ((1, 4, 3, 3), (4, 2, 2, 2), None, {"groups": 3}, "groups=3 must divide"),
        ((1, 4, 3, 3), (4, 2, 2, 2), None, {"groups": -1}, "groups=-1"),
        ((4, 3, 3), (4, 2, 2, 2), None, {}, r"\(N, C, H, W\) is expected"),
        ((1, 4, 3, 3), (4, 2, 2), None, {}, r"\(in, out/groups, kh, kw\) is expected"),
        ((1, 4, 3, 3), (4, 2, 2, 2), (2,), {"groups": 2}, r"bias has shape \(2,\); \(4,\) is expected"),
        ((1, 4, 3, 3), (4, 2, 2, 2), None, {"output_padding": 1}, "output_padding .* must be smaller than the stride"),
        ((1, 4, 3, 3), (4, 2, 2, 2), None, {"stride": (3, 1), "output_padding": (2, 1)}, "must be smaller"),
        ((1, 4, 1, 1), (4, 2, 2, 2), None, {"padding": 1}, "use less padding"),
        ((1, 4, 3, 3), (4, 2, 2, 2), None, {"stride": 0}, "stride must be at least 1"),
        ((1, 4, 3, 3), (4, 0, 2, 2), None, {}, r"weight has shape \(4, 0, 2, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(x_shape, weight_shape, bias_shape, arguments, words):
    """A NumPy message about shapes nobody typed, or a silent broadcast."""
    bias = None if bias_shape is None else np.ones(bias_shape)
    with pytest.raises(ShapeError, match=words) as caught:
        ops.conv_transpose2d(Tensor(np.ones(x_shape)), np.ones(weight_shape), bias, **arguments)
    assert str(caught.value).startswith("conv_transpose2d: ")


def test_dtypes_are_refused_as_by_conv2d():
    """A float64 filter (NumPy's default) on float32 scores would promote the rest of the network."""
    x = Tensor(np.ones((1, 1, 3, 3), np.float32))
    with pytest.raises(DtypeError, match="float32, float64"):
        ops.conv_transpose2d(x, ones(1, 1, 2, 2))
    with pytest.raises(DtypeError, match="float16"):
        ops.conv_transpose2d(Tensor(x.data.astype(np.float16)), Tensor(np.ones((1, 1, 2, 2), np.float16)))


@random_cases
@given(transposed_convolutions())
def test_a_kernel_for_each_channel_by_itself_gives_what_the_full_weight_does(case: ConvCase):
    """The matrix for one channel with taps in another order, a bias that is lost, or a gradient by another matrix."""
    channels, kernel = case.x_shape[1], case.weight_shape[2:]
    arguments = {**case.arguments, "groups": 1}
    generator = np.random.default_rng(case.seed)
    weight = np.zeros((channels, channels, *kernel))
    weight[range(channels), range(channels)] = generator.standard_normal(kernel)
    x, bias = seeded(*case.x_shape, seed=case.seed), seeded(channels, seed=1)
    with case.machine.running():
        y = ops.conv_transpose2d(x, Tensor(weight), bias, **arguments)
        assert gradcheck(lambda x, bias: ops.conv_transpose2d(x, Tensor(weight), bias, **arguments), [x, bias])
    expected = oracles.conv_transpose2d(x.numpy(), weight, bias.numpy(), **arguments)
    assert_allclose(y.data, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("place", [(0, 1, 2, 3), (1, 1, 0, 0), (2, 2, 3, 3)])
def test_one_number_off_is_not_taken_for_bilinear_upsampling(place):
    """A weight that has begun to learn, next to the diagonal or on it, computed as if it had not."""
    x, weight = seeded(1, 3, 4, 5), bilinear_weight(3, 4).astype(float)
    weight[place] += 1e-3
    arguments = {"stride": 2, "padding": 1}
    expected = oracles.conv_transpose2d(
        x.numpy(), weight, None, stride=(2, 2), padding=(1, 1), output_padding=(0, 0), dilation=(1, 1), groups=1
    )
    assert_allclose(ops.conv_transpose2d(x, Tensor(weight), **arguments).data, expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x: ops.conv_transpose2d(x, Tensor(weight), **arguments), [x])


def test_an_empty_batch_is_enlarged_to_an_empty_one():
    """The last batch of a filtered data set may hold nothing; a bilinear weight goes a way of its own."""
    x = seeded(0, 3, 5, 5)
    y = ops.conv_transpose2d(x, Tensor(bilinear_weight(3, 4).astype(float)), stride=2, padding=1)
    assert y.shape == (0, 3, 10, 10)


@pytest.mark.cpu_only("the copies are made on the CPU only")
def test_every_copy_of_the_patch_matrix_follows_it(monkeypatch):
    """A copy kept from before, where somebody changes an entry to see what it does; a change too small for a sum."""
    monkeypatch.setattr(geometry_module, "_cache", geometry_module._ByteBoundedCache(2**24))
    x, weight = Tensor(np.ones((1, 2, 60, 60), np.float32)), Tensor(bilinear_weight(2, 16))
    geometry = geometry_module.ConvGeometry.of_transposed("test", (60, 60), (16, 16), 8, 4, 0, 1)
    before = ops.conv_transpose2d(x, weight, stride=8, padding=4).data.copy()
    geometry_module.transposed_patch_matrix(geometry, np.float32, x.backend).data[1000] = 1.01
    assert (ops.conv_transpose2d(x, weight, stride=8, padding=4).data != before).any()
    with ops.conv_route("sparse"):
        once = ops.conv2d(x, Tensor(np.ones((1, 2, 3, 3), np.float32))).data.copy()
        ops.patch_matrix(60, 3).data[...] = 2
        assert_array_equal(ops.conv2d(x, Tensor(np.ones((1, 2, 3, 3), np.float32))).data, 2 * once)


def goes_by_axes(weight, geometry):
    return axis_matrices(get_backend("cpu"), weight, geometry) is not None


@pytest.mark.cpu_only("a GPU goes by the definition")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("kernel", "by_axes"),
    [
        (bilinear_weight(1, 4)[0, 0], True),
        (bilinear_weight(1, 64)[0, 0], True),
        (np.outer([1.0, 2, 0, 1], [3.0, 0, -1, 2]), True),  # zeros, and another kernel across than down
        (np.outer([1.0, 2, 0, 1], [3.0, 0, -1, 2]) + np.eye(4), False),
        (bilinear_weight(1, 4)[0, 0] * (1 + np.eye(4) * 1e-6), False),  # nearly a product
        (np.zeros((4, 4)), False),
    ],
)
def test_only_a_column_times_a_row_goes_along_both_axes(kernel, by_axes, dtype):
    """Rows and columns exchanged, a product that is only nearly one, or a division by zero."""
    weight = np.zeros((3, 3, *kernel.shape), dtype)
    weight[range(3), range(3)] = kernel
    x = seeded(2, 3, 5, 7).data.astype(dtype)
    arguments = {"stride": (2, 3), "padding": (1, 2), "output_padding": (0, 1)}
    geometry = geometry_module.ConvGeometry.of_transposed("test", (5, 7), kernel.shape, (2, 3), (1, 2), (0, 1), 1)
    assert goes_by_axes(weight, geometry) == by_axes
    results = []
    for route in (contextlib.nullcontext(), ops.conv_route("sparse")):
        with route:
            tensor = Tensor(x, requires_grad=True)
            y = ops.conv_transpose2d(tensor, Tensor(weight), **arguments)
            y.backward(np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape))
        assert y.dtype == tensor.grad.dtype == dtype
        results.append([y.data, tensor.grad])
    for one, other in zip(*results, strict=True):
        assert_allclose(one, other, rtol=0, atol=20 * np.finfo(dtype).eps * (1 + np.abs(other).max()))


@pytest.mark.cpu_only("a GPU goes by the definition")
@random_cases
@given(transposed_convolutions())
def test_bilinear_enlarging_at_any_geometry(case: ConvCase):
    """One axis's stride, padding, dilation or output padding taken for the other's; a block of channels left out."""
    channels, kernel = case.x_shape[1], case.weight_shape[2:]
    arguments = {**case.arguments, "groups": 1}
    weight = np.zeros((channels, channels, *kernel))
    weight[range(channels), range(channels)] = np.outer(np.arange(1, kernel[0] + 1), 2 + np.arange(kernel[1]))
    x = seeded(*case.x_shape, seed=case.seed)
    with case.machine.running():
        y = ops.conv_transpose2d(x, Tensor(weight), **arguments)
        assert gradcheck(lambda x: ops.conv_transpose2d(x, Tensor(weight), **arguments), [x])
    assert_allclose(y.data, oracles.conv_transpose2d(x.numpy(), weight, None, **arguments), rtol=1e-10, atol=1e-10)


@pytest.mark.cpu_only("a GPU goes by the definition")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(4, 2, 0, 0), (4, 2, 1, 1), ((2, 6), (1, 3), (0, 5), (0, 2)), ((6, 3), (2, 3), (3, 1), (1, 0)), (2, 2, 3, 1)],
)
def test_phases_give_what_the_definition_does(kernel, stride, padding, output_padding, groups, monkeypatch):
    """Phases in another order, a frame cut off within a cell, groups mixed up; of both convolutions, all three maps."""
    transposed, plain = (4, 3, *np.broadcast_to(kernel, 2)), (6, 4 // groups, *np.broadcast_to(kernel, 2))
    arguments = {"stride": stride, "padding": padding, "groups": groups}
    operations = [
        (lambda x, w: ops.conv_transpose2d(x, w, output_padding=output_padding, **arguments), transposed),
        (lambda x, w: ops.conv2d(x, w, **arguments), plain),
    ]
    splits, split = [], phases.split_weight
    monkeypatch.setattr(phases, "split_weight", lambda *given: splits.append(given) or split(*given))
    for operation, shape in operations:
        results = []
        for route in (contextlib.nullcontext(), ops.conv_route("sparse")):
            x, weight = seeded(2, 4, 7, 8), seeded(*shape, seed=1)
            with route:
                y = operation(x, weight)
                y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
            results.append([y.data, x.grad, weight.grad])
        for one, other in zip(*results, strict=True):
            assert one.shape == other.shape
            assert_allclose(one, other, rtol=1e-11, atol=1e-11)
    assert splits  # or nothing has been compared


def test_phases_beyond_the_budget_go_by_the_definition(monkeypatch):
    """A temporary of the size of the result, however large that is."""
    monkeypatch.setattr("minifcn.backend._budget_bytes", 1000)
    geometry = geometry_module.ConvGeometry.of_transposed("test", (3, 3), 4, 2, 0, 0, 1)
    assert not phases.fit(get_backend("cpu"), geometry, 1, 2, 8)
    assert phases.fit(get_backend("cpu"), geometry, 1, 1, 8)
