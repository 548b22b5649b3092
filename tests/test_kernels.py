"""The CUDA kernels against the functions that they stand in for, `kernel(…)` against `function(…)` in NumPy.

On the fake device the text of the kernels runs on the CPU, compiled as C++ (fake_cupy/cuda_on_cpu.py), which is no GPU
pass: that they run on a GPU is seen under `-m gpu` only. Without a C++ compiler these tests are skipped, and the fake
device computes with the functions instead.
"""

import inspect
import itertools

import devices
import fake_cupy
import numpy as np
import pytest
import scipy.sparse
from cuda_compilers import FINDERS
from devices import assert_allclose, assert_array_equal, on_device, to_host
from fake_cupy import cuda_on_cpu
from hypothesis import given
from hypothesis import strategies as st
from strategies import PoolCase, convolutions, poolings, random_cases, small_convolutions

from minifcn import Tensor, ops
from minifcn.backend import get_backend
from minifcn.kernels import KERNELS, DeviceKernels
from minifcn.kernels import device as kernels_device
from minifcn.kernels.kernel import C_TYPES
from minifcn.ops import blocks, elementwise, loss, pool, reduce, winograd
from minifcn.ops.batch_norm import differentiate, normalise
from minifcn.ops.blocks import Block
from minifcn.ops.pool import pooling_geometry
from minifcn.training import optim

TILES = (winograd.TILE_2, winograd.TILE_4, winograd.TILE_6)
FUNCTIONS = {
    "gather_columns": blocks.gather_columns,
    "scatter_columns": blocks.scatter_columns,
    "write_product": blocks.write_product,
    "evaluate_tiles": winograd.evaluate_tiles,
    "spread_tiles": winograd.spread_tiles,
    "write_tiles": winograd.write_tiles,
    "transform_filters": winograd.transform_filters,
    "filter_gradient": winograd.filter_gradient,
    "sum_channels": reduce.sum_channels,
    "normalise": normalise,
    "differentiate": differentiate,
    "max_pool": pool.max_pool,
    "max_pool_gradient": pool.max_pool_gradient,
    "pass_positive": elementwise.pass_positive,
    "cross_entropy": loss.cross_entropy,
    "cross_entropy_gradient": loss.cross_entropy_gradient,
    "sgd_step": optim.sgd_step,
    "adam_step": optim.adam_step,
}
real_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(params=[devices.FAKE, pytest.param(devices.GPU, marks=pytest.mark.gpu)])
def device(request):
    """A device that has the kernels: the CPU has not."""
    if request.param == devices.GPU:
        with devices.by_default("gpu"):
            yield request.param
    elif cuda_on_cpu.compiler() is None:
        pytest.skip("no C++ compiler (g++, clang++) here: the kernels are run nowhere, the fake device does without")
    else:
        with devices.fake_gpu(), devices.by_default("gpu"):
            yield request.param


def kernels():
    return devices.default_backend().kernels


def by_kernel(name, *arguments, **options):
    """The kernel's answer on the host, and the arguments, as it left them."""
    given = [on_device(value) if isinstance(value, np.ndarray) else value for value in arguments]
    result = getattr(kernels(), name)(*given, **options)
    return to_host(result), [to_host(value) for value in given]


def by_function(name, *arguments, **options):
    given = [value.copy() if isinstance(value, np.ndarray) else value for value in arguments]
    return FUNCTIONS[name](get_backend("cpu"), *given, **options), given


def assert_same(name, *arguments, rtol=1e-12, **options):
    """The kernel's results, and what it leaves in the arrays that it was given, are the function's."""
    found, expected = by_kernel(name, *arguments, **options), by_function(name, *arguments, **options)
    for one, other in zip(_arrays(found), _arrays(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert_allclose(one, other, rtol=rtol, atol=rtol)


def _arrays(value):
    """All arrays in nested tuples and lists."""
    if isinstance(value, list | tuple):
        return [array for one in value for array in _arrays(one)]
    return [np.asarray(value)] if isinstance(value, np.ndarray | np.generic) else []


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def geometry_of(case):
    arguments = [case.arguments.get(key, 1) for key in ("stride", "padding", "dilation")]
    return ops.ConvGeometry.of_convolution("test", case.x_shape[2:], case.weight_shape[2:], *arguments)


def bands(geometry, batch):
    """The whole batch at once; and one image in two bands of rows."""
    height = geometry.output_size[0]
    yield Block(slice(0, batch), slice(0, height))
    for first, last in ((0, height // 2), (height // 2, height)):
        if first < last:
            yield Block(slice(batch - 1, batch), slice(first, last))


@pytest.mark.usefixtures("device")
@random_cases
@given(convolutions())
def test_columns(case):
    """A slip in stride, padding, dilation, the order of columns, or at the edge of a band."""
    x, geometry = case.arrays()[0], geometry_of(case)
    for block in bands(geometry, len(x)):
        assert_same("gather_columns", x, geometry, block, True)
        columns = to_host(kernels().gather_columns(on_device(x), geometry, block, True))
        columns = random(*columns.shape, seed=case.seed)
        assert_same("scatter_columns", columns, x, geometry, block)


@pytest.mark.usefixtures("device")
@random_cases
@given(convolutions(), st.booleans())
def test_products_are_written_with_bias_and_relu(case, relu):
    """Images and rows exchanged, a bias of another channel, or rows of another band overwritten."""
    x, geometry = case.arrays()[0], geometry_of(case)
    y = random(len(x), case.weight_shape[0], *geometry.output_size, seed=1)
    bias = random(y.shape[1], seed=2) if case.bias_shape else None
    for block in bands(geometry, len(x)):
        count = (block.images.stop - block.images.start) * block.row_count * geometry.output_size[1]
        product = random(1, y.shape[1], count, seed=3)
        product.flat[:2] = [np.nan, 0][: product.size]
        assert_same("write_product", product, bias, y, block, relu)


def tile_bands(geometry, batch, tile):
    """All rows of tiles; and those from the middle of an image to the middle of another, or of the same."""
    rows, columns = (-(-size // tile.outputs) for size in geometry.output_size)
    yield winograd.Band(0, batch * rows, rows, columns)
    yield winograd.Band(batch * rows // 3, -(-2 * batch * rows // 3), rows, columns)


@pytest.mark.usefixtures("device")
@random_cases
@given(small_convolutions(), st.sampled_from(TILES), st.booleans(), st.booleans())
def test_winograd_s_tiles(case, tile, channels_last, relu):
    """A tile of another image or channel, or over the edge; a matrix transposed; rows and columns exchanged."""
    x, geometry = case.arrays()[0], geometry_of(case)
    y = random(len(x), case.weight_shape[0], *geometry.output_size, seed=1)
    bias = random(y.shape[1], seed=2) if case.bias_shape else None
    for band in tile_bands(geometry, len(x), tile):
        assert_same("evaluate_tiles", x, band, tile, geometry.padding, channels_last)
        assert_same("spread_tiles", y, band, tile)
        products = random(tile.places, y.shape[1], band.rows * band.columns, seed=3)
        products[:, 0, 0] = np.nan  # at all places: a zero in a matrix stops it in a kernel, not in a product
        assert_same("write_tiles", products, bias, y, band, tile, relu)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.outputs}x{tile.outputs}")
def test_winograd_s_filters(tile):
    """The kernel turned, or the matrix transposed; the sum of one worker for that of all; weights that are a view."""
    weight = random(5, 3, 3, 3)
    assert_same("transform_filters", weight, tile)
    assert_same("transform_filters", weight.swapaxes(0, 1)[..., ::-1], tile)
    assert_same("filter_gradient", random(2, tile.places, 5, 3), tile)


@pytest.mark.usefixtures("device")
def test_large_arrays_are_counted_in_large_numbers(monkeypatch):
    """More elements than an int can count, 2³¹ and up, which no test has."""
    geometry = ops.ConvGeometry.of_convolution("test", (9, 8), 3, 2, 1, 1)
    block = Block(slice(0, 2), slice(0, geometry.output_size[0]))
    monkeypatch.setattr("minifcn.kernels.device.LARGEST_INT", 432)  # x has so many
    assert_same("pass_positive", random(431), random(431, seed=1))
    assert_same("gather_columns", random(2, 3, 9, 8), geometry, block, True)
    types = {key[0]: key[1] for key in kernels()._compiled if key[0] in ("pass_positive", "gather_columns")}
    assert types == {"pass_positive": np.int32, "gather_columns": np.int64}


def test_the_loop_s_next_element_is_an_int_too():
    """The last element of a thread, plus the size of the grid, beyond 2³¹ - 1: it then begins again, at -2³¹."""
    last = kernels_device.LARGEST_INT - 2  # of the largest array that is counted by an int
    assert last + kernels_device.LARGEST_GRID * kernels_device.BLOCK < 2**31


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler here")
def test_no_int_counts_elements(monkeypatch):
    """A product of ints, where arrays have more elements than an int can count; here an int is at most 100."""
    monkeypatch.setattr("minifcn.kernels.device.LARGEST_INT", 0)
    monkeypatch.setattr(cuda_on_cpu, "LIMIT", 100)
    x, small, channel, weight = (random(*shape) for shape in ((3, 5, 13, 11), (3, 5, 7, 6), (5,), (4, 5, 3, 3)))
    rows = x.reshape(3, 5, -1)
    geometry = ops.ConvGeometry.of_convolution("test", (13, 11), 3, 2, 1, 1)
    block, tile = Block(slice(0, 3), slice(0, 7)), winograd.TILE_2
    band = winograd.Band(1, 17, 7, 6)
    product, winners = random(1, 5, 3 * 7 * 6), np.zeros(small.shape, np.uint8)
    labels, pixels = np.zeros((3, 13, 11), np.int64), random(3, 13, 11)
    with devices.fake_gpu() as fake, devices.by_default("gpu"):
        for name, *arguments in (
            ("gather_columns", x, geometry, block, True),
            ("scatter_columns", random(5, 9, 7, 3, 6), x, geometry, block),
            ("write_product", product, channel, small, block, True),
            ("evaluate_tiles", x, band, tile, (1, 1), False),
            ("evaluate_tiles", x, band, tile, (1, 1), True),
            ("spread_tiles", x, band, tile),
            ("write_tiles", random(16, 5, 96), channel, x, band, tile, True),
            ("transform_filters", weight, tile),
            ("filter_gradient", random(2, 16, 4, 5), tile),
            ("sum_channels", x),
            ("normalise", rows, channel, channel, rows.copy(), 1e-3, True),
            ("differentiate", rows, rows, channel, channel, channel, rows, rows.copy()),
            ("pass_positive", x, x),
            ("cross_entropy", x, labels, pixels),
            ("cross_entropy_gradient", x, pixels, np.abs(pixels), labels, pixels, pixels),
        ):
            assert_same(name, *arguments, rtol=1e-9)
        fake.kernels.max_pool(on_device(x), geometry)
        fake.kernels.max_pool_gradient(on_device(small), on_device(x), None, on_device(winners), geometry)
        by_kernel("sgd_step", x, x.copy(), x.copy(), lr=0.1, momentum=0.9, decay=0.1)
        by_kernel("adam_step", x, x.copy(), x * x, x, lr=0.1, betas=(0.9, 0.99), eps=1e-3, decay=0.1, step=3)
        fake.kernels.sparse_times_rows(fake.sparse.identity(90, dtype=np.float64), on_device(random(9, 90)))
        assert {key[0] for key in fake.kernels._compiled} == set(KERNELS)
        kernel = KERNELS["pass_positive"]
        planted = type(kernel)(kernel.parameters, kernel.body.replace("grad_x[i]", "grad_x[(int)i]"))
        monkeypatch.setitem(KERNELS, "pass_positive", planted)
        fake.kernels._compiled.clear()
        with pytest.raises(AssertionError, match="pass_positive has an int beyond 100"):
            by_kernel("pass_positive", x, x)


@pytest.mark.usefixtures("device")
@random_cases
@given(poolings(("distinct", "ties", "minus infinity", "all minus infinity", "nan")))
def test_max_pooling(case: PoolCase):
    """Another winner among equals, −inf or NaN; a gradient to another pixel."""
    stride = case.arguments["stride"] or case.kernel_size
    geometry = pooling_geometry(
        case.shape[2:], case.kernel_size, stride, case.arguments["padding"], 1, case.arguments["ceil_mode"]
    )
    x = Tensor(case.array(), requires_grad=True, device="cpu")
    y, indices = ops.max_pool2d(x, case.kernel_size, **case.arguments, return_indices=True)
    largest, winners = kernels().max_pool(on_device(x.data), geometry)
    assert_array_equal(largest, y.data)
    place_rows, place_columns = np.divmod(to_host(winners).astype(int), geometry.kernel_size[1])
    rows = place_rows + np.arange(geometry.output_size[0])[:, None] * geometry.stride[0] - geometry.padding[0]
    columns = place_columns + np.arange(geometry.output_size[1]) * geometry.stride[1] - geometry.padding[1]
    assert_array_equal(rows * geometry.input_size[1] + columns, indices.data)
    grad = random(*y.shape)
    y.backward(grad)
    device_x = on_device(x.data)
    found = kernels().max_pool_gradient(on_device(grad), device_x, largest, winners, geometry)
    assert_allclose(found, x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("device")
@real_types
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1), (0, 3, 2, 2)])
def test_what_relu_passes(shape, dtype):
    """A slope of 1 at 0; a grid of no blocks, which is an error on a GPU."""
    y = np.maximum(random(*shape, dtype=dtype), 0)
    assert_same("pass_positive", random(*shape, seed=1, dtype=dtype), y)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("parts", [2**18, 15, 1])
@pytest.mark.parametrize("shape", [(2, 3, 35), (1, 5, 1), (3, 1, 8)])
def test_channels(monkeypatch, shape, parts):
    """A part left out, or of another channel or image; a variance by cancellation; what ReLU cut off let through; NaN
    cut off.
    """
    monkeypatch.setattr("minifcn.kernels.device.PARTS", parts)
    x, grad, y = random(*shape), random(*shape, seed=1), np.maximum(random(*shape, seed=2), 0)
    weight, bias, rate = (random(shape[1], seed=seed) for seed in range(3, 6))
    assert_same("sum_channels", x)
    assert_same("sum_channels", x.reshape(*shape, 1))
    for relu in (False, True):
        assert_same("normalise", x + 1e3, weight, bias, np.zeros(shape), 1e-3, relu, rtol=1e-9)
        passed = y if relu else None
        assert_same("differentiate", grad, x, weight, bias, rate, passed, np.zeros(shape), rtol=1e-11)
    x[0, 0, 0] = np.nan
    assert_same("normalise", x, weight, bias, np.zeros(shape), 1e-3, True)


@pytest.mark.usefixtures("device")
def test_a_sum_is_cut_into_so_many_parts(monkeypatch):
    """Three threads that add up all numbers of three channels; or one for each number, and nothing is added up."""
    counts, launch = [], DeviceKernels._launch

    def counted(self, *arguments, count, **options):
        counts.append(count)
        launch(self, *arguments, count=count, **options)

    monkeypatch.setattr(DeviceKernels, "_launch", counted)
    for most in (300, 2000, 2):
        monkeypatch.setattr("minifcn.kernels.device.PARTS", most)
        kernels().sum_channels(on_device(random(2, 3, 400)))
    assert counts == [300, 1200, 3]


@pytest.mark.usefixtures("device")
@real_types
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 2, 2), (4, 3), (0, 3, 2, 2)])
def test_cross_entropy(shape, dtype):
    """Pixels or classes in another order; weights forgotten; overflow at 10⁴."""
    scores = random(*shape, dtype=dtype)
    scores[: len(scores) // 2] *= 1e4
    labels = np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
    weight = np.random.default_rng(2).random(labels.shape).astype(dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_same("cross_entropy", scores, labels, weight, rtol=tolerance)
    _, largest, sums = by_function("cross_entropy", scores, labels, weight)[0]
    for grad in (np.asarray(0.5, dtype), random(*labels.shape, seed=3, dtype=dtype)):
        assert_same("cross_entropy_gradient", scores, largest, sums, labels, weight, grad, rtol=tolerance)


@pytest.mark.usefixtures("device")
@real_types
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("turned", [False, True])
def test_steps_of_the_optimisers(dtype, decay, turned):
    """Another formula, or order of arguments; a decay added after the momentum; arrays in another order of memory."""
    parameter, first, grad = (random(2, 7, seed=seed, dtype=dtype) for seed in range(3))
    second = np.square(random(2, 7, seed=3, dtype=dtype))
    if turned:
        parameter, grad = np.asfortranarray(parameter), grad[::-1, ::-1]
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    assert_same("sgd_step", parameter, first, grad, lr=0.1, momentum=0.9, decay=decay, rtol=tolerance)
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-3, "decay": decay, "step": 3}
    assert_same("adam_step", parameter, first, second, grad, **settings, rtol=tolerance)


@pytest.mark.usefixtures("device")
@real_types
def test_a_sparse_matrix_times_rows(dtype):
    """The transpose of the right answer; a row of the matrix without entries."""
    dense = random(5, 4, dtype=dtype) * (random(5, 4, seed=1) > 0)
    dense[2] = 0
    host = scipy.sparse.csr_matrix(dense)
    matrix = devices.default_backend().sparse.csr_matrix(
        tuple(on_device(part) for part in (host.data, host.indices, host.indptr)), shape=host.shape
    )
    rows = random(3, 4, seed=2, dtype=dtype)
    assert_allclose(kernels().sparse_times_rows(matrix, on_device(rows)), rows @ dense.T, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("device")
def test_more_elements_than_the_grid_has_threads(monkeypatch):
    """What is beyond the largest grid, which no array of a test reaches, left out."""
    monkeypatch.setattr("minifcn.kernels.device.LARGEST_GRID", 2)
    assert_same("pass_positive", random(1500), random(1500, seed=1))


def test_which_kernels_run_where():
    """The functions in the kernels' place on a GPU would be slow, and right, and nobody would notice."""
    assert get_backend("cpu").kernels is None
    with devices.fake_gpu() as backend:
        assert isinstance(backend.kernels, DeviceKernels) or cuda_on_cpu.compiler() is None


def test_every_kernel_has_its_function_and_its_launch():
    """A function that is marked, and whose kernel has another name, or other arguments."""
    for name, function in FUNCTIONS.items():
        backend, *arguments = inspect.signature(function).parameters
        launch = inspect.signature(getattr(DeviceKernels, name)).parameters
        assert (backend, arguments) == ("backend", list(launch)[1:]), name
    launches = inspect.getsource(DeviceKernels)
    assert [name for name in KERNELS if f'"{name}"' not in launches] == []


SLIPS = [
    ("pass_positive", "grad_x[i] =", "grad_x[i + 1] ="),  # outside of the array
    ("pass_positive", "y[i] > 0", "y[i + 1] > 0"),
    ("cross_entropy", "z[labels[i] * positions]", "z[labels[i]]"),
]


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler here")
@pytest.mark.parametrize(("name", "right", "wrong"), SLIPS)
def test_a_slip_in_a_kernel_is_found(monkeypatch, name, right, wrong):
    """Tests that compare the functions with themselves, or a fake that forgives what a GPU does not."""
    labels = np.arange(8).reshape(2, 2, 2) % 3
    arguments = {
        "pass_positive": (random(2, 3), np.full((2, 3), 0.5)),
        "cross_entropy": (random(2, 3, 2, 2), labels, np.ones(labels.shape)),
    }[name]
    kernel = KERNELS[name]
    assert right in kernel.body
    with devices.fake_gpu(), devices.by_default("gpu"):
        assert_same(name, *arguments)
        monkeypatch.setitem(KERNELS, name, type(kernel)(kernel.parameters, kernel.body.replace(right, wrong, 1)))
        kernels()._compiled.clear()
        with pytest.raises(AssertionError):
            assert_same(name, *arguments)


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler here")
def test_what_cuda_would_misread_is_refused():
    """A Python number, or an array of another type, is bytes to a kernel: garbage, without an error."""
    with devices.fake_gpu() as backend:
        x = backend.asarray(np.ones((2, 3), np.float32))
        half = np.float32(0.5)
        code = KERNELS["sgd_step"].source("sgd_step", {"REAL": "float32", "COUNT": "int64"})
        launch = backend.xp.RawModule(code=code).get_function("sgd_step")
        wrong = [(x, x.astype(np.float64), x, half, half, half), (x, x, x, half, half, np.float64(0.5))]
        for arguments in wrong:  # by the library, and by the fake
            with pytest.raises(TypeError, match=r"sgd_step: .* is of float32, not float64"):
                backend.kernels._launch("sgd_step", {"REAL": np.float32}, *arguments, count=6)
            with pytest.raises(TypeError, match=r"sgd_step: .* is given"):
                launch((1,), (32,), (*arguments, np.int64(6)))
        with pytest.raises(TypeError, match=r"sgd_step: .* is given"):
            launch((1,), (32,), (x, x, x[:, ::-1], half, half, half, np.int64(6)))
        with pytest.raises(TypeError, match="whose bytes mean another number"):
            launch((1,), (32,), (x, x, x, 0.5, half, half, np.int64(6)))
        fake_cupy.card.launches.clear()
        optim.sgd_step(backend, x, x.copy(), x.copy(), lr=0.1, momentum=0, decay=0)
        assert fake_cupy.card.launches == ["sgd_step"]


def test_no_kernel_adds_with_atomics_or_waits_for_threads():
    """Results that differ from run to run; and what cuda_on_cpu.py cannot run."""
    for name in KERNELS:
        assert not any(word in KERNELS[name].body for word in ("atomic", "__shared__", "__sync", "__shfl")), name


MATRICES = {  # by which the kernels transform Winograd's tiles
    "evaluate_tiles": {f"_{t.outputs}": t.evaluate_input for t in TILES},
    "spread_tiles": {f"_{t.outputs}": t.interpolate.T for t in TILES},
    "write_tiles": {f"_{t.outputs}": t.interpolate for t in TILES},
    "transform_filters": {f"_{t.outputs}": t.evaluate_filter for t in TILES},
    "filter_gradient": {f"_{t.outputs}": t.evaluate_filter.T for t in TILES},
}


def all_kernels():
    """Every kernel for every set of types, each under a name of its own, in one text."""
    whole = ("int32", "int64")
    choices = {"REAL": ("float32", "float64"), "PLACE": ("uint8", "int64"), "INDEX": whole, "COUNT": whole}
    texts = []
    for name, kernel in KERNELS.items():
        for chosen in itertools.product(*(choices[word] for word in kernel.open_types)):
            assert set(chosen) <= set(C_TYPES)
            for size, matrix in MATRICES[name].items() if kernel.needs_matrix else [("", None)]:
                text = kernel.source(name, dict(zip(kernel.open_types, chosen, strict=True)), matrix)
                texts.append(text.replace(f"void {name}(", f"void {'_'.join((name, *chosen))}{size}(", 1))
    return "\n".join(texts)


@pytest.fixture(params=FINDERS)
def compile_cuda(request):
    """One of NVIDIA's compilers."""
    compile_text = FINDERS[request.param]()
    if compile_text is None:
        pytest.skip(f"{request.param} is not here: the kernels are not compiled by it (pip has nvidia-cuda-nvrtc-cu12)")
    return compile_text


@pytest.mark.parametrize("architecture", ["75", "90"])  # the oldest that CUDA 13 knows, and Hopper
def test_the_kernels_compile(compile_cuda, architecture):
    """A slip in the CUDA, or what CuPy's compiler lacks; that it compiles does not say that it is right."""
    ptx = compile_cuda(all_kernels(), architecture)
    assert ptx.count(".entry") == all_kernels().count("__global__")
    assert ".local" not in ptx  # a tile in memory in place of registers: a loop that was not unrolled
    assert "ld.global.nc" in ptx  # else each load waits for the stores before it, which might be to the same place


@pytest.mark.parametrize(("slip", "words"), [("int a = undeclared;", "undeclared"), ("int unused;", "unused")])
def test_what_does_not_compile_is_told(compile_cuda, slip, words):
    """A test of the test."""
    text = all_kernels().replace(") {", f") {{ {slip}", 1)
    with pytest.raises(AssertionError, match=words):
        compile_cuda(text, "90")
