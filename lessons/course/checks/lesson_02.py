"""Lesson 2: the backward pass, on graphs that watch what is done to them.

Every node notes each gradient that it passes back, so that a hint can say what went wrong: passed back too early, more
than once, never. What is expected comes from the other direction: the slope of the root along one node after the other,
carried forward through the graph.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course.comparing import Wrong, compare, noted

BackwardPass = Callable[[Any, Any], None]
Uses = Sequence[Sequence[tuple[int, float]]]  # for each node, leaves first: (parent, slope) for each use
_MOST_SHOWN = 12


class _Node:
    """A tensor as the exercise sees it: data, parents, pass_back, grad; and every gradient that it has passed back."""

    def __init__(self, name: str, data: Any, parents: tuple["_Node", ...], slopes: tuple[float, ...]) -> None:
        self.name, self.data, self.parents, self.grad = name, data, parents, None
        self.passed: list[Any] = []
        self._slopes = slopes
        self.pass_back = self._pass_back if parents else None

    def __repr__(self) -> str:
        return self.name

    def _pass_back(self, grad: Any) -> tuple[Any, ...]:
        if grad is None:
            raise Wrong(
                "pass_back(None)", f"{self.name} was to pass back before anything had arrived: its .grad is None."
            )
        self.passed.append(np.array(grad))
        if len(self.passed) > 1000:
            raise Wrong("pass_back(grad)", f"{self.name} has passed its gradient back a thousand times; once is right.")
        # as an addition does: where the slope is 1, every parent gets the very same array
        return tuple(grad if slope == 1 else slope * grad for slope in self._slopes)


def check_backward_pass(backward_pass: BackwardPass, generator: np.random.Generator) -> None:
    doubling = [[], [(0, 1), (0, 1)], [(1, 1), (1, 1)]]
    _check(backward_pass, doubling, "abc", "backward_pass(c, 1.0), with b = a + a and c = b + b")
    names = ("x", "w", "p", "q", "y")
    products = [[], [], [(0, 3), (1, 2)], [(2, 1), (0, 1)], [(2, 8), (3, 6)]]
    what = "with p = x·w, q = p + x, y = {}, x = 2, w = 3"
    _check(backward_pass, products, names, f"backward_pass(y, 1.0), {what.format('p·q')}")
    mirrored = [*products[:3], products[3][::-1], products[4][::-1]]
    _check(backward_pass, mirrored, names, f"backward_pass(y, 1.0), {what.format('q·p')}, q = x + p")
    twice_and_elsewhere = [[], [(0, 2)], [(1, 1), (1, 1)], [(1, 3)], [(3, 1)], [(2, 1), (4, 1)]]
    what = "with s = 2·x, t = s + s, v = 3·s, w = v, and y = {}"
    _check(backward_pass, twice_and_elsewhere, "xstvwy", f"backward_pass(y, 1.0), {what.format('t + w')}")
    mirrored = [*twice_and_elsewhere[:5], twice_and_elsewhere[5][::-1]]
    _check(backward_pass, mirrored, "xstvwy", f"backward_pass(y, 1.0), {what.format('w + t')}")
    _check(backward_pass, [[]], "x", "backward_pass(x, 1.0), where x is a leaf")
    _check(backward_pass, products, names, f"backward_pass(y, -2.5), {what.format('p·q')}", grad=-2.5)
    for number in range(1, 9):
        uses = _random_graph(generator, 4 + 3 * number)
        names = [f"node {place}" for place in range(len(uses))]
        call = f"backward_pass(root, grad) on random graph {number}, of {len(uses)} nodes"
        _check(backward_pass, uses, names, call, grad=float(generator.normal()))
        _check_arrays(backward_pass, uses, names, call, generator)
    ladder = [[]] + [[(place, 1), (place, 1)] for place in range(40)]
    _check(backward_pass, ladder, [f"node {place}" for place in range(41)], "backward_pass on 40 doublings in a row")
    deep: list[list[tuple[int, float]]] = [[]] + [[(place, 1), (0, 1)] for place in range(10_000)]
    call = "backward_pass on a graph 10,000 deep: y = x, and 10,000 times y = y + x"
    _check(backward_pass, deep, ["x", *(f"sum {place}" for place in range(1, 10_001))], call)


def _check(backward_pass: BackwardPass, uses: Uses, names: Sequence[str], call: str, *, grad: float = 1.0) -> None:
    nodes = _build(uses, names, 1.0)
    expected = _expected(uses, grad)
    _call(backward_pass, nodes[-1], grad, call)
    _diagnose(nodes, uses, expected, grad, call)
    for node in nodes:
        node.passed.clear()
    before = _gradients(nodes)
    again = f"{call}; then the same with twice the gradient"
    _call(backward_pass, nodes[-1], 2 * grad, again)
    values = _gradients(nodes)
    if np.any(~np.isclose(values, 2 * expected) & np.isclose(values, before + 2 * expected)):
        hint = "the gradients of the first call are still in there. What .grad held before is to be forgotten."
        raise Wrong(again, hint, yours=values[:_MOST_SHOWN], expected=2 * expected[:_MOST_SHOWN])
    _diagnose(nodes, uses, 2 * expected, 2 * grad, again)


def _check_arrays(
    backward_pass: BackwardPass, uses: Uses, names: Sequence[str], call: str, generator: np.random.Generator
) -> None:
    """The same graph with arrays; who was right with numbers can only have changed an array that others hold too."""
    grad = generator.normal(size=(2, 3))
    given = grad.copy()
    nodes = _build(uses, names, np.ones((2, 3)))
    call = f"{call}, with arrays of shape (2, 3)"
    _call(backward_pass, nodes[-1], given, call)
    hint = (
        "it is right with numbers, but not with arrays: `a.grad += part` changes the array itself, which other nodes "
        "hold as well. `a.grad = a.grad + part` makes a new one."
    )
    results = {node.name: node.grad for node in nodes} | {"the argument grad": given}
    for (name, yours), factor in zip(results.items(), [*_expected(uses, 1.0), 1.0], strict=True):
        if yours is None or np.shape(yours) != grad.shape or not np.allclose(yours, factor * grad):
            raise Wrong(f"{name}, after {call}", hint, yours=yours, expected=factor * grad)


def _call(backward_pass: BackwardPass, root: _Node, grad: Any, call: str) -> None:
    try:
        with noted(call):
            backward_pass(root, grad)
    except TypeError as error:
        text = str(error)
        if "'NoneType' object is not callable" in text and root.pass_back is not None:
            hint = "a leaf was asked to pass back. It has no parents, and its pass_back is None."
        elif "'NoneType' object is not callable" in text:
            hint = "the root is a leaf here, whose pass_back is None. It only gets its gradient."
        elif "for +" in text and "NoneType" in text:
            hint = "a .grad is None until something has arrived: take the first part as it is, and add the others."
        else:
            raise
        raise Wrong(call, hint) from error


def _diagnose(nodes: Sequence[_Node], uses: Uses, expected: np.ndarray, grad: float, call: str) -> None:
    """Nothing if all gradients are as expected and each node has passed its own back once; else Wrong, with why."""
    values = _gradients(nodes)
    names = _listed([node.name for node in nodes])
    inner = [(node, value) for node, value in zip(nodes, expected, strict=True) if node.parents]

    def wrong(hint: str) -> Wrong:
        return Wrong(
            f"the gradients of ({names}) after {call}",
            hint,
            yours=values[:_MOST_SHOWN],
            expected=expected[:_MOST_SHOWN],
        )

    right = np.allclose(values, expected, rtol=1e-9)
    for node, _ in inner:
        if len(node.passed) > 1 and right:
            raise wrong(
                f"the numbers are right, but {node.name} has passed its gradient back {len(node.passed)} times. Once "
                "is enough, when all of its own gradient has arrived; else the work doubles with each node used twice."
            )
        if len(node.passed) > 1:
            passed = _listed([f"{float(value):g}" for value in node.passed])
            raise wrong(
                f"{node.name} has passed its gradient back {len(node.passed)} times ({passed}): the first time before "
                "all of it had arrived, and then that part once more."
            )
    if not right and np.allclose(values, _overwritten(uses, grad), equal_nan=True):
        raise wrong("of several parts only the last is kept. A node that is used more than once gets the sum of them.")
    for node, _ in inner:
        if node.grad is not None and not node.passed:
            raise wrong(
                f"{node.name} has a gradient, but has not passed it back to what it was made from. "
                "If you count missing parts: has an arrow been counted twice?"
            )
    missing = [node.name for node in nodes if node.grad is None]
    if missing:
        raise wrong(f"nothing has arrived at {_listed(missing)}: .grad is still None.")
    if not np.isclose(values[-1], expected[-1]):
        raise wrong(f"the root's gradient is {values[-1]:g}; it is to be `grad`, {grad:g}.")
    if len(inner) > 1 and all(np.isclose(float(node.passed[0]), grad) for node, _ in inner) and not right:
        raise wrong(
            f"every node has passed back {grad:g}, the argument `grad`. Each passes back its own gradient: "
            "pass_back(number.grad)."
        )
    for node, value in reversed(inner):
        if not math.isclose(float(node.passed[0]), value, rel_tol=1e-9, abs_tol=1e-12):
            raise wrong(
                f"{node.name} has passed back {float(node.passed[0]):g}, but its gradient is {value:g}: it has passed "
                "back before all parts had arrived."
            )
    compare(values, expected, f"the gradients of ({names}) after {call}")


def _build(uses: Uses, names: Sequence[str], data: Any) -> list[_Node]:
    nodes: list[_Node] = []
    for name, one in zip(names, uses, strict=True):
        nodes.append(_Node(name, data, tuple(nodes[parent] for parent, _ in one), tuple(slope for _, slope in one)))
    return nodes


def _expected(uses: Uses, grad: float) -> np.ndarray:
    """grad times the slope of the last node along each node: paths of each, counted from the front."""
    if all(slope == 1 for one in uses for _, slope in one) and len(uses) > 100:  # the deep chain: x, and x added
        return grad * np.array([len(uses), *[1] * (len(uses) - 1)], float)
    slopes = []
    for start in range(len(uses)):
        reach = np.zeros(len(uses))
        reach[start] = 1
        for place in range(start + 1, len(uses)):
            reach[place] = sum(slope * reach[parent] for parent, slope in uses[place])
        slopes.append(reach[-1])
    return grad * np.array(slopes)


def _overwritten(uses: Uses, grad: float) -> np.ndarray:
    """What comes out in the right order if each part takes the place of the one before."""
    grads = np.full(len(uses), np.nan)
    grads[-1] = grad
    for place in reversed(range(len(uses))):
        for parent, slope in uses[place]:
            grads[parent] = slope * grads[place]
    return grads


def _random_graph(generator: np.random.Generator, size: int) -> Uses:
    """Two leaves, then nodes of one to three parents, of which the one before is always one, so that all are used."""
    uses: list[list[tuple[int, float]]] = [[], []]
    for place in range(2, size):
        parents = [place - 1, *generator.integers(0, place, generator.integers(0, 3)).tolist()]
        if place == 2:
            parents = [0, 1]
        order = generator.permutation(len(parents))
        uses.append([(parents[i], float(generator.choice([1.0, 1.0, -0.5, 0.75]))) for i in order])
    return uses


def _gradients(nodes: Sequence[_Node]) -> np.ndarray:
    return np.array([np.nan if node.grad is None else float(node.grad) for node in nodes])


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_SHOWN])
    return ", ".join(shown + ["…"] * (len(names) > _MOST_SHOWN))
