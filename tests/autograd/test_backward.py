"""The engine: order, accumulation, depth, faults, and what is kept in memory."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from devices import assert_array_equal, on_device
from strategies import second_device, seeded

from minifcn import Tensor, no_grad, ops
from minifcn.autograd import Function
from minifcn.errors import DeviceError, DtypeError, GraphError, OutOfMemoryError, ShapeError

pytestmark = pytest.mark.usefixtures("device")

DEPTH = 10_000  # ten times Python's limit of recursion


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


def test_a_polynomial_by_hand():
    """d(x²y + y)/dx = 2xy, /dy = x² + 1."""
    x, y = leaf(3.0), leaf(4.0)
    z = x * x * y + y
    z.backward()
    assert_array_equal(x.grad, [24])
    assert_array_equal(y.grad, [10])


def test_a_tensor_used_several_times_receives_the_sum():
    """`=` for `+=`: the last use wins."""
    a = leaf(1.0, 2.0)
    b = a + a
    c = b + b
    (c * a).sum().backward()  # 4a²
    assert_array_equal(a.grad, [8, 16])


def test_the_branches_of_a_diamond_wait_for_each_other():
    """Breadth-first order visits b when only the short branch has arrived, and its node is freed without the rest."""
    for join in (lambda long, short: long + short, lambda long, short: short + long):
        a = leaf(2.0)
        b = a * 3.0
        join(((b * 1.0) * 1.0) * 5.0, b * 7.0).backward()
        assert_array_equal(a.grad, [36])


def test_doubling_sixty_times_takes_sixty_steps():
    """Walking every path of the graph takes 2⁶⁰."""
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert_array_equal(x.grad, [2.0**60])


@pytest.mark.cpu_only("about the graph, and long")
def test_a_graph_ten_thousand_deep():
    """Recursion: in forward (none), in backward, and in Python's own deallocation of nodes that hold nodes."""
    x = leaf(1.0)
    y = x
    for _ in range(DEPTH):
        y = y * 1.0
    y.backward()
    assert_array_equal(x.grad, [1])
    node_alive = weakref.ref(y)
    del y
    assert node_alive() is None


@pytest.mark.cpu_only("about the graph, and long")
def test_a_deep_graph_can_be_dropped_without_backward():
    """A prediction outside no_grad: nodes freed one inside the other overflow the C stack."""
    y = x = leaf(1.0)
    for _ in range(2 * DEPTH):
        y = y * 1.0
    del y
    gc.collect()
    assert x.grad is None


def test_gradients_add_up_over_calls():
    """A second backward that replaces the first: gradient accumulation over small batches."""
    x = leaf(1.0, 2.0)
    (x * 3.0).sum().backward()
    first = x.grad
    (x * 4.0).sum().backward()
    assert_array_equal(x.grad, [7, 7])
    assert_array_equal(first, [3, 3])  # whoever kept the first keeps it unchanged


def test_equal_gradients_are_separate_arrays():
    """a + b gives both the same array: clipping a's in place clips b's, and the caller's."""
    a, b, c = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    seed = np.array([1.0, 1.0])
    (a + b + c).backward(seed)
    a.grad *= 10
    assert_array_equal(b.grad, [1, 1])
    assert_array_equal(c.grad, [1, 1])
    assert_array_equal(seed, [1, 1])
    b.grad *= 0
    assert_array_equal(a.grad, [10, 10])
    d, e = leaf(1.0, 2.0), leaf(3.0, 4.0)
    ((d + e) * 3.0).backward(seed)  # here the array that both would get is the engine's own
    d.grad *= 10
    assert_array_equal(e.grad, [3, 3])


def test_a_leaf_that_is_its_own_result():
    """x.backward() hands the caller's array over instead of a copy."""
    x, seed = leaf(1.0, 2.0), np.array([5.0, 6.0])
    x.backward(seed)
    x.grad += 1
    assert_array_equal(seed, [5, 6])
    assert_array_equal(x.grad, [6, 7])


def test_gradients_of_single_numbers_are_arrays():
    """NumPy turns results without dimensions into scalars, which cannot be changed in place."""
    a, b, c = (Tensor(np.array(value), requires_grad=True) for value in (2.0, 3.0, 4.0))
    ((a + b) * c).backward()
    for tensor, expected in [(a, 4), (b, 4), (c, 5)]:
        assert type(tensor.grad) is type(tensor.data)
        assert tensor.grad == expected
    (a + b).backward()
    assert type(a.grad) is type(a.data)
    assert a.grad == 5


def test_only_leaves_receive_a_gradient():
    """Gradients of every activation kept alive until the end of the step."""
    x = leaf(1.0)
    y = x * 2.0
    z = y * 3.0
    z.backward()
    assert y.grad is None
    assert z.grad is None


def test_constants_receive_none():
    """Work for, and memory of, gradients that nobody asked for."""
    x, constant = leaf(1.0), Tensor([5.0])
    (x * constant).backward()
    assert constant.grad is None
    assert_array_equal(x.grad, [5])


def test_repeated_axes_are_summed_in_one_place():
    """The gradient of a bias (3,) added to (2, 3), of (2, 1), and of a number."""
    x, bias, column, number = seeded(2, 3), seeded(3), seeded(2, 1), Tensor(np.array(2.0), requires_grad=True)
    (x + bias + column + number).backward(np.array([[1.0, 2, 3], [4, 5, 6]]))
    assert_array_equal(bias.grad, [5, 7, 9])
    assert_array_equal(column.grad, [[6], [15]])
    assert number.grad == 21


def test_a_second_backward_is_an_error_that_says_so():
    """Zero gradients, or an AttributeError about None."""
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(GraphError, match=r"already used.*run the forward computation again"):
        y.backward()
    assert_array_equal(x.grad, [4])
    (x * x).backward()
    assert_array_equal(x.grad, [8])


def test_a_part_already_used_is_noticed_before_anything_is_delivered():
    """Half of the gradients, and then the error."""
    x, other = leaf(2.0), leaf(3.0)
    shared = x * x
    first, second = shared * 1.0, shared * other
    first.backward()
    with pytest.raises(GraphError, match="its Multiply has been freed"):
        second.backward()
    assert other.grad is None
    assert_array_equal(x.grad, [4])


def test_a_result_of_many_numbers_needs_weights():
    """Summing in silence hides that the loss was not reduced."""
    x = leaf(1.0, 2.0)
    with pytest.raises(ShapeError, match=r"shape \(2,\).*\.sum\(\), or pass the weights"):
        (x * 2.0).backward()
    (x * 2.0).backward(np.array([1.0, 10.0]))
    assert_array_equal(x.grad, [2, 20])


def test_one_number_in_any_number_of_dimensions_needs_none():
    """(1, 1) is one number too."""
    x = Tensor(np.array([[3.0]]), requires_grad=True)
    (x * x).backward()
    assert_array_equal(x.grad, [[6]])


@pytest.mark.cpu_only("a second device made of host arrays")
def test_a_seed_that_does_not_fit_is_refused():
    """Broadcast, promoted, or brought from another device without a word."""
    x = leaf(1.0, 2.0, dtype=np.float32)
    with pytest.raises(ShapeError, match=r"grad has shape \(1,\), the tensor \(2,\)"):
        (x * 2.0).backward(np.ones(1, np.float32))
    with pytest.raises(DtypeError, match="grad is float64, the tensor float32"):
        (x * 2.0).backward(np.ones(2))
    with second_device() as device, pytest.raises(DeviceError, match=f"grad is on {device}, the tensor on cpu"):
        (x * 2.0).backward(Tensor(np.ones(2, np.float32), device=device))
    assert x.grad is None


def test_nothing_to_differentiate_is_an_error():
    """A training loop in no_grad, or a forgotten requires_grad, would go on without learning."""
    x = leaf(1.0)
    with no_grad():
        y = x * 2.0
    for tensor in (y, Tensor([1.0]), Tensor([1.0]) * 2.0, (x * 2.0).detach()):
        with pytest.raises(GraphError, match="requires_grad=True, or it was made in no_grad"):
            tensor.backward()


class Faulty(Function):
    """Passes its inputs' sum on; its backward gives what `answer` makes of the gradient."""

    @staticmethod
    def forward(ctx, *inputs, answer):
        ctx.answer = answer
        return sum(inputs)

    @staticmethod
    def backward(ctx, grad):
        return ctx.answer(grad)


def fail(grad):
    raise FloatingPointError("planted")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (fail, FloatingPointError, "planted"),
        (lambda g: (g,), GraphError, "Faulty.backward gave 1 gradients for 2 inputs"),
        (lambda g: (g, None), GraphError, "gave no gradient for input 1, which needs one"),
        (lambda g: (g, g.astype(np.float32)), DtypeError, "gave a gradient of float32 for input 1 of float64"),
        (lambda g: (g, g[:1]), ShapeError, r"gave shape \(1,\) for input 1, which has shape \(2,\)"),
        (lambda g: (g, np.ones((2, 3))), ShapeError, r"gave shape \(2, 3\) for input 1"),
    ],
)
def test_a_backward_that_fails_delivers_nothing(answer, error, words):
    """Late leaves have their gradients already when an early operation fails; an optimiser takes half a step."""
    early, late = leaf(1.0, 2.0), leaf(3.0, 4.0)
    late.grad = on_device(np.array([7.0, 7.0]))
    y = Faulty.apply(early, early * 2.0, answer=answer) * late
    with pytest.raises(error, match=words):
        y.backward(np.ones(2))
    assert early.grad is None
    assert_array_equal(late.grad, [7, 7])


def test_a_second_try_after_a_failure_is_an_error():
    """An operation that lets go of arrays on its way, and fails, gives other numbers the next time, without a word."""

    class Careless(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved
            ctx.save(None)
            if x is None:
                return grad
            raise MemoryError("planted")

    x = leaf(1.0, 2.0)
    y = Careless.apply(x)
    with pytest.raises(OutOfMemoryError, match=r"Careless.backward of \(2,\)"):
        y.backward(np.ones(2))
    with pytest.raises(GraphError, match="its Careless has been freed"):
        y.backward(np.ones(2))
    assert x.grad is None


def test_a_function_written_by_a_user():
    """The contract of Function, as CONTRIBUTING tells it: context, constants by keyword, extras."""

    class Scale(Function):
        @staticmethod
        def forward(ctx, x, *, factor):
            assert ctx.needs_input_grad == (True,)
            ctx.factor = factor
            return x * factor, x > 0

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor

    x = leaf(1.0, -1.0)
    y, positive = Scale.apply(x, factor=3.0)
    assert_array_equal(positive, [True, False])
    y.sum().backward()
    assert_array_equal(x.grad, [3, 3])


def test_a_function_without_its_methods_says_so():
    """AttributeError."""
    with pytest.raises(NotImplementedError, match="static forward"):
        type("Empty", (Function,), {}).apply(leaf(1.0))


def test_a_used_graph_lets_go_of_its_arrays():
    """Saved activations that live as long as somebody holds the loss, for a running mean or a print."""
    x = leaf(1.0, 2.0)
    middle = ops.exp(x)
    saved = weakref.ref(middle.data)
    loss = (middle * 2.0).sum()
    del middle
    assert saved() is not None
    loss.backward()
    assert saved() is None
    assert loss.requires_grad


def test_a_used_graph_lets_go_of_its_leaves():
    """A list of losses that keeps every batch of pictures alive."""
    x = leaf(1.0, 2.0)
    gone = weakref.ref(x)
    loss = (x * x).sum()
    loss.backward()
    del x
    assert gone() is None
    assert loss.item() == 5


def test_in_no_grad_nothing_is_kept():
    """Evaluation that needs as much memory as training."""
    x = leaf(1.0, 2.0)
    with no_grad():
        middle = ops.exp(x)
        saved = weakref.ref(middle.data)
        result = middle * 2.0
        del middle
    assert saved() is None
    assert result.node is None


def test_activations_that_backward_does_not_need_are_freed_at_once():
    """ReLU needs its output only: the convolution's own output, as large, must not live until backward."""
    x, weight = seeded(1, 2, 5, 5), seeded(3, 2, 3, 3)
    before = ops.conv2d(x, weight)
    gone = weakref.ref(before.data)
    after = ops.relu(before)
    del before
    assert gone() is None
    after.sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("operation", [ops.tanh, ops.negative])
def test_backward_frees_as_it_goes(operation):
    """All activations (tanh saves one each), or all gradients (negative saves nothing), in memory until the end."""
    size, steps = 100_000, 30
    x = Tensor(np.full(size, 0.1), requires_grad=True)
    seed = np.ones(size)
    tracemalloc.start()
    try:
        y = x
        for _ in range(steps):
            y = operation(y)
        held = tracemalloc.get_traced_memory()[0]
        assert held < (steps + 2) * size * 8
        tracemalloc.reset_peak()
        y.backward(seed)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - held < 6 * size * 8
    assert left < 4 * size * 8


def test_a_chain_in_no_grad_needs_the_memory_of_one_step():
    """Activations freed only at the end."""
    size = 100_000
    y = Tensor(np.full(size, 0.1), requires_grad=True)
    tracemalloc.start()
    try:
        with no_grad():
            for _ in range(30):
                y = ops.relu(ops.tanh(y))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * size * 8
