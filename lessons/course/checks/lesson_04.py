"""Lesson 4: gradcheck must accept right gradients and reject planted wrong ones.

What it answers is judged as it stands. Only the hint is found by looking over its shoulder: how it moved the inputs,
which cotangent it gave to backward, and what it accepts of a function whose slopes are known.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from course.comparing import Wrong, noted

Array = np.ndarray
Function = Callable[..., Array]
Backward = Callable[..., Sequence[Array]]
Gradcheck = Callable[..., bool]

_RUNS = 12  # a planted gradient must be rejected every time, whatever the random numbers; one accident is forgiven
_RIGHT_RUNS = 5


@dataclass(frozen=True)
class Case:
    """A function with its right backward, as a sentence names it."""

    name: str
    function: Function
    backward: Backward
    inputs: tuple[Array, ...]
    if_rejected: str = ""  # what is likely if the right gradient is rejected here, and nothing else can be seen


@dataclass(frozen=True)
class Fault:
    """A wrong backward of a case. position: of the input whose gradient is wrong."""

    name: str
    case: Case
    backward: Backward
    if_accepted: str
    position: int = 0


@dataclass
class Seen:
    """What a gradcheck did: by input how it was moved, and what backward was given."""

    moves: list[list[Array]]
    cotangents: list[Array] = field(default_factory=list)
    dtypes: set[str] = field(default_factory=set)


def check_gradcheck(gradcheck: Gradcheck, generator: np.random.Generator) -> None:
    cases = _cases(generator)
    faults = _faults(cases)
    _must_accept(gradcheck, cases["square"], generator)
    _must_reject(gradcheck, faults[0], generator)
    for name in ("cosine", "product", "matrix product", "softmax", "sum of squares", "bias"):
        _must_accept(gradcheck, cases[name], generator)
    for fault in faults[1:]:
        _must_reject(gradcheck, fault, generator)
    for name in ("curved", "large", "no slope", "shifted softmax"):
        _must_accept(gradcheck, cases[name], generator)


def _cases(generator: np.random.Generator) -> dict[str, Case]:
    def numbers(*shape: int) -> Array:
        return generator.normal(size=shape)

    def away_from_zero(*shape: int) -> Array:
        return generator.uniform(0.5, 1.5, shape) * generator.choice([-1.0, 1.0], shape)

    return {
        "square": Case("x² at x = [3]", lambda x: x * x, lambda g, x: (2 * g * x,), (np.array([3.0]),)),
        "cosine": Case("cos(x)", np.cos, lambda g, x: (-g * np.sin(x),), (away_from_zero(2, 3),)),
        "product": Case(
            "x · tanh(x)",
            lambda x: x * np.tanh(x),
            lambda g, x: (g * (np.tanh(x) + x * (1 - np.tanh(x) ** 2)),),
            (away_from_zero(2, 3),),
        ),
        "matrix product": Case("x @ w", np.matmul, lambda g, x, w: (g @ w.T, x.T @ g), (numbers(3, 4), numbers(4, 2))),
        "square matrices": Case("x @ w", np.matmul, lambda g, x, w: (g @ w.T, x.T @ g), (numbers(3, 3), numbers(3, 3))),
        "softmax": Case("softmax(x)", _softmax, _softmax_backward, (numbers(4, 3),)),
        "sum of squares": Case(
            "Σ x², one number", lambda x: (x * x).sum(), lambda g, x: (2 * g * x,), (numbers(2, 3),)
        ),
        "bias": Case("x + b", np.add, lambda g, x, b: (g, g.sum(axis=0)), (numbers(3, 4), numbers(4))),
        "steps": Case("x[1:] − x[:-1]", np.diff, _diff_backward, (numbers(6),)),
        "roll": Case("np.roll(x, 1)", lambda x: np.roll(x, 1), lambda g, x: (np.roll(g, -1),), (numbers(6),)),
        "sine": Case(
            "sin(π x)", lambda x: np.sin(np.pi * x), lambda g, x: (g * np.pi * np.cos(np.pi * x),), (numbers(5) / 8,)
        ),
        "small": Case("0.0001 · x²", lambda x: 1e-4 * x * x, lambda g, x: (2e-4 * g * x,), (away_from_zero(2, 3),)),
        "square with a zero": Case(
            "x² at x = [0, 1, 2]", lambda x: x * x, lambda g, x: (2 * g * x,), (np.array([0.0, 1.0, 2.0]),)
        ),
        "curved": Case(
            "exp(10 x)", lambda x: np.exp(10 * x), lambda g, x: (10 * g * np.exp(10 * x),), (numbers(5) / 4,)
        ),
        "large": Case(
            "x³ for x about 100",
            lambda x: x * x * x,
            lambda g, x: (3 * g * x * x,),
            (100 + 10 * numbers(2, 3),),
            "the slopes here are about 30,000, and rounding alone makes a difference of 0.0001. Measure the difference "
            "of the two slopes against their size: it may be 1e-5 of the larger one.",
        ),
        "no slope": Case(
            "min(x, 0) for x > 0",
            lambda x: np.minimum(x, 0),
            lambda g, x: (g * (x < 0),),
            (1 + numbers(2, 3) ** 2,),
            "both slopes are exactly 0, and they are equal. Do you divide by their size? 0/0 is NaN. Allow a small "
            "absolute difference as well, and compare with <=.",
        ),
        "shifted softmax": Case(
            "softmax(x + c) with one number c",
            lambda x, c: _softmax(x + c),
            lambda g, x, c: (*_softmax_backward(g, x + c), _softmax_backward(g, x + c)[0].sum(keepdims=True)[0]),
            (numbers(4, 3), numbers(1)),
            "softmax does not change with c, so both slopes are 0 up to rounding, such as 1e-11 and 1e-17. Measured "
            "against their own size these differ. Allow a small absolute difference as well: 1e-7, say.",
        ),
    }


def _faults(cases: dict[str, Case]) -> list[Fault]:
    return [
        Fault(
            "a backward without the factor 2",
            cases["square"],
            lambda g, x: (g * x,),
            "backward says half of the slope, and that is accepted. Compare the slope that you measure with "
            "Σ u·gradient, and return False where they differ.",
        ),
        Fault(
            "a backward with the wrong sign",
            cases["cosine"],
            lambda g, x: (g * np.sin(x),),
            "two slopes of opposite sign are not equal. Compare the numbers themselves, not their sizes.",
        ),
        Fault(
            "a backward that lacks one term of the product rule",
            cases["product"],
            lambda g, x: (g * np.tanh(x),),
            "one of the two terms is missing, and the slopes differ plainly. Return False as soon as one direction "
            "disagrees.",
        ),
        Fault(
            "a backward that returns zeros",
            cases["softmax"],
            lambda g, x: (np.zeros_like(x),),
            "the gradient is not zero. Return False as soon as one direction disagrees.",
        ),
        Fault(
            "a backward that is wrong in x only",
            cases["square matrices"],
            lambda g, x, w: (g @ w, x.T @ g),
            "the gradient of the first input is wrong, that of the second is right. One that is right does not make up "
            "for one that is wrong: return False at the first that disagrees.",
        ),
        Fault(
            "a backward that is wrong in w only",
            cases["square matrices"],
            lambda g, x, w: (g @ w.T, x @ g),
            "the gradient of the second input is wrong, that of the first is right. Return True only after all inputs.",
            position=1,
        ),
        Fault(
            "a backward that forgets the last entry",
            cases["steps"],
            lambda g, x: (np.append(_diff_backward(g, x)[0][:-1], 0.0),),
            "the gradient is wrong in its last entry only, which a direction that moves all entries notices.",
        ),
        Fault(
            "a backward that forgets the first entry",
            cases["steps"],
            lambda g, x: (np.append(0.0, _diff_backward(g, x)[0][1:]),),
            "the gradient is wrong in its first entry only, which a direction that moves all entries notices.",
        ),
        Fault(
            "a backward that rolls the wrong way",
            cases["roll"],
            lambda g, x: (np.roll(g, 1),),
            "the numbers are right, but stand in the wrong places; a random direction notices.",
        ),
        Fault(
            "a backward that takes 3.14 for π",
            cases["sine"],
            lambda g, x: (g * 3.14 * np.cos(np.pi * x),),
            "the gradient is wrong by 0.05 %, and that is accepted. Your tolerance is too loose: with two sides, "
            "eps = 1e-6 and float64, a relative difference of 1e-5 is enough.",
        ),
        Fault(
            "a backward without the factor 2",
            cases["small"],
            lambda g, x: (1e-4 * g * x,),
            "the slopes here are about 0.0001, less than what your tolerance allows as a difference. Measure the "
            "difference against the size of the slopes.",
        ),
        Fault(
            "a backward that computes 2·x²/x, which is NaN at 0",
            cases["square with a zero"],
            lambda g, x: (2 * g * x * (x / x),),
            "a gradient with a NaN is accepted. Each comparison with NaN is False, so `if difference > tolerance: "
            "return False` lets it pass. Ask `if not difference <= tolerance`, or use np.isclose.",
        ),
        Fault(
            "a backward whose gradient of b has the shape of x",
            cases["bias"],
            lambda g, x, b: (g, g),
            "the gradient of b has the shape (3, 4), and b has (4,). In u * gradient broadcasting hides it, and the "
            "sum comes out right. Return False if np.shape(gradient) is not the shape of the input.",
            position=1,
        ),
    ]


def _must_accept(gradcheck: Gradcheck, case: Case, generator: np.random.Generator) -> None:
    call = f"gradcheck of {case.name} with its right backward"
    answers = [_ask(gradcheck, case, case.backward, generator, call) for _ in range(_RIGHT_RUNS)]
    rejected = [seen for answer, seen in answers if not answer]
    if len(rejected) > 1:
        raise Wrong(call, _why_rejected(gradcheck, case, rejected[0], generator), yours=False, expected=True)


def _must_reject(gradcheck: Gradcheck, fault: Fault, generator: np.random.Generator) -> None:
    call = f"gradcheck of {fault.case.name} with {fault.name}"
    answers = []
    for _ in range(_RUNS):
        try:
            answers.append(_ask(gradcheck, fault.case, fault.backward, generator, call))
        except (AssertionError, ValueError) as error:
            hint = f"it raises {type(error).__name__} where it should answer False. {fault.if_accepted}"
            raise Wrong(call, hint, expected=False) from None
    accepted = [seen for answer, seen in answers if answer]
    if len(accepted) > 1:
        raise Wrong(call, _why_accepted(fault, accepted), yours=True, expected=False)


def _ask(
    gradcheck: Gradcheck, case: Case, backward: Backward, generator: np.random.Generator, call: str
) -> tuple[bool, Seen]:
    """The answer, and what was seen on the way."""
    seen = Seen([[] for _ in case.inputs])
    shape = np.shape(case.function(*case.inputs))

    def called_rightly(call_of: str, arrays: Sequence[Any]) -> None:
        given = [np.shape(array) for array in arrays]
        expected = [array.shape for array in case.inputs]
        if given != expected:
            raise Wrong(
                call,
                f"{call_of} was called with inputs of the shapes {_shapes(given)}, but these inputs have "
                f"{_shapes(expected)}. The star takes the list apart, and a direction has the shape of its input.",
            )

    def watched_function(*arrays: Any) -> Array:
        called_rightly("function(*inputs)", arrays)
        for position, (array, original) in enumerate(zip(arrays, case.inputs, strict=True)):
            array = np.asarray(array)
            seen.dtypes.add(str(array.dtype))
            if (array != original).any():
                seen.moves[position].append(array - original)
        return case.function(*arrays)

    def watched_backward(*arguments: Any) -> Sequence[Array]:
        if len(arguments) != len(case.inputs) + 1 or np.shape(arguments[0]) != shape:
            raise Wrong(
                call,
                f"backward is called as backward(grad, *inputs), and grad has the shape {shape} of the output. Here it "
                f"was called with arrays of the shapes {_shapes(map(np.shape, arguments))}.",
            )
        called_rightly("backward(grad, *inputs)", arguments[1:])
        seen.cotangents.append(np.array(arguments[0], dtype=float))
        return backward(*arguments)

    inputs = [array.copy() for array in case.inputs]
    with noted(call):
        answer = gradcheck(watched_function, watched_backward, inputs, np.random.default_rng(generator.integers(2**63)))
    if answer is None:
        raise Wrong(call, "nothing came back. Does your function end with `return`?", expected=True)
    if not isinstance(answer, bool | np.bool_):
        raise Wrong(call, f"True or False is expected, but {type(answer).__name__} came back.", yours=answer)
    for position, (now, before) in enumerate(zip(inputs, case.inputs, strict=False)):
        if now is not None and not np.array_equal(now, before):
            raise Wrong(
                call,
                f"your function has changed inputs[{position}], which belongs to its caller. Adding eps·u and "
                "subtracting it again does not give the same numbers back, because of rounding; move a copy.",
                yours=now,
                expected=before,
            )
    return bool(answer), seen


def _shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def _why_idle(seen: Seen) -> str:
    if not seen.cotangents:
        return "backward is never called, so nothing is known of what it returns."
    if not any(seen.moves):
        return "function is never called with inputs that were moved, so no slope is measured."
    return ""


def _why_accepted(fault: Fault, runs: list[Seen]) -> str:
    """The likely cause, from the runs in which the planted gradient was accepted."""
    seen, case, position = runs[0], fault.case, fault.position
    if _why_idle(seen):
        return _why_idle(seen)
    moves = seen.moves[position]
    if not moves:
        return (
            f"inputs[{position}] is never moved, so a gradient that is wrong in it alone is accepted. Check each "
            "input; and is the `return True` behind the loop?"
        )
    right, wrong = case.backward(seen.cotangents[0], *case.inputs), fault.backward(seen.cotangents[0], *case.inputs)
    if np.shape(wrong[position]) != np.shape(right[position]) or np.isnan(wrong[position]).any():
        return fault.if_accepted
    gap = wrong[position] - right[position]
    if np.abs(gap).max() < 1e-9:
        if np.ptp(seen.cotangents[0]) == 0:
            return (
                "backward was given the same number for each output, so the slope is that of the plain sum of the "
                "outputs. The sum of a softmax is always 1, and a gradient of zero is right for it. Draw the cotangent "
                "at random."
            )
        return "for the cotangent that you chose, the wrong gradient happens to be right. Draw it at random."
    if all(abs((move * gap).sum()) <= 1e-6 * np.abs(move * gap).sum() + 1e-300 for move in moves):
        if all(np.ptp(move) <= 1e-6 * np.abs(move).max() for move in moves):
            return (
                "all entries are moved by the same amount, and the errors of this gradient cancel in the sum. Draw the "
                "direction at random."
            )
        moved = sum(np.abs(move) for move in moves) > 0
        if not moved.all():
            return (
                f"only {int(moved.sum())} of the {moved.size} entries of inputs[{position}] are moved; what backward "
                "says of the others is not checked. Move all of them, along a random direction."
            )
        return "along the directions that you chose, the errors of this gradient cancel. Draw them at random."
    if len(runs) < _RUNS - 1:
        return (
            f"this wrong gradient was accepted {len(runs)} times in {_RUNS}. Is it the absolute value of the "
            "difference that you compare with the tolerance? And does one direction that disagrees suffice for False?"
        )
    return fault.if_accepted


def _why_rejected(gradcheck: Gradcheck, case: Case, seen: Seen, generator: np.random.Generator) -> str:
    """The likely cause, from the run and from what is accepted for 3·x at x = 0, whose measured slopes are exact."""
    if _why_idle(seen):
        return _why_idle(seen)
    if any(name != "float64" for name in seen.dtypes):
        return f"the inputs are moved as {min(seen.dtypes)}, which has too few digits. Keep them in float64."
    zeros = np.zeros(24)

    def accepts(backward: Backward, inputs: Array = zeros, tries: int = 5) -> bool:
        probe = Case("3·x at x = 0", lambda x: 3 * x, backward, (inputs,))
        answers = [_ask(gradcheck, probe, backward, generator, "gradcheck")[0] for _ in range(tries)]
        return sum(answers) > tries // 2

    if accepts(lambda g, x: (3 * g,)):
        steps = [np.abs(move).max() for moves in seen.moves for move in moves]
        two_sided = _moved_to_both_sides(seen)
        if max(steps) < 1e-9:
            return f"the inputs are moved by {max(steps):.0e} only, and rounding is larger than that. Take eps = 1e-6."
        if not two_sided and max(steps) > 1e-7:
            return (
                f"the slope is measured on one side only, with inputs moved by up to {max(steps):.0e}: too far, for on "
                "one side the error is proportional to eps. Take both sides: (f₊ − f₋) / (2·eps)."
            )
        if max(steps) > 1e-3:
            return f"the inputs are moved by up to {max(steps):.0e}, too far for a curved function. Take eps = 1e-6."
        return case.if_rejected or (
            "the two slopes agree in many digits, but not in all: a measured slope is rounded. Take eps = 1e-6, and "
            "allow a relative difference of 1e-5."
        )
    for factor, cause in (
        (2.0, "the slope that you measure is twice the right one. Between x + eps·u and x − eps·u lie 2·eps."),
        (0.5, "the slope that you measure is half the right one. Divide by the distance of the two points."),
        (-1.0, "the slope that you measure has the wrong sign: it is f(x + eps·u) − f(x − eps·u)."),
    ):
        if accepts(lambda g, x, factor=factor: (3 * factor * g,)):
            return cause
    if any(
        accepts(lambda g, x, scale=scale: (scale * g,)) for k in range(2, 10) for scale in (3 * 10.0**-k, 6 * 10.0**-k)
    ):
        return "the slope that you measure is tiny. Is the difference divided by 2·eps?"
    if accepts(lambda g, x: (3 * np.ones_like(g),)):
        return (
            "the slope that you measure is that of the plain sum of the outputs, but backward was given other numbers. "
            "Weigh the outputs with the same numbers: Σ v·(f₊ − f₋)."
        )
    if any(accepts(lambda g, x: (3 * g,), np.zeros(1), tries=1) for _ in range(40)):
        return (
            "the two slopes are rounded, so they do not agree in all sixteen digits. Allow a relative difference of "
            "1e-5, instead of asking for equality."
        )
    return (
        "a right gradient is rejected. Is the measured slope Σ v·(f₊ − f₋) / (2·eps), and what backward says "
        "Σ u·gradient, with one and the same v and u on both sides?"
    )


def _moved_to_both_sides(seen: Seen) -> bool:
    """Whether an input was moved along some direction and against it."""
    for moves in seen.moves:
        for first in moves[:4]:
            if any(np.allclose(first, -second, rtol=1e-2, atol=1e-2 * np.abs(first).max()) for second in moves[:8]):
                return True
    return False


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _softmax_backward(grad: Array, x: Array) -> tuple[Array]:
    y = _softmax(x)
    return (y * (grad - (grad * y).sum(axis=1, keepdims=True)),)


def _diff_backward(grad: Array, x: Array) -> tuple[Array]:
    return (np.concatenate([[0.0], grad]) - np.concatenate([grad, [0.0]]),)
