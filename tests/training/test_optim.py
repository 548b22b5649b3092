"""SGD and Adam: by hand, against PyTorch, and what they leave alone."""

import json

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device

from minifcn import Tensor, models
from minifcn.errors import ShapeError, UsageError, WeightsError
from minifcn.nn import Parameter
from minifcn.training import SGD, Adam, paper_groups

pytestmark = pytest.mark.usefixtures("device")

OPTIMIZERS = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (Adam, {"lr": 0.1}),
    (Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.01}),
]


def parameter(*values, dtype=np.float64, grad=None, fixed=False):
    made = Parameter(np.array(values, dtype), requires_grad=not fixed)
    made.grad = on_device(None if grad is None else np.array(grad, dtype))
    return made


def test_sgd_by_hand():
    """Momentum that is averaged, or decay added after it: v = 0.5 v + g + 0.1 p, p = p − 0.1 v."""
    p = parameter(1.0, -2.0, grad=[0.4, 0.0])
    optimizer = SGD([p], lr=0.1, momentum=0.5, weight_decay=0.1)
    optimizer.step()  # v = (0.5, −0.2)
    assert_allclose(p.data, [0.95, -1.98], rtol=1e-14)
    p.grad = on_device(np.array([0.0, 1.0]))
    optimizer.step()  # v = (0.25 + 0.095, −0.1 + 1 − 0.198) = (0.345, 0.702)
    assert_allclose(p.data, [0.9155, -2.0502], rtol=1e-14)


def test_sgd_without_momentum_is_the_plain_step():
    """A velocity that accumulates although nobody asked."""
    p = parameter(1.0, grad=[2.0])
    optimizer = SGD([p], lr=0.25)
    optimizer.step()
    optimizer.step()
    assert_allclose(p.data, [0.0], atol=1e-15)


def test_adam_by_hand():
    """Moments that are not corrected for their start from zero: the first step would be 3 times too large.

    Step 1: m̂ = g, v̂ = g², so each coordinate moves by lr whatever its gradient. Step 2 with gradient 0:
    m̂ = 0.09 g / 0.19, v̂ = 0.000999 g² / 0.001999."""
    p = parameter(1.0, 1.0, grad=[1e-3, -50.0])
    optimizer = Adam([p], lr=0.1, eps=0.0)
    optimizer.step()
    assert_allclose(p.data, [0.9, 1.1], rtol=1e-14)
    p.grad = on_device(np.zeros(2))
    optimizer.step()
    step = 0.1 * (0.09 / 0.19) / np.sqrt(0.000999 / 0.001999)
    assert_allclose(p.data, [0.9 - step, 1.1 + step], rtol=1e-12)


def test_adams_eps_stands_outside_the_root():
    """√(v̂ + ε): with g = 1 and ε = 1 the first step is lr/2, not lr/√2."""
    p = parameter(1.0, grad=[1.0])
    Adam([p], lr=0.1, eps=1.0).step()
    assert_allclose(p.data, [0.95], rtol=1e-14)


def test_adams_defaults_are_the_papers():
    """β₁, β₂ and ε of Kingma and Ba 2015."""
    optimizer = Adam([parameter(1.0)])
    assert (optimizer.groups[0]["lr"], optimizer.betas, optimizer.eps) == (1e-3, (0.9, 0.999), 1e-8)


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
def test_twenty_steps_equal_pytorchs(kind, arguments):
    """Any term of either formula; groups whose lr or decay is ignored; a learning rate that changes on the way."""
    torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
    generator = np.random.default_rng(0)
    values = [generator.normal(size=shape) for shape in [(3, 2), (4,), (2, 1, 3)]]
    ours = [Parameter(value.copy()) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]

    def groups(p):
        return [{"params": [p[0]], "lr": 0.02}, {"params": [p[1]], "weight_decay": 0.0}, {"params": [p[2]]}]

    optimizer, other = kind(groups(ours), **arguments), getattr(torch.optim, kind.__name__)(groups(theirs), **arguments)
    for number in range(20):
        optimizer.lr_factor = 1 - number / 25
        for group, rate in zip(other.param_groups, (0.02, 0.1, 0.1), strict=True):
            group["lr"] = rate * optimizer.lr_factor
        for mine, their in zip(ours, theirs, strict=True):
            grad = generator.normal(size=mine.shape)
            mine.grad, their.grad = on_device(grad), torch.tensor(grad)
        optimizer.step()
        other.step()
        for mine, their in zip(ours, theirs, strict=True):
            assert_allclose(mine.data, their.detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {number}")


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS[:2])
def test_a_parameter_that_joins_late_equals_pytorchs(kind, arguments):
    """Buffers that are mixed up between parameters once one of them was skipped."""
    torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
    ours, theirs = [parameter(1.0), parameter(2.0)], [torch.nn.Parameter(torch.tensor([v]).double()) for v in (1, 2)]
    optimizer, other = kind(ours, **arguments), getattr(torch.optim, kind.__name__)(theirs, **arguments)
    for number in range(8):
        for position in (0, 1) if number >= 4 else (1,):
            ours[position].grad = on_device(np.array([0.5 + number]))
            theirs[position].grad = torch.tensor([0.5 + number]).double()
        optimizer.step()
        other.step()
    for mine, their in zip(ours, theirs, strict=True):
        assert_allclose(mine.data, their.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
def test_fixed_parameters_and_those_without_gradient_stay(kind, arguments):
    """Decay or momentum on what is not being learned; None taken for a number."""
    fixed, idle, moving = parameter(1.0, grad=[1.0], fixed=True), parameter(1.0), parameter(1.0, grad=[1.0])
    optimizer = kind([fixed, idle, moving], **arguments)
    optimizer.step()
    assert (fixed.data[0], idle.data[0]) == (1, 1)
    assert moving.data[0] != 1
    assert len(optimizer.parameters()) == 2


def test_zero_grad_forgets_all_gradients():
    """Gradients of the last batch added to those of the next."""
    p, q = parameter(1.0, grad=[1.0]), parameter(2.0, grad=[1.0])
    SGD([{"params": [p]}, {"params": [q]}], lr=1).zero_grad()
    assert p.grad is None
    assert q.grad is None


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
def test_the_gradient_itself_is_left_alone(kind, arguments):
    """Decay added in place, or a buffer that is the gradient's own memory: the next step would change it."""
    p = parameter(1.0, 2.0, grad=[0.5, 0.25])
    optimizer = kind([p], **arguments)
    for _ in range(3):
        optimizer.step()
        assert_array_equal(p.grad, [0.5, 0.25])


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
@pytest.mark.parametrize("number", [float, np.float64])
def test_float32_stays_float32(kind, arguments, number):
    """A float64 number among the settings that promotes parameters or buffers."""
    p = parameter(1.0, 2.0, dtype=np.float32, grad=[0.5, 0.25])
    settings = {key: value if isinstance(value, tuple) else number(value) for key, value in arguments.items()}
    optimizer = kind([p], **settings)
    optimizer.lr_factor = number(0.5)
    for _ in range(2):
        optimizer.step()
    arrays, _ = optimizer.state_dict()
    assert {p.dtype, *(array.dtype for array in arrays.values())} == {np.dtype(np.float32)}


def steps(optimizer, parameters, numbers):
    for number in numbers:
        generator = np.random.default_rng(number)
        for one in parameters:
            one.grad = on_device(generator.normal(size=one.shape).astype(one.dtype))
        optimizer.lr_factor = 1 - number / 20
        optimizer.step()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
def test_a_saved_state_continues_exactly(kind, arguments, dtype):
    """Buffers lost, mixed up between parameters, or shared with the saved ones; Adam's count started anew."""

    def make(values):
        made = [parameter(*value, dtype=dtype) for value in values]
        return made, kind([{"params": made[:1], "lr": 0.3}, {"params": made[1:]}], **arguments)

    whole, optimizer = make([(1, 2), (3,), (4, 5, 6)])
    steps(optimizer, whole, range(10))
    part, optimizer = make([(1, 2), (3,), (4, 5, 6)])
    steps(optimizer, part, range(4))
    arrays, count = optimizer.state_dict()
    saved = [one.numpy().copy() for one in part]
    steps(optimizer, part, range(4, 6))  # must not reach into what was saved
    resumed, optimizer = make(saved)
    optimizer.load_state_dict(arrays, json.loads(json.dumps(count)))
    for array in arrays.values():
        array[...] = np.nan
    steps(optimizer, resumed, range(4, 10))
    for one, other in zip(whole, resumed, strict=True):
        assert_array_equal(one.data, other.data)


def test_the_state_of_a_skipped_parameter_is_found_again():
    """Positions counted over those that have a state only, so that buffers move on to the next parameter."""

    def make():
        made = [parameter(1.0), parameter(2.0)]
        return made, SGD(made, lr=0.1, momentum=0.9)

    (_, second), optimizer = make()
    second.grad = on_device(np.ones(1))
    optimizer.step()
    arrays, count = optimizer.state_dict()
    (_, again), resumed = make()
    resumed.load_state_dict(arrays, count)
    again.data, again.grad = second.data.copy(), on_device(np.ones(1))
    optimizer.step()
    resumed.step()
    assert_array_equal(again.data, second.data)


@pytest.mark.parametrize(
    "arrays",
    [
        {"0.velocity": np.zeros(3)},  # of another shape
        {"7.velocity": np.zeros(2)},  # of a parameter that is not there
        {"0.mean": np.zeros(2), "0.square": np.zeros(2)},  # Adam's
        {"velocity": np.zeros(2)},
        {"-1.velocity": np.zeros(2)},
        {"0.velocity": np.zeros(2), "0.square": np.zeros(2)},
    ],
)
def test_a_state_that_does_not_fit_is_refused(arrays):
    """IndexError or KeyError at the next step, or buffers that broadcast against the wrong parameter in silence."""
    optimizer = SGD([parameter(1.0, 2.0)], lr=0.1, momentum=0.9)
    with pytest.raises(WeightsError, match=r"SGD"):
        optimizer.load_state_dict(arrays, 3)
    assert optimizer.state == {}
    assert optimizer.steps == 0


def test_half_of_adams_state_is_refused():
    """TypeError: update() missing 1 required keyword-only argument, at the next step."""
    with pytest.raises(WeightsError, match=r"Adam: .*0\.mean \(2,\)"):
        Adam([parameter(1.0, 2.0)]).load_state_dict({"0.mean": np.zeros(2)}, 3)


def test_the_papers_groups():
    """Biases at the weights' rate, or with decay (Long et al. 2015, 4.3); a parameter in both groups or in none."""
    network = models.FCN8s(2, 1, 1)
    weights, biases = paper_groups(network, lr=0.1, weight_decay=5e-4)
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 5e-4)
    assert (biases["lr"], biases["weight_decay"]) == (0.2, 0)
    named = dict(network.named_parameters())
    assert [id(p) for p in biases["params"]] == [id(p) for name, p in named.items() if name.endswith("bias")]
    assert len(biases["params"]) == 18
    assert {id(p) for p in weights["params"] + biases["params"]} == {id(p) for p in named.values()}
    optimizer = SGD(paper_groups(network, lr=0.1, weight_decay=5e-4), lr=9, momentum=0.9)
    assert [group["lr"] for group in optimizer.groups] == [0.1, 0.2]
    assert len(optimizer.parameters()) == len(named) - 1  # upscore8 is fixed


def test_any_iterable_of_parameters_is_taken():
    """A generator (model.parameters()) that is used up by a first look at it."""
    assert len(SGD((p for p in [parameter(1.0), parameter(2.0)]), lr=1).parameters()) == 2
    grouped = SGD([{"params": (p for p in [parameter(1.0), parameter(2.0)])}], lr=1)
    assert len(grouped.parameters()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD([p], lr=-1), "lr"),
        (lambda p: SGD([p], lr=float("nan")), "lr"),
        (lambda p: SGD([p], lr=1, weight_decay=-1), "weight_decay"),
        (lambda p: SGD([{"params": [p], "lr": -1}], lr=1), "lr"),
        (lambda p: SGD([p], lr=1, momentum=1), "momentum"),
        (lambda p: SGD([p], lr=1, momentum=-0.1), "momentum"),
        (lambda p: Adam([p], betas=(1.0, 0.999)), "betas"),
        (lambda p: Adam([p], betas=(0.9, -0.1)), "betas"),
        (lambda p: Adam([p], eps=-1), "eps"),
        (lambda p: SGD([], lr=1), "no parameter"),
        (lambda p: SGD([parameter(1.0, fixed=True)], lr=1), "no parameter"),
        (lambda p: SGD([{"params": [p], "momentum": 0.5}], lr=1), "momentum"),
        (lambda p: SGD([{"parameters": [p]}], lr=1), "params"),
        (lambda p: SGD([p, p], lr=1), "twice"),
        (lambda p: SGD([{"params": [p]}, {"params": [p]}], lr=1), "twice"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    """A network that walks away from the minimum, learns nothing, or takes each step twice, without a word."""
    with pytest.raises(UsageError, match=message):
        make(parameter(1.0))


def test_the_way_down_is_found():
    """A sign: both must go down a valley, from the gradients of the engine itself."""
    for kind, arguments in OPTIMIZERS:
        p = Parameter(np.array([3.0, -2.0]))
        optimizer = kind([p], **(arguments | {"weight_decay": 0.0}))
        for _ in range(200):
            optimizer.zero_grad()
            (p * p * Tensor(np.array([1.0, 0.3]))).sum().backward()
            optimizer.step()
        assert np.abs(p.data).max() < 0.05


def test_a_gradient_of_another_shape_is_refused():
    """Taken as a row of as many numbers, it would move each weight by another's gradient."""
    parameter = Tensor(np.zeros((2, 3)), requires_grad=True)
    optimizer = SGD([parameter], lr=1.0)
    parameter.grad = parameter.backend.asarray(np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"SGD: a gradient of \(3, 2\) for a parameter of \(2, 3\)"):
        optimizer.step()
