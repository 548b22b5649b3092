"""The CUDA kernels: their twins against the operations, their launches on the fake device, and whether they compile.

A kernel itself runs only under `-m gpu`; elsewhere nothing here says that one is right on a GPU.
"""

import itertools
import shutil
import subprocess

import devices
import fake_cupy
import numpy as np
import pytest
import scipy.sparse
from devices import assert_allclose, assert_array_equal, on_device, to_host
from hypothesis import given
from strategies import PoolCase, convolutions, poolings, random_cases

from minifcn import Tensor, ops
from minifcn.backend import get_backend
from minifcn.kernels import KERNELS, DeviceKernels, HostKernels, cuda_source, letters
from minifcn.kernels.source import C_TYPES
from minifcn.ops.pool import pooling_geometry
from minifcn.training import SGD, Adam

pytestmark = pytest.mark.usefixtures("device")


def kernels():
    return devices.default_backend().kernels


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def geometry_of(case):
    arguments = {key: case.arguments[key] for key in ("stride", "padding", "dilation")}
    return arguments, ops.ConvGeometry.of_convolution(
        "test", case.x_shape[2:], case.weight_shape[2:], *arguments.values()
    )


def test_which_kernels_run_where(device):
    """Twins on the GPU would be slow, and right, and nobody would notice."""
    assert type(kernels()) is (HostKernels if device == "cpu" else DeviceKernels)
    assert get_backend("cpu").kernels is get_backend("cpu").kernels


@random_cases
@given(convolutions())
def test_im2col_and_col2im_are_the_operations(case):
    """A slip in stride, padding, dilation, the order of columns, or at the edge of a band."""
    arguments, geometry = geometry_of(case)
    x, rows = case.arrays()[0], geometry.output_size[0]
    whole = ops.im2col(Tensor(x), case.weight_shape[2:], **arguments).numpy()  # (N, C·kh·kw, L)
    split, summed = rows // 2, on_device(np.zeros_like(x))
    bands = []
    for first, count in ((0, split), (split, rows - split)):
        if count:
            bands.append(kernels().im2col(on_device(x), geometry, first, count))
            kernels().col2im(bands[-1], summed, geometry, first, count)
    columns = np.concatenate(to_host(bands), axis=2)  # (C, kh·kw, Ho, N, Wo)
    assert_array_equal(columns.transpose(3, 0, 1, 2, 4).reshape(whole.shape), whole)
    back = ops.col2im(Tensor(whole), case.x_shape[2:], case.weight_shape[2:], **arguments)
    assert_allclose(summed, back, rtol=1e-12, atol=1e-12)


@random_cases
@given(poolings(("distinct", "ties", "minus infinity", "all minus infinity", "nan")))
def test_max_pooling_is_the_operation(case: PoolCase):
    """Another winner among equals, −inf or NaN; a gradient to another pixel."""
    x = Tensor(case.array(), requires_grad=True)
    y, indices = ops.max_pool2d(x, case.kernel_size, **case.arguments, return_indices=True)
    stride = case.arguments["stride"] or case.kernel_size
    geometry = pooling_geometry(
        case.shape[2:], case.kernel_size, stride, case.arguments["padding"], 1, case.arguments["ceil_mode"]
    )
    largest, winners = kernels().max_pool(x.data, geometry)
    assert_array_equal(largest, y.data)
    place_rows, place_columns = np.divmod(to_host(winners).astype(int), geometry.kernel_size[1])
    rows = place_rows + np.arange(geometry.output_size[0])[:, None] * geometry.stride[0] - geometry.padding[0]
    columns = place_columns + np.arange(geometry.output_size[1]) * geometry.stride[1] - geometry.padding[1]
    assert_array_equal(rows * geometry.input_size[1] + columns, indices.data)
    grad = on_device(random(*y.shape))
    y.backward(grad)
    assert_allclose(kernels().max_pool_backward(grad, winners, case.shape, geometry), x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 2)])
def test_bias_and_relu_are_the_operations(shape, dtype):
    """A bias of another channel; a slope of 1 at 0."""
    x, bias = random(*shape, dtype=dtype), random(shape[1], seed=1, dtype=dtype)
    bias[0] = 0
    x.flat[0] = 0
    column = bias.reshape(-1, *(1,) * (len(shape) - 2))
    expected = ops.relu(Tensor(x + column))
    y = kernels().bias_relu(on_device(x), on_device(bias))
    assert_array_equal(y, expected)
    in_place = on_device(x.copy())
    assert kernels().bias_relu(in_place, on_device(bias), out=in_place) is in_place
    assert_array_equal(in_place, expected)
    before = Tensor(x + column, requires_grad=True)
    grad = on_device(random(*shape, seed=2, dtype=dtype))
    ops.relu(before).backward(grad)
    assert_array_equal(kernels().relu_backward(grad, y), before.grad)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 2, 2), (4, 3)])
def test_softmax_cross_entropy_is_the_operation(shape, reduction):
    """Pixels or classes in another order; weights forgotten; overflow at 10⁴."""
    scores, labels = 1e4 * random(*shape), np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
    weight = np.random.default_rng(2).random(labels.shape)
    logits = Tensor(scores, requires_grad=True)
    expected = ops.softmax_cross_entropy(logits, labels, mask=weight, reduction=reduction)
    loss, probabilities = kernels().softmax_cross_entropy(*map(on_device, (scores, labels, weight)))
    assert_allclose(to_host(loss).sum() if reduction == "sum" else loss, expected, rtol=1e-12, atol=1e-12)
    grad = on_device(random(*expected.shape, seed=3)) if reduction == "none" else on_device(np.asarray(0.5))
    expected.backward(grad)
    found = kernels().softmax_cross_entropy_backward(probabilities, on_device(labels), on_device(weight), grad)
    assert_allclose(found, logits.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_fused_steps_are_those_of_the_optimisers(dtype):
    """Another formula, another order of the arguments, or a decay that is added after the momentum."""
    values = random(2, 7, dtype=dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    sgd, adam = (Tensor(values.copy(), requires_grad=True) for _ in range(2))
    optimizers = [
        SGD([sgd], lr=0.1, momentum=0.9, weight_decay=0.01),
        Adam([adam], lr=0.1, weight_decay=0.01, eps=1e-3),
    ]
    fused = [on_device(values.copy()) for _ in range(2)]
    velocity, mean, square = (on_device(np.zeros_like(values)) for _ in range(3))
    for step in range(1, 6):
        grad = random(2, 7, seed=step, dtype=dtype)
        for tensor, optimizer in zip((sgd, adam), optimizers, strict=True):
            tensor.grad = on_device(grad)
            optimizer.step()
        kernels().sgd(fused[0], velocity, on_device(grad), lr=0.1, momentum=0.9, decay=0.01)
        kernels().adam(
            fused[1], mean, square, on_device(grad), lr=0.1, betas=(0.9, 0.999), eps=1e-3, decay=0.01, step=step
        )
        assert_allclose(fused[0], sgd.data, rtol=tolerance, atol=tolerance)
        assert_allclose(fused[1], adam.data, rtol=tolerance, atol=tolerance)
    assert to_host(fused[0]).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sparse_matrix_times_rows(dtype):
    """The transpose of the right answer; a row of the matrix without entries."""
    dense = random(5, 4, dtype=dtype) * (random(5, 4, seed=1) > 0)
    dense[2] = 0
    host = scipy.sparse.csr_matrix(dense)
    matrix = devices.default_backend().sparse.csr_matrix(
        tuple(on_device(part) for part in (host.data, host.indices, host.indptr)), shape=host.shape
    )
    rows = random(3, 4, seed=2, dtype=dtype)
    assert_allclose(kernels().csr_times_rows(matrix, on_device(rows)), rows @ dense.T, rtol=1e-5, atol=1e-6)


def test_nothing_is_launched_for_nothing():
    """A grid of no blocks is an error on a GPU."""
    empty = on_device(np.zeros((0, 3, 4, 4), np.float32))
    assert kernels().bias_relu(empty, on_device(np.zeros(3, np.float32))).shape == (0, 3, 4, 4)


@pytest.mark.cpu_only("opens the fake device itself")
def test_what_cuda_would_misread_is_refused():
    """A Python number, or an array of another type, is bytes to a kernel: garbage, without an error."""
    with devices.fake_gpu() as backend:
        x = backend.asarray(np.ones((2, 3), np.float32))
        half = np.float32(0.5)
        launch = backend.xp.RawModule(code=cuda_source("sgd", {"REAL": "float32"})).get_function("sgd")
        wrong = [
            (x, x.astype(np.float64), x, half, half, half),
            (x, x, x[:, ::-1], half, half, half),
            (x, x, x, half, half, np.float64(0.5)),
        ]
        for arguments in wrong:  # by the library, and by the fake
            with pytest.raises(TypeError, match=r"sgd: .* is a contiguous float32, not"):
                backend.kernels._run("sgd", {"REAL": np.float32}, *arguments, count=6)
            with pytest.raises(TypeError, match=r"sgd: .* is given"):
                launch((1,), (32,), (*arguments, np.int64(6)))
        with pytest.raises(TypeError, match="whose bytes mean another number"):
            launch((1,), (32,), (x, x, x, 0.5, half, half, np.int64(6)))
        fake_cupy.card.launches.clear()
        backend.kernels.sgd(x, x.copy(), x.copy(), lr=0.1, momentum=0, decay=0)
        assert fake_cupy.card.launches == ["sgd"]


@pytest.mark.cpu_only("about the text of the kernels")
def test_no_kernel_adds_with_atomics():
    """Results that differ from run to run."""
    for name in KERNELS:
        assert "atomic" not in KERNELS[name].body, name


def all_kernels():
    """Every kernel for every set of types, each under a name of its own, in one text."""
    choices = {"REAL": ("float32", "float64"), "PLACE": ("uint8", "int64"), "INDEX": ("int32", "int64")}
    texts = []
    for name in KERNELS:
        for chosen in itertools.product(*(choices[letter] for letter in letters(name))):
            types = dict(zip(letters(name), chosen, strict=True))
            assert set(chosen) <= set(C_TYPES)
            texts.append(cuda_source(name, types).replace(f"void {name}(", f"void {'_'.join((name, *chosen))}(", 1))
    return "\n".join(texts)


@pytest.mark.cpu_only("compiled once")
def test_the_kernels_compile(tmp_path):
    """A slip in the CUDA, where a compiler is at hand; that it compiles does not say that it is right."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("no CUDA compiler (nvcc) here; the kernels are compiled under -m gpu only")
    source = tmp_path / "kernels.cu"
    source.write_text(all_kernels(), encoding="utf-8")
    options = ["-ptx", "-arch=sm_90", "--Werror", "all-warnings", "-o", str(tmp_path / "kernels.ptx")]
    result = subprocess.run([nvcc, *options, str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "kernels.ptx").read_text().count(".entry") == all_kernels().count("__global__")
