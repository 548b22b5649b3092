"""batch_norm: by hand, against its formulas and PyTorch, its gradients, running statistics, and what it refuses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device, to_host
from hypothesis import given
from hypothesis import strategies as st
from strategies import Machine, machines, random_cases, seeded

from minifcn import Tensor, no_grad, ops
from minifcn.autograd import gradcheck
from minifcn.backend import get_backend
from minifcn.errors import DtypeError, ShapeError, UsageError

pytestmark = pytest.mark.usefixtures("device")


@dataclass(frozen=True)
class Case:
    """One call of batch_norm: shape of the input, arguments, machine, and the seed of the numbers."""

    shape: tuple[int, ...]
    arguments: dict[str, Any]
    machine: Machine
    seed: int

    def arrays(self, dtype=np.float64):
        """x, weight, bias, running mean and running variance: each channel with a mean and a spread of its own."""
        generator, channels = np.random.default_rng(self.seed), self.shape[1]
        mean, spread = generator.normal(scale=3, size=channels), generator.uniform(0.5, 2, channels)
        one = (1, -1, *(1,) * (len(self.shape) - 2))  # (C,) -> (1, C, 1, …)
        x = mean.reshape(one) + spread.reshape(one) * generator.standard_normal(self.shape)
        weight, bias = generator.standard_normal((2, channels))
        return [
            array.astype(dtype)
            for array in (x, weight, bias, mean + 0.3, spread**2 * generator.uniform(0.5, 2, channels))
        ]

    def run(self, x, weight, bias, running_mean, running_var):
        """running_mean and running_var are host arrays, as all others; what becomes of them is written back there."""
        statistics = {"running_mean": on_device(running_mean), "running_var": on_device(running_var)}
        y = ops.batch_norm(x, weight, bias, **statistics, **self.arguments)
        running_mean[...], running_var[...] = to_host(list(statistics.values()))
        return y


@st.composite
def cases(draw, training=None):
    """Inputs of two to five axes; in training at least two numbers for each channel."""
    training = draw(st.booleans()) if training is None else training
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    alone = training and all(length == 1 for length in spatial)
    return Case(
        shape=(draw(st.integers(2 if alone else 1, 3)), draw(st.integers(1, 5)), *spatial),
        arguments={
            "training": training,
            "momentum": draw(st.sampled_from([0, 0.1, 0.7, 1])),
            "eps": draw(st.sampled_from([1e-5, 1e-2, 1.0])),
        },
        machine=draw(machines),
        seed=draw(st.integers(0, 2**16)),
    )


def statistics(channels=1, dtype=np.float64):
    """Running statistics as a layer starts with them."""
    return {"running_mean": on_device(np.zeros(channels, dtype)), "running_var": on_device(np.ones(channels, dtype))}


def test_four_numbers_by_hand():
    """1, 3, 3, 5 have mean 3 and variance 8/4 = 2, not 8/3. With ε = 2, x̂ = (x − 3)/2 = −1, 0, 0, 1, and y = 10 x̂ + 7.

    The running mean moves a tenth of the way from 0 to 3; the variance from 1 towards the unbiased 8/3.
    With g = (1, 0, 0, 0): dL/dβ = 1, dL/dγ = −1, and dL/dx = 10/2 · (g − 1/4 + x̂/4) = (5/2, −5/4, −5/4, 0).
    """
    x = Tensor(np.array([1.0, 3, 3, 5]).reshape(2, 1, 1, 2), requires_grad=True)
    weight, bias = (Tensor([value], requires_grad=True) for value in (10.0, 7.0))
    running = statistics()
    y = ops.batch_norm(x, weight, bias, **running, training=True, eps=2)
    assert_allclose(y.data.ravel(), [-3, 7, 7, 17])
    assert_allclose([running["running_mean"], running["running_var"]], [[0.3], [1 + 0.1 * (8 / 3 - 1)]])
    y.backward(np.array([1.0, 0, 0, 0]).reshape(y.shape))
    assert_allclose((weight.grad, bias.grad), ([-1], [1]))
    assert_allclose(x.grad.ravel(), [5 / 2, -5 / 4, -5 / 4, 0], atol=1e-12)


def test_evaluation_by_hand():
    """The running statistics count, not the batch's, and stay as they are: x̂ = (x − 1)/√(7 + 2) = 0, 2/3."""
    x = Tensor(np.array([1.0, 3]).reshape(1, 1, 1, 2), requires_grad=True)
    weight, bias = (Tensor([value], requires_grad=True) for value in (10.0, 7.0))
    running = {"running_mean": on_device([1.0]), "running_var": on_device([7.0])}
    y = ops.batch_norm(x, weight, bias, **running, training=False, eps=2)
    assert_allclose(y.data.ravel(), [7, 7 + 20 / 3])
    y.backward(np.array([1.0, 2]).reshape(y.shape))
    assert_allclose(x.grad.ravel(), [10 / 3, 20 / 3])
    assert_allclose((weight.grad, bias.grad), ([4 / 3], [3]))
    assert_array_equal([running["running_mean"], running["running_var"]], [[1], [7]])


def test_a_channel_is_normalised_over_the_images_together():
    """Each image by itself (instance normalisation), or each pixel over its channels, gives zeros here."""
    x = np.zeros((2, 2, 3, 3))
    x[1] = 4
    x[:, 1] *= 5
    y = ops.batch_norm(Tensor(x), Tensor([1.0, 1.0]), Tensor([0.0, 0.0]), **statistics(2), training=True)
    spread = np.array([2, 10]).reshape(2, 1, 1)
    expected = np.broadcast_to(spread / np.sqrt(spread**2 + 1e-5), (2, 3, 3))
    assert_allclose(y.data, np.stack([-expected, expected]))


def by_the_formula(x, weight, bias, mean, variance, eps):
    """Channel by channel, as in the paper's algorithm 1."""
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        normalised = (x[:, channel] - mean[channel]) / np.sqrt(variance[channel] + eps)
        y[:, channel] = weight[channel] * normalised + bias[channel]
    return y


@random_cases
@given(case=cases())
def test_it_is_the_formula(case: Case):
    """The wrong axes for inputs of 2, 3 or 5 axes; the unbiased variance in place of the biased one, or in reverse."""
    x, weight, bias, mean, variance = case.arrays()
    before = mean.copy(), variance.copy()
    eps, momentum = case.arguments["eps"], case.arguments["momentum"]
    with case.machine.running():
        y = case.run(Tensor(x), Tensor(weight), Tensor(bias), mean, variance)
    if not case.arguments["training"]:
        assert_array_equal((mean, variance), before)
        assert_allclose(y.data, by_the_formula(x, weight, bias, mean, variance, eps), atol=1e-10)
        return
    channels = [x[:, channel].ravel() for channel in range(x.shape[1])]
    batch = np.array([channel.mean() for channel in channels]), np.array([channel.var() for channel in channels])
    assert_allclose(y.data, by_the_formula(x, weight, bias, *batch, eps), atol=1e-10)
    unbiased = np.array([channel.var(ddof=1) for channel in channels])
    for now, old, of_the_batch in zip((mean, variance), before, (batch[0], unbiased), strict=True):
        assert_allclose(now, (1 - momentum) * old + momentum * of_the_batch, atol=1e-10)


@random_cases
@given(case=cases())
def test_its_gradients_agree_with_finite_differences(case: Case):
    """A way by which x reaches the loss left out: through the mean, or through the variance."""
    x, weight, bias, mean, variance = case.arrays()
    with case.machine.running():
        assert gradcheck(
            lambda *inputs: case.run(*inputs, mean.copy(), variance.copy()),
            [Tensor(array, requires_grad=True) for array in (x, weight, bias)],
        )


@random_cases
@given(case=cases())
def test_blocks_and_threads_change_nothing_but_rounding(case: Case):
    """Channels that no block has, or two blocks, or that take a neighbour's mean."""
    results = []
    for machine in (Machine(), Machine(block_bytes=1), Machine(block_bytes=300, threads=2), Machine(threads=3)):
        x, weight, bias, mean, variance = case.arrays()
        tensors = [Tensor(array, requires_grad=True) for array in (x, weight, bias)]
        with machine.running():
            y = case.run(*tensors, mean, variance)
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        results.append([y.data, mean, variance, *(tensor.grad for tensor in tensors)])
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert_allclose(second, first, rtol=1e-11, atol=1e-11)


@pytest.mark.cpu_only("blocks are the CPU's")
def test_the_blocks_are_as_asked_for():
    """A test of the test above: its settings reach the blocks, and the default makes several of a real layer."""
    small, real = seeded(2, 5, 3, 3), np.empty((4, 16, 180, 240), np.float32)
    for machine, width in ((Machine(block_bytes=1), 1), (Machine(block_bytes=300), 2), (Machine(threads=3), 2)):
        with machine.running():
            blocks = get_backend("cpu").channel_blocks(small.data)
        assert blocks == [slice(first, min(first + width, 5)) for first in range(0, 5, width)]
    assert len(get_backend("cpu").channel_blocks(real)) == 6  # of 3 channels, 2 MB


dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def assert_close(ours, theirs, dtype):
    """Relative to the largest number."""
    ours = to_host(ours)
    assert ours.dtype == theirs.dtype == dtype
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max(initial=1))


@dtypes
@random_cases
@given(case=cases())
def test_it_equals_pytorch(dtype, case: Case):
    """Any argument read differently from PyTorch; running statistics moved otherwise, over three batches."""
    torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
    *inputs, mean, variance = case.arrays(dtype)
    ours = [Tensor(array, requires_grad=True) for array in inputs]
    theirs = [torch.tensor(array, requires_grad=True) for array in inputs]
    their_mean, their_variance = torch.tensor(mean), torch.tensor(variance)
    for number in range(3):
        ours[0].data = ours[0].data if number == 0 else ours[0].data * dtype(1.5) + dtype(1)
        theirs[0].data = torch.tensor(ours[0].numpy())
        with case.machine.running():
            y = case.run(*ours, mean, variance)
            expected = torch.nn.functional.batch_norm(
                theirs[0], their_mean, their_variance, theirs[1], theirs[2], **case.arguments
            )
            assert_close(y.data, expected.detach().numpy(), dtype)
            cotangent = np.random.default_rng(number).standard_normal(y.shape).astype(dtype)
            y.backward(cotangent)  # gradients add up over the three, on both sides
        expected.backward(torch.tensor(cotangent))
    for tensor, other in zip(ours, theirs, strict=True):
        assert_close(tensor.grad, other.grad.numpy(), dtype)
    assert_close(mean, their_mean.numpy(), dtype)
    assert_close(variance, their_variance.numpy(), dtype)


def test_a_large_mean_costs_no_digits_of_a_small_variance():
    """E[x²] − E[x]² in float32 is 0 or negative here: 2²⁰ and 2²⁰ + 1 have variance 1/4, and x̂ = −1, 1.

    Backward: Σ g x − μ Σ g has no digit of Σ g (x − μ) left; with g = x̂, dL/dγ is the number of values.
    """
    values = np.float32(2**20) + np.tile(np.float32([0, 1]), 8)
    x = Tensor(values.reshape(2, 1, 2, 4), requires_grad=True)
    weight, bias = (Tensor(np.array([value], np.float32), requires_grad=True) for value in (1, 0))
    running = statistics(dtype=np.float32)
    y = ops.batch_norm(x, weight, bias, **running, training=True, momentum=1)
    expected = np.tile(np.float32([-1, 1]), 8) * 0.5 / np.sqrt(0.25 + 1e-5)
    assert_allclose(y.data.ravel(), expected, rtol=1e-6)
    assert_allclose(running["running_var"], 0.25 * 16 / 15, rtol=1e-6)
    y.backward(y.data.copy())
    assert_allclose(weight.grad, 16 * 0.25 / (0.25 + 1e-5), rtol=1e-6)


def test_a_channel_that_does_not_vary_is_finite():
    """Division by a variance of 0; the rounding error of its mean blown up by 1/√ε."""
    x = Tensor(np.full((2, 1, 5, 5), 0.1, np.float32), requires_grad=True)
    weight, bias = (Tensor(np.array([value], np.float32), requires_grad=True) for value in (2, 3))
    y = ops.batch_norm(x, weight, bias, **statistics(dtype=np.float32), training=True)
    assert_allclose(y.data, 3, atol=1e-5)  # the last digit of the mean, 7e-9, times 2 / √ε
    y.backward(np.ones(y.shape, np.float32))
    assert_allclose(x.grad, 0, atol=1e-4)  # the last digit of 1, 6e-8, times 2 / √ε


def test_float32_stays_float32():
    """A running variance, a gradient or an output in float64, which would spread from there."""
    for training in (True, False):
        inputs = [seeded(*shape, dtype=np.float32) for shape in [(2, 3, 4, 4), (3,), (3,)]]
        running = statistics(3, np.float32)
        y = ops.batch_norm(*inputs, **running, training=training)
        y.backward(np.ones(y.shape, np.float32))
        arrays = [y.data, *running.values(), *(tensor.grad for tensor in inputs)]
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_arrays_of_any_strides():
    """Channels taken from memory that is laid out otherwise, as after permute, in forward or in backward."""
    case = Case((2, 3, 4, 5), {"training": True}, Machine(), 0)
    x, weight, bias, mean, variance = case.arrays()
    results = []
    for lay_out in (np.ascontiguousarray, np.asfortranarray):
        tensors = [Tensor(array, requires_grad=True) for array in (lay_out(x), weight, bias)]
        y = case.run(*tensors, mean.copy(), variance.copy())
        y.backward(lay_out(np.cos(np.arange(y.size)).reshape(y.shape)))
        results.append([y.data, *(tensor.grad for tensor in tensors)])
    for first, second in zip(*results, strict=True):
        assert_allclose(second, first, atol=1e-12)


def test_training_moves_the_running_statistics_without_recording_too():
    """Statistics estimated anew in no_grad, as one does after averaging weights, would stay as they are."""
    running = statistics(2)
    with no_grad():
        ops.batch_norm(Tensor([[1.0, 2], [3, 6]]), Tensor([1.0, 1]), Tensor([0.0, 0]), **running, training=True)
    assert_allclose(running["running_mean"], [0.2, 0.4])


def test_a_recorded_evaluation_is_not_changed_by_training():
    """The gradient of γ with a mean that has moved since."""
    x, bias, running = Tensor([[1.0], [3.0]]), Tensor([0.0]), statistics()
    gradients = []
    for moved in (False, True):
        weight = Tensor([2.0], requires_grad=True)
        y = ops.batch_norm(x, weight, bias, **running, training=False)
        if moved:
            ops.batch_norm(x, weight, bias, **running, training=True)
        y.backward(np.ones(y.shape))
        gradients.append(weight.grad)
    assert running["running_mean"] != 0
    assert_array_equal(*gradients)


def test_frozen_normalisation_keeps_no_input():
    """A map of every layer held until backward for gradients of γ that nobody asked for."""
    x = seeded(2, 1, 3, 3)
    y = ops.batch_norm(x, Tensor([2.0]), Tensor([0.0]), **statistics(), training=False)
    assert not any(saved is not None and saved.ndim > 1 for saved in y.node.context.saved)
    y.backward(np.ones(y.shape))
    assert_allclose(x.grad, 2 / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_a_single_number_for_each_channel_is_refused_with_the_remedies(shape):
    """All zeros, whatever the input: a network whose fc6 sees a 1×1 map in a batch of one would never learn."""
    inputs = [Tensor(np.ones(size)) for size in (shape, (3,), (3,))]
    running = statistics(3)
    with pytest.raises(
        ShapeError, match=r"1 number.*no variance.*larger batch or larger pictures, or freeze"
    ) as caught:
        ops.batch_norm(*inputs, **running, training=True)
    assert str(shape) in str(caught.value)
    assert_array_equal(running["running_mean"], 0)
    assert ops.batch_norm(*inputs, **running, training=False).shape == shape  # the remedy works


def test_what_does_not_fit_is_refused_by_name():
    """Statistics that broadcast, or turn float32 into float64; an ε of 0; a momentum in per cent."""
    x, one = Tensor(np.ones((2, 3, 4, 4))), Tensor(np.ones(3))

    def call(x=x, weight=one, bias=one, **options):
        return ops.batch_norm(x, weight, bias, **statistics(3) | {"training": True} | options)

    assert call().shape == x.shape
    for name, wrong in {
        "weight": Tensor(np.ones(4)),
        "bias": Tensor(np.ones((3, 1, 1))),
        "running_mean": on_device(np.zeros(1)),
        "running_var": on_device(np.ones((1, 3))),
    }.items():
        with pytest.raises(ShapeError, match=rf"batch_norm: {name} has shape .* has 3 channels; \(3,\) is expected"):
            call(**{name: wrong})
    for shape in [(3,), (), (0, 3), (2, 0, 4, 4), (2, 3, 0, 4)]:
        for training in (True, False):
            with pytest.raises(ShapeError, match=r"batch_norm: the input has shape .*; \(N, C, …\) is expected"):
                call(x=Tensor(np.ones(shape)), training=training)
    for name in ("running_mean", "running_var"):
        with pytest.raises(DtypeError, match=rf"{name}.* float32.*the input float64.*module\.astype"):
            call(**{name: on_device(np.ones(3, np.float32))})
    for wrong in ({"momentum": 1.5}, {"momentum": -0.1}, {"momentum": np.nan}, {"eps": 0}, {"eps": np.nan}):
        with pytest.raises(UsageError, match=r"batch_norm: momentum .* and eps .*0 to 1, and above 0"):
            call(**wrong)


@random_cases
@given(cases())
def test_relu_in_the_same_pass_is_relu_after_it(case: Case):
    """A mask from before the shift, or a gradient that passes where y is 0; in training and in evaluation."""
    results = []
    for relu in (False, True):
        x, weight, bias, *running = case.arrays()
        tensors = [Tensor(array, requires_grad=True) for array in (x, weight, bias)]
        statistics = dict(zip(("running_mean", "running_var"), map(on_device, running), strict=True))
        with case.machine.running():
            y = ops.batch_norm(*tensors, **statistics, **case.arguments, relu=relu)
            y = y if relu else ops.relu(y)
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        results.append([y.data, *(tensor.grad for tensor in tensors)])
    for separate, fused in zip(*results, strict=True):
        assert_allclose(fused, separate, rtol=1e-12, atol=1e-12)
