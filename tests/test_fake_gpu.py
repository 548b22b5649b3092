"""The fake device says no where a GPU would, and everything that is whole runs on it.

Nothing here was computed on a GPU. What is planted here in an operation works on the CPU, and must fail on the fake.
"""

import ast
import importlib.util
import json
import pickle
import sys
import threading
import types
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import devices
import fake_cupy
import numpy as np
import pytest
import scipy.sparse
from devices import assert_allclose, assert_array_equal
from fake_cupy import cuda_on_cpu, derive
from fake_cupy.array import FACTS
from networks import fill
from numpy.testing import assert_array_equal as assert_host_array_equal
from safetensors.numpy import load_file
from strategies import seeded
from tiny_runs import call, few_pictures, start, tiny

import minifcn
from minifcn import Tensor, evaluate, models, no_grad, ops, predict, training
from minifcn.autograd.function import Function
from minifcn.benchmarking.measuring import Effort, Turns
from minifcn.data import Loader, Shapes
from minifcn.errors import DeviceError, TrainingError
from minifcn.kernels.elements import ELEMENTS
from minifcn.kernels.windows import WINDOWS
from minifcn.models import surgery
from minifcn.models.dense_prediction import atrous, framed
from minifcn.ops import winograd
from minifcn.ops.conv import share_columns
from minifcn.training import SGD, Adam, loop, segmentation_loss
from minifcn.training.losses import LOSSES
from minifcn.weights import Preprocessing

PACKAGE = Path(minifcn.__file__).parent


@pytest.fixture
def fake():
    """The fake device's backend, as the library opened it."""
    with devices.fake_gpu() as backend:
        yield backend


def planted(compute):
    """An operation that computes y = compute(xp, x)."""

    class Planted(Function):
        @staticmethod
        def forward(ctx, x):
            return compute(ctx.backend.xp, x)

    return Planted.apply


# Each works on the CPU, and on a GPU would be an error.
REFUSED = {
    "a host constant": lambda xp, x: x + np.ones(3),
    "a host constant on the left": lambda xp, x: np.ones(3) * x,
    "a host array in a function": lambda xp, x: xp.where(x > 0, x, np.zeros(3)),
    "a host mask": lambda xp, x: x[np.array([True, False, True])],
    "a host array assigned": lambda xp, x: xp.copyto(x, np.ones(3)) or x,
    "a host array written into": lambda xp, x: xp.add(x, x, out=np.empty(3)),
    "conversion in secret": lambda xp, x: xp.asarray(np.asarray(x) * 2),
    "NumPy fed with a device array": lambda xp, x: xp.asarray(np.array([x.max(), x.min()])),
    "a sum as a host number": lambda xp, x: xp.asarray(np.ones(3) * x.sum()),
    "a SciPy matrix": lambda xp, x: xp.asarray(scipy.sparse.identity(3, format="csr") @ x),
    "numbers in a list": lambda xp, x: x * xp.sum([1.0, 2.0]),
    "comparison with a list": lambda xp, x: (x == [1.0, 2.0, 3.0]) * x,
    "where= of a ufunc": lambda xp, x: xp.divide(x, x, out=xp.zeros_like(x), where=x > 0),
    "where= of a sum": lambda xp, x: xp.sum(x, where=x > 0).reshape(1),
    "initial= of a maximum": lambda xp, x: x.max(initial=0).reshape(1),
    "out= of einsum": lambda xp, x: xp.einsum("i,i->i", x, x, out=xp.empty_like(x)),
    "a function that CuPy lacks": lambda xp, x: xp.insert(x, 0, 1.0),
    "errstate": lambda xp, x: xp.errstate(all="ignore") and x,
    "a read-only array": lambda xp, x: setattr(x.flags, "writeable", True) or x,
    "reduce of a ufunc that has none": lambda xp, x: np.hypot.reduce(x).reshape(1),
    "permutation of CuPy's generator": lambda xp, x: x[xp.random.default_rng(0).permutation(3)],
    "shuffle of CuPy's generator": lambda xp, x: xp.random.default_rng(0).shuffle(x) or x,
    "choice of CuPy's generator": lambda xp, x: x[xp.random.default_rng(0).choice(3, 3)],
    "a generator whose state is saved": lambda xp, x: x * len(pickle.dumps(xp.random.default_rng(0))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(fake, name):
    """A fake that lets one of these through says nothing about a GPU."""
    operation = planted(REFUSED[name])
    assert operation(Tensor([1.0, 2.0, 3.0])).device == "cpu"
    with pytest.raises((TypeError, ValueError, AttributeError, DeviceError)):
        operation(Tensor([1.0, 2.0, 3.0], device="gpu"))


def last_wins(xp, x):
    y = xp.zeros(2, x.dtype)
    y[xp.asarray([0, 1, 0])] = x
    return y


# Each gives other numbers on a GPU than on the CPU, without a word.
OTHERWISE = {
    "a place that is assigned twice": (last_wins, [3.0, 2.0]),
    "random numbers": (lambda xp, x: x * xp.random.default_rng(0).random(3), None),
    "a reduction is an array": (lambda xp, x: x * isinstance(x.sum(), np.floating), [1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_a_gpu_does_otherwise_is_done_otherwise(fake, name):
    """The same numbers as on the CPU would hide what the operation relies on."""
    compute, expected = OTHERWISE[name]
    on_cpu = planted(compute)(Tensor([1.0, 2.0, 3.0])).numpy()
    if expected is not None:
        assert_host_array_equal(on_cpu, expected)
    assert (planted(compute)(Tensor([1.0, 2.0, 3.0], device="gpu")).numpy() != on_cpu).any()


@pytest.mark.parametrize(
    "look_up",
    [
        lambda xp, x: x[xp.asarray([2, 3])],
        lambda xp, x: xp.take(x, xp.asarray([2, 3])),
        lambda xp, x: xp.take_along_axis(x, xp.asarray([2, 3]), 0),
    ],
)
def test_an_index_out_of_range_wraps_around(fake, look_up):
    """An error on the CPU, another element on a GPU: a label of 255 in 21 classes reads class 3."""
    with pytest.raises(IndexError):
        planted(look_up)(Tensor([1.0, 2.0, 3.0]))
    assert_array_equal(planted(look_up)(Tensor([1.0, 2.0, 3.0], device="gpu")).numpy(), [3, 1])
    with pytest.raises(IndexError):  # a plain number is checked
        planted(lambda xp, x: x[3])(Tensor([1.0, 2.0, 3.0], device="gpu"))


def add_at(xp, x):
    y = xp.zeros(1, x.dtype)
    np.add.at(y, xp.zeros(len(x), int), x)
    return y


def transposed_product(sparse):
    def compute(xp, x):
        matrix = sparse.csr_matrix((x, xp.zeros(len(x), np.int32), xp.arange(len(x) + 1)), shape=(len(x), 1))
        return matrix.T @ xp.ones(len(x), x.dtype)

    return compute


def scatter_add(xp, x):
    y = xp.zeros(1, x.dtype)
    sys.modules["cupyx"].scatter_add(y, xp.zeros(len(x), int), x)
    return y


@pytest.mark.parametrize("how", ["add.at", "scatter_add", "bincount", "transpose of a CSR"])
def test_sums_by_atomics_differ_from_run_to_run(fake, how):
    """Runs that are equal on the fake and differ on a GPU: resuming, and every bug that is looked for by bits."""
    compute = {
        "add.at": add_at,
        "scatter_add": scatter_add,
        "bincount": lambda xp, x: xp.bincount(xp.zeros(len(x), int), weights=x).astype(x.dtype),
        "transpose of a CSR": transposed_product(fake.sparse),
    }[how]
    numbers = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-8, 8).repeat(63)[:1000]
    sums = {planted(compute)(Tensor(numbers, device="gpu")).item() for _ in range(10)}
    assert len(sums) > 1
    assert_allclose(list(sums), numbers.sum(), rtol=1e-9)


# Each makes the host stand still until the device has done all that it was asked for.
LOOKS = {
    "float": lambda xp, x: x * float(x.sum()),
    "int": lambda xp, x: x * int(x.sum()),
    "bool": lambda xp, x: x if x.any() else -x,
    "item": lambda xp, x: x * x.max().item(),
    "tolist": lambda xp, x: x * len(x.tolist()),
    "as an index": lambda xp, x: x[x.astype(int).min() :],
    "as a size": lambda xp, x: xp.zeros(x.astype(int).max()),
    "what is not zero": lambda xp, x: x * xp.nonzero(x > 1)[0].size,
    "as a mask": lambda xp, x: x[x > 1],
    "assigned to a mask": lambda xp, x: x.__setitem__(x > 1, x[1:]) or x,
    "counted": lambda xp, x: xp.bincount(x.astype(int)).astype(x.dtype),
    "printed": lambda xp, x: x * len(f"{x.sum()}"),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_a_number_is_counted(fake, name):
    """An operation that waits, in a step that is to wait once: on the CPU nobody notices, on a GPU it idles."""
    operation = planted(LOOKS[name])
    assert operation(Tensor([1.0, 2.0, 3.0])).device == "cpu"
    x = Tensor([1.0, 2.0, 3.0], device="gpu")
    before = fake_cupy.card.synchronizations
    operation(x)
    assert fake_cupy.card.synchronizations > before


@pytest.mark.parametrize(
    "multiply", [lambda xp, x: xp.matmul(x, x), lambda xp, x: x @ x, lambda xp, x: xp.einsum("bij,bjk->bik", x, x)]
)
def test_products_of_three_dimensions_are_counted(fake, multiply):
    """For the test below, which asks a network for them: einsum is one, too."""
    fake_cupy.card.products.clear()
    planted(multiply)(Tensor(np.ones((2, 3, 3)), device="gpu"))
    assert fake_cupy.card.products == [3]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16])
def test_sparse_matrices_of_whole_numbers_or_halves_are_refused(fake, dtype):
    """SciPy takes them; CuPy has bool, float32, float64 and complex."""
    parts = np.ones(2, dtype), np.array([0, 1]), np.array([0, 1, 2])
    if dtype is not np.float16:
        scipy.sparse.csr_matrix(parts)
    with pytest.raises(ValueError, match="Only bool, float32"):
        fake.sparse.csr_matrix(tuple(fake.asarray(part) for part in parts))
    with pytest.raises(TypeError, match=r"Unsupported type.*ndarray"):
        fake.sparse.csr_matrix((np.ones(2), np.array([0, 1]), np.array([0, 1, 2])))
    matrix = fake.sparse.identity(2, dtype=np.float32)
    with pytest.raises(TypeError):
        matrix @ np.ones(2, np.float32)


def test_the_fake_has_what_the_installed_cupy_has():
    """Facts of another version. Only with CuPy installed, which needs no GPU for this."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    import cupy
    import cupyx.scipy.sparse

    found = json.loads(json.dumps(derive.derive(cupy, cupyx.scipy.sparse)))
    if found["cupy"] != FACTS["cupy"]:
        pytest.skip(f"facts.json is of CuPy {FACTS['cupy']}, not {found['cupy']}")
    assert found == FACTS


def test_what_numpy_has_and_cupy_lacks_is_not_there(fake):
    """The fake must not offer what its own NumPy offers."""
    there = {*FACTS["shared"], *FACTS["ufuncs"], *FACTS["functions"]}
    there |= {n for n in np.__all__ if n.startswith("_") or isinstance(getattr(np, n), types.ModuleType)}
    lacking = set(np.__all__) - there
    assert {"insert", "nditer", "errstate", "einsum_path"} <= lacking
    assert not any(hasattr(fake.xp, name) for name in lacking)
    assert not any(hasattr(fake.xp.zeros(1), name) for name in ("setflags", "resize", "ctypes"))


# The library on the fake


def calls_without_device(source: str) -> list[str]:
    """Calls that would make something on the CPU whatever the device is: those of _SAYING without device=."""
    saying = {"Tensor", "patch_matrix", "evaluate", "predict_labels", "label_pixels", "worst_sheet", "load_segmenter"}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            says = any(keyword.arg in ("device", None) for keyword in node.keywords)
            handed_on = any("device" in ast.unparse(argument) for argument in node.args)
            if name in saying and not says and not handed_on:
                found.append(f"line {node.lineno}: {name}")
    return found


def test_the_library_says_where_every_tensor_is_made():
    """A constant of the network left on the CPU, which tests that make all on one device by default do not see."""
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        on_purpose = path.name in ("tensor.py", "geometry.py", "torch_records.py")  # from the host, or another Tensor
        if not on_purpose and (found := calls_without_device(path.read_text(encoding="utf-8"))):
            wrong[path.name] = found
    assert wrong == {}
    assert calls_without_device("y = Tensor(x)\nz = Tensor(x, device=d)\nevaluate(m, s, p)") == [
        "line 1: Tensor",
        "line 3: evaluate",
    ]


@pytest.mark.parametrize(
    ("make", "size"), [(surgery.fully_convolutional, 224), (surgery.fold_batch_norm, 32), (framed, 2), (atrous, 2)]
)
def test_a_network_made_of_another_is_where_that_is(fake, make, size):
    """Left on the CPU, which tests that make all on one device by default do not see either."""
    made = make(models.VGG11(3, 1, 2, batch_norm=True).eval().to("gpu"))
    assert {parameter.device for parameter in made.parameters()} == {"gpu"}
    with no_grad():
        assert made(Tensor(np.ones((1, 3, size, size), np.float32), device="gpu")).device == "gpu"


def test_tensors_of_two_devices_are_refused_with_the_remedy(fake):
    """What CuPy says of it names neither tensor."""
    x, y = Tensor(np.ones(3), device="gpu"), Tensor(np.ones(3))
    with pytest.raises(DeviceError, match=r"different devices \(gpu, cpu\); move them together with \.to\(device\)"):
        x + y
    with pytest.raises(
        DeviceError, match=r"a host array meets a tensor on gpu; wrap it in Tensor\(array, device='gpu'"
    ):
        x * np.ones(3)
    z = (x.to("cpu") + y).to("gpu")
    assert z.device == "gpu"
    assert_array_equal(z.data, [2, 2, 2])


def test_a_gradient_comes_back_from_the_device(fake):
    """A copy between devices that cuts the graph."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.to("gpu") * 3.0).sum().backward()
    assert_array_equal(x.grad, [3, 3])
    assert isinstance(x.grad, np.ndarray)


def test_matrix_products_of_a_network_are_two_dimensional_with_tf32(fake, monkeypatch):
    """CuPy's products of three dimensions take neither TF32 nor half precision: several times slower on a GPU."""
    monkeypatch.setenv("CUPY_TF32", "1")
    network = models.FCN8s(3, width=16, fc_width=4, geometry="same").to("gpu")
    fake_cupy.card.products.clear()
    images = Tensor(np.ones((2, 3, 40, 33), np.float32), device="gpu")
    ops.softmax_cross_entropy(network(images), np.zeros((2, 40, 33), np.uint8)).backward()
    assert len(fake_cupy.card.products) > 30
    assert max(fake_cupy.card.products) == 2


def training_step(network, optimizer, loss, size=(2, 3, 40, 33)):
    """A function that does one step, with the one number that a run waits for."""
    images = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (size[0], *size[2:])).astype(np.uint8)

    def step():
        optimizer.zero_grad()
        value = loss(network(Tensor(images, device="gpu")), labels, np.random.default_rng(0))
        value.item()
        value.backward()
        optimizer.step()

    return step


NETWORKS = {
    "FCN-8s": lambda: models.FCN8s(3, width=2, fc_width=4, geometry="same"),
    "FCN-8s with dropout, on small maps": lambda: models.FCN32s(3, width=1, fc_width=4, dropout=0.5),
    "FCN-Basic, with batch normalisation": lambda: models.FCNBasic(3, width=4),
}


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_waits_for_the_device_once(fake, network, loss, optimizer):
    """The host stands still until the device has done everything so far: once a step, for the loss."""
    network = NETWORKS[network]().to("gpu").train()
    weights = None if loss == "dice" else np.array([1.0, 2.0, 3.0])
    step = training_step(network, optimizer(network.parameters(), lr=0.1), segmentation_loss(loss, "mean", weights))
    step()  # the first builds the sparse matrices
    before = fake_cupy.card.synchronizations
    step()
    assert fake_cupy.card.synchronizations - before == 1


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
def test_a_step_launches_the_kernels(fake):
    """Array expressions in their place, several times slower on a GPU."""
    network = models.FCN8s(3, width=2, fc_width=4, geometry="same").to("gpu")
    step = training_step(network, SGD(network.parameters(), lr=0.1, momentum=0.9), segmentation_loss())
    step()
    fake_cupy.card.launches.clear()
    step()
    launched = Counter(fake_cupy.card.launches)
    # scatter_columns is for strides, and for more filters than channels where a kernel is larger than 3×3.
    others = {"adam_step", "sparse_times_rows", "scatter_columns"}
    assert {*WINDOWS, *ELEMENTS, "sum_channels"} - set(launched) <= others
    assert launched["max_pool"] == launched["max_pool_gradient"] == 5
    assert launched["pass_positive"] == 15  # after each convolution but the three that score
    assert launched["cross_entropy"] == launched["cross_entropy_gradient"] == 1
    assert launched["sgd_step"] == len(list(network.parameters())) - 1  # upscore8 is fixed


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
def test_batch_normalisation_is_few_launches(fake):
    """A launch for each array expression: forward, some ten arrays are read or written then, where four are enough."""
    x, weight, bias = (Tensor(np.ones(shape, np.float32), device="gpu") for shape in ((2, 3, 8, 8), 3, 3))
    x.requires_grad = weight.requires_grad = bias.requires_grad = True
    running = [fake.asarray(np.ones(3, np.float32)) for _ in range(2)]
    fake_cupy.card.launches.clear()
    y = ops.batch_norm(x, weight, bias, running_mean=running[0], running_var=running[1], training=True, relu=True)
    y.sum().backward()
    expected = ["sum_channels", "sum_squares", "normalise", "sum_gradients", "batch_norm_gradient"]
    assert fake_cupy.card.launches == expected


def test_each_map_of_a_convolution_is_one_product(fake):
    """One for each row of the kernel, each image, or each block that fits a processor's cache: too small for a GPU."""
    x = Tensor(np.ones((2, 16, 160, 150), np.float32), device="gpu", requires_grad=True)
    weight = Tensor(np.ones((8, 16, 3, 3), np.float32), device="gpu", requires_grad=True)
    fake_cupy.card.products.clear()
    ops.conv2d(x, weight, padding=1).sum().backward()
    assert fake_cupy.card.products == [2, 2, 2]  # y, and the gradients to x and weight


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
@pytest.mark.parametrize(
    ("filters", "kernel", "options", "copies"),
    [
        (8, 3, {"padding": 1}, (1, 0)),
        (15, 3, {"padding": 1}, (1, 0)),  # 3·15 columns of g in place of 2·15 and 2·8 of x
        (17, 3, {"padding": 1}, (2, 0)),
        (10, 5, {"padding": 2}, (1, 0)),  # 3·10 in place of 4·8
        (11, 5, {"padding": 2}, (1, 1)),
        (8, 3, {"padding": 1, "groups": 2}, (1, 0)),
        (8, 3, {"padding": 2, "dilation": 2}, (1, 0)),
        (8, 3, {"padding": 1, "stride": 2}, (1, 1)),
        (8, 3, {"padding": 3}, (1, 1)),  # more than a kernel reaches
    ],
)
def test_both_gradients_of_a_convolution_read_the_same_columns(fake, monkeypatch, filters, kernel, options, copies):
    """Columns copied twice, each time for as long as a product takes with TF32; or the much larger ones of the two."""
    monkeypatch.setenv("CUPY_TF32", "1")
    x, weight = seeded(2, 8, 17, 21).data, seeded(filters, 8 // options.get("groups", 1), kernel, kernel).data
    gradients = []
    for device in ("gpu", "cpu"):
        tensors = [Tensor(array, device=device, requires_grad=True) for array in (x, weight)]
        y = ops.conv2d(*tensors, **options)
        fake_cupy.card.launches.clear()
        (y * y).sum().backward()
        if device == "gpu":
            launches = fake_cupy.card.launches
            assert (launches.count("gather_columns"), launches.count("scatter_columns")) == copies
        gradients.append([tensor.grad for tensor in tensors])
    for found, expected in zip(*gradients, strict=True):
        assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("groups", "shared"), [(1, False), (2, True)])
def test_columns_are_shared_where_winograd_s_way_is_closed(fake, monkeypatch, groups, shared):
    """In float32 the sets of a convolution with groups, which has no other way, would copy their columns twice."""
    monkeypatch.setenv("CUPY_TF32", "0")
    geometry = ops.ConvGeometry.of_convolution("test", (20, 20), 3, 1, 1, 1)
    grad = fake.asarray(np.zeros((1, 32, 20, 20), np.float32))
    assert share_columns(fake, grad, 32, geometry, groups) == shared


@pytest.mark.parametrize("convolve", [ops.conv2d, ops.conv_transpose2d])
@pytest.mark.parametrize("needed", [0, 1])
def test_a_gradient_that_nobody_asks_for_is_not_made(fake, convolve, needed):
    """That of the pictures, or of fixed weights, because the other one needs the same columns."""
    tensors = [Tensor(seeded(*shape).data, device="gpu") for shape in ((1, 2, 6, 6), (2, 2, 3, 3))]
    tensors[needed].requires_grad = True
    y = convolve(*tensors, padding=1)
    fake_cupy.card.products.clear()
    y.sum().backward()
    assert fake_cupy.card.products == [2]


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
def test_both_gradients_of_a_transposed_convolution_read_the_same_columns(fake):
    """As above. Here both gradients need those of the output's gradient, whatever their number."""
    gradients = []
    for device in ("gpu", "cpu"):
        arrays = seeded(2, 4, 5, 6).data, seeded(4, 3, 4, 4).data
        tensors = [Tensor(array, device=device, requires_grad=True) for array in arrays]
        y = ops.conv_transpose2d(*tensors, stride=2, padding=1)
        fake_cupy.card.launches.clear()
        (y * y).sum().backward()
        if device == "gpu":
            assert fake_cupy.card.launches == ["gather_columns", "write_product"]
        gradients.append([tensor.grad for tensor in tensors])
    for found, expected in zip(*gradients, strict=True):
        assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
@pytest.mark.parametrize(("size", "tile"), [((40, 50), winograd.TILE_6), ((20, 21), winograd.TILE_4)])
def test_in_float32_a_convolution_of_many_channels_goes_winograd_s_way(fake, monkeypatch, size, tile):
    """im2col, with five times the multiplications; or V or U copied, to turn them round, before a product."""
    monkeypatch.setenv("CUPY_TF32", "0")
    x = Tensor(seeded(2, 16, *size, dtype=np.float32).data, device="gpu", requires_grad=True)
    weight = Tensor(seeded(20, 16, 3, 3, dtype=np.float32).data, device="gpu", requires_grad=True)
    operands, matmul = [], fake.xp.matmul

    def watched(left, right, out):
        operands.append((left, right))
        return matmul(left, right, out=out)

    fake_cupy.card.launches.clear()
    with monkeypatch.context() as patch:
        patch.setattr(fake.xp, "matmul", watched)
        ops.conv2d(x, weight, padding=1, relu=True).sum().backward()
    assert Counter(fake_cupy.card.launches) == {
        "transform_filters": 2,  # of the weights, and turned, for the gradient to x
        "evaluate_tiles": 3,
        "write_tiles": 2,
        "spread_tiles": 1,
        "filter_gradient": 1,
        "pass_positive": 1,
    }
    assert [left.shape[0] for left, _ in operands] == [tile.places] * 3
    assert all(side.flags.c_contiguous for pair in operands for side in pair)
    tensors = [Tensor(tensor.numpy(), requires_grad=True) for tensor in (x, weight)]
    ops.conv2d(*tensors, padding=1, relu=True).sum().backward()
    for found, expected in zip((x, weight), tensors, strict=True):
        assert_allclose(found.grad, expected.grad, rtol=1e-4, atol=1e-4 * np.abs(expected.grad).max())


def test_the_memory_of_a_convolution_keeps_to_the_budget(fake, monkeypatch):
    """All columns at once: 9 times the input; or those of two bands, the last and the next, at a time."""
    monkeypatch.setattr(minifcn.backend, "_budget_bytes", 2**20)
    x = Tensor(np.ones((2, 8, 150, 150), np.float32), device="gpu", requires_grad=True)
    weight = Tensor(np.ones((8, 8, 3, 3), np.float32), device="gpu", requires_grad=True)
    before = fake_cupy.card.used_bytes
    fake_cupy.card.peak_bytes = 0
    y = ops.conv2d(x, weight, padding=1)
    assert fake_cupy.card.peak_bytes - before < y.data.nbytes + 1.5 * 2**20
    assert 9 * x.data.nbytes > 10 * 2**20
    grad = fake.asarray(np.ones(y.shape, np.float32))
    before, fake_cupy.card.peak_bytes = fake_cupy.card.used_bytes, 0
    y.backward(grad)
    assert fake_cupy.card.peak_bytes - before < x.data.nbytes + 1.5 * 2**20  # the gradient, and columns


def test_winograd_s_products_are_not_cut(fake):
    """Into small ones, as a processor's BLAS likes them: hundreds of little ones, by way of an array of pointers."""
    left, right, out = (fake.asarray(np.ones(shape, np.float32)) for shape in ((2, 64, 64), (2, 64, 999), (2, 64, 999)))
    assert winograd.count_cuts(64, right[0].size) > 1
    fake_cupy.card.products.clear()
    winograd.multiply(fake, left, right, out)
    assert fake_cupy.card.products == [3]
    assert_array_equal(out, np.full(out.shape, 64))


def test_bands_are_as_large_as_the_budget(fake, monkeypatch):
    """Of a few megabytes, as fit a processor's cache: dozens of launches for one layer."""
    geometry = ops.ConvGeometry.of_convolution("test", (600, 600), 3, 1, 1, 1)
    for size, bands in ((2**27, 1), (2**25, 2)):  # V has 41 MB
        monkeypatch.setattr(minifcn.backend, "_budget_bytes", size)
        assert [len(share) for share in winograd.split(fake, 1, geometry, winograd.TILE_6, 16, 16, 4)] == [bands]


def test_the_definition_takes_as_many_channels_at_a_time_as_the_budget_allows(fake, monkeypatch):
    """Of a few megabytes, likewise; or all at once, which for one layer are gigabytes."""
    x, weight = (Tensor(np.ones(shape, np.float32), device="gpu") for shape in ((1, 2, 60, 60), (2, 32, 4, 4)))
    for size, blocks in ((2**27, 1), (2**22, 2)):  # the columns have 7 MB
        monkeypatch.setattr(minifcn.backend, "_budget_bytes", size)
        fake_cupy.card.products.clear()
        ops.conv_transpose2d(x, weight, stride=2)
        assert len(fake_cupy.card.products) == blocks


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler: the fake device has no kernels here")
@pytest.mark.parametrize("turned", [False, True])
def test_the_memory_of_winograd_s_way_keeps_to_the_budget(fake, monkeypatch, turned):
    """V and M of a band, or V and dM; those of the last band held while the next are made; or a copy of the whole batch
    for each band, where a kernel cannot read the array as it lies: a second image is all that is copied.
    """
    monkeypatch.setenv("CUPY_TF32", "0")
    monkeypatch.setattr(minifcn.backend, "_budget_bytes", 2**20)
    arrays = [fake.asarray(np.ones((6, 16, 96, 96), np.float32)) for _ in range(2)]
    if turned:
        arrays = [array.swapaxes(2, 3) for array in arrays]
    x = Tensor(arrays[0], device="gpu")
    weight = Tensor(np.ones((16, 16, 3, 3), np.float32), device="gpu", requires_grad=True)
    room = 2.2 * 2**20 + (2 * x.data[0].nbytes if turned else 0)  # a band may begin in one image and end in the next
    before, fake_cupy.card.peak_bytes = fake_cupy.card.used_bytes, 0
    y = ops.conv2d(x, weight, padding=1)
    assert fake_cupy.card.peak_bytes - before < y.data.nbytes + room
    before, fake_cupy.card.peak_bytes = fake_cupy.card.used_bytes, 0
    y.backward(arrays[1])  # to the weights: to x it would be another convolution
    assert fake_cupy.card.peak_bytes - before < room
    assert fake_cupy.card.launches.count("evaluate_tiles") > 6


def test_what_backward_is_done_with_is_free(fake):
    """A gradient that is masked already, or the map y that masked it, held while the next are made: 125 MB in FCN-8s.

    There are the masked gradient, the columns and the product of a 1×1 convolution, and its gradient to x.
    """
    x = Tensor(np.ones((1, 4, 300, 300), np.float32), device="gpu", requires_grad=True)
    weight = Tensor(np.ones((4, 4, 1, 1), np.float32), device="gpu", requires_grad=True)
    before = fake_cupy.card.used_bytes
    y = ops.max_pool2d(ops.conv2d(x, weight, relu=True), 2).sum()
    assert fake_cupy.card.used_bytes - before > x.data.nbytes  # y is kept until then
    fake_cupy.card.peak_bytes = 0
    y.backward()
    assert fake_cupy.card.peak_bytes - before < 4.1 * x.data.nbytes


@pytest.mark.parametrize(
    ("total", "limit", "budget"),
    [(80, 0, 2**27), (0.5, 0, 2**26), (80, 0.5, 2**26), (80, 80, 2**27), (80, 2**-20, 2**20)],
)
def test_the_budget_is_a_small_part_of_the_memory_that_may_be_used(monkeypatch, total, limit, budget):
    """128 MiB for each temporary array of an operation on a card of 0.5 GiB, or under that limit. (All in GiB.)"""
    monkeypatch.setattr(fake_cupy.card, "total_bytes", int(total * 2**30))
    with devices.fake_gpu() as fake:
        fake.limit_memory(int(limit * 2**30))
        assert fake.budget_bytes == budget
        monkeypatch.setattr(minifcn.backend, "_budget_bytes", 2**21)
        assert fake.budget_bytes == 2**21


def test_rounds_of_the_benchmark_are_timed_by_the_device_s_events():
    """A host's clock, which times the asking: a GPU would seem to compute in no time."""

    class SevenSeconds:
        record, seconds = staticmethod(lambda: None), staticmethod(lambda first, last: 7.0)

    work = {"ours": lambda: {"product": 1}}
    turns = Turns(work, {"ours": lambda: None}, clock=lambda: 0.0, pause=lambda: None, cards={"ours": SevenSeconds()})
    turns.first_call("ours")
    turns.measure(Effort(repeat=2))
    assert turns.timings["ours"].rounds == [7.0, 7.0]


# Uploads


def in_another_thread(call):
    """What a call gives, or raises, in a thread of its own, as the loader's are."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
def test_an_upload_makes_nobody_wait(monkeypatch, device):
    """A thread has to choose its device anew: else the copy for gpu:1 is made on the first card."""
    monkeypatch.setattr(fake_cupy.card, "count", 2)
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    with devices.fake_gpu():
        backend = minifcn.backend.get_backend(device)
        before = fake_cupy.card.synchronizations
        take = in_another_thread(lambda: backend.upload(images))
        uploaded = take()
        assert fake_cupy.card.synchronizations == before
        assert_array_equal(uploaded + uploaded, images + images)
    fake_cupy.card.current = 0


def test_a_copy_from_ordinary_memory_makes_the_host_wait(fake):
    """Asynchronous by its name only: CUDA copies from page-locked memory while the host goes on, from no other."""
    place, before = fake.xp.empty(3, np.float32), fake_cupy.card.synchronizations
    place.set(np.ones(3, np.float32))
    assert fake_cupy.card.synchronizations == before + 1


def test_an_upload_that_is_not_waited_for_is_found_out(fake):
    """Half of the pictures, now and then, on a GPU; on the fake, what a plain copy in another stream would be."""
    stream = fake.xp.cuda.Stream(non_blocking=True)
    with stream:
        staged = fake.asarray(np.ones(3, np.float32))
        copied = stream.record()
    assert staged.shape == (3,)  # which is no secret
    with pytest.raises(fake_cupy.StreamError, match="before the event of its copy was waited for"):
        staged + staged
    fake.xp.cuda.get_current_stream().wait_event(copied)
    assert_array_equal(staged + staged, [2, 2, 2])


@pytest.mark.parametrize("waits", [True, False])
def test_memory_that_may_still_be_read_is_not_given_out_again(fake, waits):
    """CuPy gives memory out in the order of its own stream: the next batch would be written over this one."""
    stream, computing = fake.xp.cuda.Stream(non_blocking=True), fake.xp.cuda.get_current_stream()
    with stream:
        staged = fake.asarray(np.ones(3, np.float32))
        computing.wait_event(stream.record())
    assert_array_equal(staged + staged, [2, 2, 2])
    computed = staged * 3  # asked for, but waited for by nobody
    del staged
    if waits:
        stream.wait_event(computing.record())
        with stream:
            fake.asarray(np.ones(3, np.float32))
    else:
        with stream, pytest.raises(fake_cupy.StreamError, match="given out again"):
            fake.asarray(np.ones(3, np.float32))
    assert_array_equal(computed, [3, 3, 3])


@pytest.fixture
def uploads(fake, monkeypatch):
    """The threads in which uploads have begun, by the beginning of their names; and the pictures that were taken."""
    upload, threads, taken = type(fake).upload, [], []

    def recorded(backend, images):
        threads.append(threading.current_thread().name.rpartition("_")[0])
        take = upload(backend, images)
        return lambda: taken.append(images) or take()

    monkeypatch.setattr(type(fake), "upload", recorded)
    return threads, taken


@pytest.mark.parametrize("prefetch", [0, 2])
def test_training_uploads_ahead_in_its_own_stream(fake, uploads, prefetch):
    """Pictures that are copied when the step needs them, by the default stream, which then stands still."""
    threads, taken = uploads
    model = models.FCN8s(9, width=2, fc_width=4, geometry="same").to("gpu")
    loader = Loader(Shapes(size=32, length=8), 2, normalise=Preprocessing().apply, prefetch=prefetch)
    optimizer, asked = SGD(model.parameters(), lr=0.01), {"steps": 6, "loss": segmentation_loss(), "device": "gpu"}
    list(loop.train(model, loader, optimizer, **asked))
    assert len(taken) == 6
    assert set(threads) == ({"minifcn-loader"} if prefetch else {""})
    assert fake._copying.work > 0


def test_evaluation_uploads_ahead_as_training_does(fake, uploads):
    """Pictures that are copied when the network needs them, while which it stands still."""
    threads, taken = uploads
    model, asked = fill(models.FCN8s(9, width=2, fc_width=4, geometry="same")).astype(np.float32), {"batch_size": 2}
    on_cpu = training.evaluate(model, Shapes(size=32, length=5), Preprocessing(), **asked)
    assert taken == []
    found = training.evaluate(model.to("gpu"), Shapes(size=32, length=5), Preprocessing(), **asked, device="gpu")
    assert np.count_nonzero(found.confusion.counts.sum(axis=0)) > 1  # several classes are predicted
    np.testing.assert_allclose(found.confusion.counts, on_cpu.confusion.counts, atol=5)  # but for equal scores
    assert len(taken) == 3
    assert set(threads) == {"minifcn-loader"}


def test_an_upload_that_finds_no_memory_names_the_step(fake, monkeypatch):
    """An error of a thread that prepares batches, of which nobody would know that it is the card's memory."""
    model = models.FCN8s(9, width=2, fc_width=4, geometry="same").to("gpu")
    loader = Loader(Shapes(size=32, length=8), 2, normalise=Preprocessing().apply)
    optimizer = SGD(model.parameters(), lr=0.01)
    monkeypatch.setattr(fake_cupy.card, "limit", fake_cupy.card.used_bytes + 100)
    with pytest.raises(TrainingError, match=r"^step 1: copying an array of \(2, 3, 32, 32\).*: out of memory"):
        list(loop.train(model, loader, optimizer, steps=1, loss=segmentation_loss(), device="gpu"))


@pytest.mark.parametrize("loss", ["cross-entropy", "dice"])
def test_equal_runs_give_equal_bits(fake, tmp_path, monkeypatch, loss):
    """Sums by atomics, whose order is another one each time; on the fake, too."""
    few_pictures(monkeypatch)
    config = tiny(stages=("fcn8s",), steps=(4,), loss=loss, dropout=0.3)
    for name in ("one", "two"):
        start(config, tmp_path / name, device="gpu").run()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        assert_host_array_equal(one[name], two[name], err_msg=name)


def test_the_commands_run_on_the_device(fake, tmp_path, monkeypatch, capsys):
    """An array left on the host in evaluation or prediction, which no test of an operation sees."""
    few_pictures(monkeypatch)
    start(tiny(steps=(1,)), tmp_path / "run", device="gpu").run()
    model = tmp_path / "run" / "model.safetensors"
    answers = []
    for device in ("cpu", "gpu"):
        assert call(evaluate, model, "--device", device, "--json", tmp_path / f"{device}.json") == 0
        answers.append(json.loads((tmp_path / f"{device}.json").read_text()))
    assert answers[1]["machine"]["device"] == "gpu"
    assert "fake" in answers[1]["machine"]["name"]
    assert answers[0]["mean_iu"] == pytest.approx(answers[1]["mean_iu"], abs=0.01)
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(picture)
    assert call(predict, model, picture, "--out", tmp_path / "out", "--device", "gpu") == 0
    assert (tmp_path / "out" / "picture.png").exists()
