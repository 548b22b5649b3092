"""What is promised of every operation: dtypes are kept, nothing that others hold is changed, nothing is promoted."""

import inspect
from functools import partial

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, freeze, on_device, shares_memory
from strategies import Machine, second_device

from minifcn import Tensor, no_grad, ops
from minifcn.autograd.function import Function
from minifcn.errors import DeviceError, DtypeError

pytestmark = pytest.mark.usefixtures("device")

LABELS = np.array([[[0, 1, 2], [2, 1, 255]]])
WEIGHT = np.array([1.0, 2.0, 3.0])


def dropped(drop):
    return lambda x: drop(x, 0.5, generator=np.random.default_rng(0))


def normalised(x, weight, bias, *, training):
    mean, variance = (on_device(np.full(x.shape[1], value, x.dtype)) for value in (1, 2))
    return ops.batch_norm(x, weight, bias, running_mean=mean, running_var=variance, training=training)


# name: (function of Tensors, shapes of its inputs); together they apply every Function there is.
CASES = {
    "add": (ops.add, [(2, 3), (3,)]),
    "subtract": (ops.subtract, [(2, 3), (3,)]),
    "multiply": (ops.multiply, [(2, 3), (3,)]),
    "divide": (ops.divide, [(2, 3), (3,)]),
    "negative": (ops.negative, [(2, 3)]),
    "pow": (lambda x: ops.pow(x, 1.5), [(2, 3)]),
    "exp": (ops.exp, [(2, 3)]),
    "log": (ops.log, [(2, 3)]),
    "tanh": (ops.tanh, [(2, 3)]),
    "sigmoid": (ops.sigmoid, [(2, 3)]),
    "relu": (ops.relu, [(2, 3)]),
    "sum": (lambda x: ops.sum(x, 0), [(2, 3)]),
    "mean": (lambda x: ops.mean(x, 1), [(2, 3)]),
    "amax": (lambda x: ops.amax(x, 1), [(2, 3)]),
    "reshape": (lambda x: ops.reshape(x, 6), [(2, 3)]),
    "permute": (lambda x: ops.permute(x, (1, 0)), [(2, 3)]),
    "crop": (lambda x: ops.crop(x, 1, 1), [(2, 3)]),
    "pad": (lambda x: ops.pad(x, 1, value=2), [(2, 3)]),
    "concatenate": (lambda x, y: ops.concatenate([x, y]), [(2, 3), (1, 3)]),
    "matmul": (ops.matmul, [(2, 3), (3, 4)]),
    "linear": (ops.linear, [(2, 3), (4, 3), (4,)]),
    "dropout": (dropped(ops.dropout), [(2, 3)]),
    "dropout2d": (dropped(ops.dropout2d), [(2, 3, 2, 2)]),
    "im2col": (lambda x: ops.im2col(x, 2), [(1, 2, 4, 5)]),
    "col2im": (lambda c: ops.col2im(c, (4, 5), 2), [(1, 8, 12)]),
    "conv2d": (lambda *inputs: ops.conv2d(*inputs, padding=1, groups=2), [(2, 4, 5, 6), (4, 2, 3, 3), (4,)]),
    "conv2d 1x1": (ops.conv2d, [(1, 4, 5, 6), (4, 4, 1, 1), (4,)]),
    "conv_transpose2d": (lambda *inputs: ops.conv_transpose2d(*inputs, stride=2), [(2, 4, 3, 3), (4, 2, 4, 4), (2,)]),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 2, ceil_mode=True), [(1, 2, 5, 5)]),
    "max_pool2d with indices": (lambda x: ops.max_pool2d(x, 2, return_indices=True)[0], [(1, 2, 5, 5)]),
    "batch_norm, training": (partial(normalised, training=True), [(2, 3, 2, 2), (3,), (3,)]),
    "batch_norm, evaluation": (partial(normalised, training=False), [(2, 3, 2, 2), (3,), (3,)]),
    "loss, mean": (lambda x: ops.softmax_cross_entropy(x, LABELS, weight=WEIGHT), [(1, 3, 2, 3)]),
    "loss, none": (lambda x: ops.softmax_cross_entropy(x, LABELS, reduction="none"), [(1, 3, 2, 3)]),
    "dice_loss": (lambda x: ops.dice_loss(x, LABELS, weight=WEIGHT), [(1, 3, 2, 3)]),
}
every_op = pytest.mark.parametrize("name", CASES)


def inputs_of(name, dtype=np.float64):
    """Distinct positive numbers; read-only, so that whoever writes into them is found out."""
    generator = np.random.default_rng(0)
    tensors = []
    for shape in CASES[name][1]:
        array = (generator.permutation(int(np.prod(shape))).reshape(shape) / 7 + 0.5).astype(dtype)
        tensors.append(Tensor(array, requires_grad=True))
        freeze(tensors[-1].data)
    return tensors


def test_the_table_holds_every_function():
    """A new operation that nobody added here would be promised nothing."""

    def subclasses(base):
        return {
            c for sub in base.__subclasses__() for c in {sub, *subclasses(sub)} if c.__module__.startswith("minifcn.")
        }

    used = set()
    for name, (function, _) in CASES.items():
        stack = [function(*inputs_of(name)).node]
        while stack:
            node = stack.pop()
            used.add(node.function.__name__)
            stack.extend(parent for parent in node.parents if not isinstance(parent, Tensor) and parent is not None)
    assert used | {"ToDevice"} == {c.__name__ for c in subclasses(Function)}


@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept_forward_and_backward(name, dtype):
    """One float64 constant inside, and the rest of a float32 network runs at half its speed."""
    tensors = inputs_of(name, dtype)
    with Machine(block_bytes=1, threads=2).running():
        y = CASES[name][0](*tensors)
        assert y.dtype == dtype
        y.backward(np.ones(y.shape, dtype))
    for tensor in tensors:
        assert type(tensor.grad) is type(tensor.data)
        assert (tensor.grad.dtype, tensor.grad.shape) == (dtype, tensor.shape)


@every_op
def test_nothing_held_by_others_is_changed(name):
    """An in-place product in backward spoils what another branch of the graph has saved, or the caller's gradient."""
    tensors = inputs_of(name)
    with Machine(block_bytes=1, threads=2).running():
        y = CASES[name][0](*tensors)
        node, grad = y.node, on_device(np.random.default_rng(1).standard_normal(y.shape))
        for array in (y.data, grad, *(saved for saved in node.context.saved if saved is not None)):
            freeze(array)
        first = node.function.backward(node.context, grad)
        second = node.function.backward(node.context, grad)
    as_tuple = [result if isinstance(result, tuple) else (result,) for result in (first, second)]
    for one, two in zip(*as_tuple, strict=True):
        assert_array_equal(one, two)


@every_op
def test_gradients_belong_to_the_leaf_alone(name):
    """`.grad` that is a view of the caller's gradient, of the data, or of another leaf's `.grad`."""
    tensors = inputs_of(name)
    y = CASES[name][0](*tensors)
    seed = on_device(np.ones(y.shape))
    y.backward(seed)
    for tensor in tensors:
        tensor.grad += 1  # must be writable
        others = [seed, y.data, *(t.data for t in tensors), *(t.grad for t in tensors if t is not tensor)]
        assert not any(shares_memory(tensor.grad, other) for other in others)


@every_op
def test_only_what_is_asked_for_is_computed(name):
    """The gradient of pictures, or of weights that are fixed: a third of the work of training."""
    for chosen in range(len(CASES[name][1])):
        tensors = inputs_of(name)
        for position, tensor in enumerate(tensors):
            tensor.requires_grad = position == chosen
        y = CASES[name][0](*tensors)
        y.backward(np.ones(y.shape))
        assert [tensor.grad is not None for tensor in tensors] == [p == chosen for p in range(len(tensors))]
        complete = inputs_of(name)
        z = CASES[name][0](*complete)
        z.backward(np.ones(z.shape))
        # Up to rounding: a device makes both gradients of a convolution from the same columns, if both are needed.
        assert_allclose(tensors[chosen].grad, complete[chosen].grad, rtol=1e-14, atol=1e-14)


@every_op
def test_without_recording_the_values_are_the_same(name):
    """Another route in no_grad (pooling has one) with other numbers."""
    tensors = inputs_of(name)
    recorded = CASES[name][0](*tensors)
    with no_grad():
        plain = CASES[name][0](*tensors)
    assert plain.node is None
    assert not plain.requires_grad
    assert_array_equal(plain.data, recorded.data)


@every_op
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, np.complex128])
def test_other_dtypes_are_refused(name, dtype):
    """Half precision and whole numbers that overflow without a word."""
    tensors = [Tensor(np.ones(shape, dtype)) for shape in CASES[name][1]]
    with pytest.raises(DtypeError, match=f"needs float32 or float64, not {np.dtype(dtype)}; convert the data"):
        CASES[name][0](*tensors)


@pytest.mark.cpu_only("a second device made of host arrays")
@pytest.mark.parametrize("name", [name for name, (_, shapes) in CASES.items() if len(shapes) > 1])
def test_mixed_devices_and_mixed_dtypes_are_refused(name):
    """What a GPU would answer to this names neither tensor."""
    function, shapes = CASES[name]
    with pytest.raises(DtypeError, match=r"different dtypes \(.*float32.*\).*nothing is promoted silently"):
        function(*(Tensor(np.ones(s, np.float32 if i == 0 else np.float64)) for i, s in enumerate(shapes)))
    with second_device() as device:
        with pytest.raises(DeviceError, match=rf"different devices \(.*{device}.*\); move them together with \.to"):
            function(*(Tensor(np.ones(s), device=device if i == 0 else "cpu") for i, s in enumerate(shapes)))
        with pytest.raises(DeviceError, match=rf"host array meets a tensor on {device}|\({device}, cpu\)"):
            function(*(Tensor(np.ones(s), device=device) if i == 0 else np.ones(s) for i, s in enumerate(shapes)))


@pytest.mark.cpu_only("a second device made of host arrays")
@every_op
def test_results_stay_on_the_device_of_the_inputs(name):
    """A result made on the CPU, whatever the inputs' device."""
    function, shapes = CASES[name]
    with second_device() as device:
        tensors = [Tensor(np.full(shape, 0.5), requires_grad=True, device=device) for shape in shapes]
        y = function(*tensors)
        assert y.device == device
        y.backward(Tensor(np.ones(y.shape), device=device))
        assert all(tensor.grad is not None for tensor in tensors)


def test_every_public_operation_has_a_docstring():
    """The reference that `help` shows."""
    for name in ops.__all__:
        assert inspect.getdoc(getattr(ops, name)), name
