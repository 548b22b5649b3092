"""dice_loss: its definition by hand, its gradient, void, absent classes, and what makes it differ from the others."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_cases, second_device, seeded

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import DeviceError, DtypeError, ShapeError, UsageError

pytestmark = pytest.mark.usefixtures("device")


@st.composite
def cases(draw):
    """Logits, labels and every argument; some labels are ignored, and some classes may be absent."""
    num_classes, batch = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    spatial = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    ignore_index = draw(st.sampled_from([255, -100, 0, None]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    labels = generator.integers(0, num_classes, (batch, *spatial))
    if ignore_index is not None:
        labels[generator.random(labels.shape) < 0.3] = ignore_index
    return {
        "logits": 2 * generator.standard_normal((batch, num_classes, *spatial)),
        "labels": labels,
        "weight": generator.random(num_classes) + 0.1 if draw(st.booleans()) else None,
        "ignore_index": ignore_index,
        "smooth": draw(st.sampled_from([0, 0.5, 1.0])),
    }


def by_loops(logits, labels, *, weight, ignore_index, smooth):
    """The definition, pixel by pixel: overlap, predicted and labelled of each class, then the mean."""
    num_classes = logits.shape[1]
    overlap, predicted, labelled = np.zeros((3, num_classes))
    for place in np.ndindex(labels.shape):
        if labels[place] == ignore_index:
            continue
        scores = np.array([logits[(place[0], c, *place[1:])] for c in range(num_classes)])
        p = np.exp(scores) / np.exp(scores).sum()
        predicted += p
        overlap[labels[place]] += p[labels[place]]
        labelled[labels[place]] += 1
    occurring = [c for c in range(num_classes) if labelled[c]]
    weights = [1.0 if weight is None else weight[c] for c in occurring]
    losses = [1 - (2 * overlap[c] + smooth) / (predicted[c] + labelled[c] + smooth) for c in occurring]
    return np.average(losses, weights=weights) if occurring else 0.0


def test_two_pixels_by_hand():
    """Probabilities (3/4, 1/4) at both pixels, labels 0 and 1, no smoothing.

    Class 0: overlap 3/4, predicted 6/4, labelled 1: D = (6/4) / (10/4) = 3/5. Class 1: 1/4, 2/4, 1: D = 1/3.
    """
    logits, labels = Tensor(np.log([[3.0, 1.0], [3.0, 1.0]])), np.array([0, 1])
    assert ops.dice_loss(logits, labels, smooth=0).item() == pytest.approx((2 / 5 + 2 / 3) / 2)
    assert ops.dice_loss(logits, labels, smooth=1).item() == pytest.approx((2 / 7 + 2 / 5) / 2)
    weighted = ops.dice_loss(logits, labels, smooth=0, weight=np.array([3.0, 1.0]))
    assert weighted.item() == pytest.approx((3 * 2 / 5 + 2 / 3) / 4)


def test_the_right_answer_costs_nothing_and_the_wrong_one_costs_all():
    """A loss that is 1 at its best, or counts background only."""
    labels = np.array([[[0, 1, 1], [0, 1, 255]]])
    right = 200.0 * (labels[:, None] == np.arange(2).reshape(1, 2, 1, 1))
    assert ops.dice_loss(Tensor(right), labels).item() == pytest.approx(0, abs=1e-12)
    assert ops.dice_loss(Tensor(-right), labels, smooth=0).item() == pytest.approx(1)


def test_a_tiny_class_weighs_as_much_as_a_large_one():
    """Averaged over pixels, missing one pixel of a hundred would cost a hundredth; here it costs half of everything."""
    labels = np.zeros((1, 100), int)
    labels[0, 7] = 1
    logits = np.zeros((1, 2, 100))
    logits[:, 0] = 50  # class 0 everywhere
    # Dice of class 0: 2 · 99 / (100 + 99); of class 1: 0.
    assert ops.dice_loss(Tensor(logits), labels, smooth=0).item() == pytest.approx((1 / 199 + 1) / 2)


def test_it_is_one_ratio_for_the_whole_batch():
    """Averaged image by image, a class that is right in one image and missed in another would cost something else."""
    labels = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    predicted = np.array([[1, 1, 1, 0], [0, 0, 0, 0]])
    logits = 100.0 * (predicted[:, None] == np.arange(2).reshape(1, 2, 1))
    expected = ((1 - 2 * 4 / 9) + (1 - 2 * 3 / 7)) / 2
    assert ops.dice_loss(Tensor(logits), labels, smooth=0).item() == pytest.approx(expected)


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    """Counted as perfect they would flatter the loss, counted as failed they could not be mended."""
    logits, labels = seeded(1, 2, 6).numpy(), np.array([[0, 1, 1, 0, 1, 0]])
    two = ops.dice_loss(Tensor(logits), labels)
    with_a_third = np.concatenate([logits, np.full((1, 1, 6), -1e4)], axis=1)
    assert ops.dice_loss(Tensor(with_a_third), labels).item() == pytest.approx(two.item())


def test_void_pixels_neither_count_nor_learn():
    """Void as background, or void in the sum of the predictions."""
    logits, labels = seeded(1, 3, 2, 3), np.array([[[0, 255, 1], [2, 1, 255]]])
    kept = labels[0] != 255
    alone = ops.dice_loss(Tensor(logits.numpy()[:, :, kept]), labels[:, kept])
    loss = ops.dice_loss(logits, labels)
    assert loss.item() == pytest.approx(alone.item())
    loss.backward()
    assert_array_equal(logits.grad.any(axis=1)[0], kept)


@pytest.mark.parametrize("labels", [np.full((2, 2, 2), 255), np.zeros((2, 2, 2), int)])
@pytest.mark.parametrize("smooth", [0, 1])
def test_a_batch_without_a_class_that_counts_costs_nothing(labels, smooth):
    """0/0 at the first picture without labels, or where the one class there is has no weight."""
    logits = seeded(2, 3, 2, 2)
    loss = ops.dice_loss(logits, labels, weight=np.array([0.0, 1.0, 1.0]), smooth=smooth)
    loss.backward()
    assert loss.item() == 0
    assert_array_equal(logits.grad, np.zeros((2, 3, 2, 2)))


def test_an_empty_batch_costs_nothing():
    """The maximum of no labels is an error of NumPy's."""
    logits = seeded(0, 3, 2, 2)
    loss = ops.dice_loss(logits, np.zeros((0, 2, 2), int))
    loss.backward()
    assert loss.item() == 0


@random_cases
@given(cases())
def test_it_equals_the_loops(case):
    """Any slip in weights, void, smoothing, or the classes that occur, for (N, C), (N, C, L) and (N, C, H, W)."""
    loss = ops.dice_loss(Tensor(case["logits"]), case["labels"], **_options(case))
    assert_allclose(loss.item(), by_loops(**case), rtol=1e-12, atol=1e-14)


@random_cases
@given(cases())
def test_its_gradient_agrees_with_finite_differences(case):
    """A term of the quotient rule or of the softmax forgotten, or the incoming gradient."""
    logits, labels = Tensor(case["logits"], requires_grad=True), case["labels"]
    assert gradcheck(lambda z: ops.dice_loss(z, labels, **_options(case)), [logits], mode="elementwise")
    assert gradcheck(lambda z: ops.dice_loss(z, labels, **_options(case)) * 3.0, [logits])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_pytorch_s_automatic_derivative(dtype):
    """The formula written a second time, differentiated by somebody else: value and gradient."""
    torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, (2, 9, 7))  # of five classes, so that one is absent
    labels[generator.random(labels.shape) < 0.2] = 255
    logits, weight = generator.standard_normal((2, 5, 9, 7)).astype(dtype), generator.random(5)

    x = torch.tensor(logits, requires_grad=True)
    valid = torch.tensor(labels != 255)
    p = torch.softmax(x, 1).movedim(1, -1)[valid]  # (pixels, C)
    t = torch.nn.functional.one_hot(torch.tensor(labels)[valid], 5).to(p.dtype)
    losses = 1 - (2 * (p * t).sum(0) + 0.5) / (p.sum(0) + t.sum(0) + 0.5)
    v = torch.tensor(weight.astype(dtype)) * (t.sum(0) > 0)
    expected = (v * losses).sum() / v.sum()
    expected.backward()

    ours = Tensor(logits, requires_grad=True)
    loss = ops.dice_loss(ours, labels, weight=weight, smooth=0.5)
    loss.backward()
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    assert loss.dtype == ours.grad.dtype == dtype
    assert_allclose(loss.item(), expected.item(), rtol=tolerance)
    assert_allclose(ours.grad, x.grad.numpy(), rtol=tolerance, atol=tolerance * np.abs(x.grad.numpy()).max())


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_do_not_overflow(size):
    """exp(1e4) is infinite, and infinity divided by itself is not a number."""
    logits = Tensor(np.array([[size, 0, 0], [0, size, 0]], np.float32), requires_grad=True)
    loss = ops.dice_loss(logits, np.array([0, 0]))
    loss.backward()
    assert np.isfinite(loss.item())
    assert np.isfinite(logits.grad).all()


def test_a_label_out_of_range_is_named():
    """An IndexError from inside."""
    with pytest.raises(UsageError, match=r"dice_loss: label 12 in 3 pixels, but the logits have 11 classes"):
        ops.dice_loss(Tensor(np.zeros((1, 11, 3))), np.full((1, 3), 12))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"labels": np.zeros((1, 2, 3), int)}, ShapeError, r"need labels of \(1, 2, 2\), not \(1, 2, 3\)"),
        ({"labels": np.zeros((1, 2, 2))}, DtypeError, "labels are integers, not float64"),
        ({"weight": np.ones(4)}, ShapeError, r"weight has shape \(4,\); \(3,\)"),
        ({"smooth": -1}, UsageError, "smooth is -1"),
        ({"smooth": float("nan")}, UsageError, "smooth is nan"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, error, words):
    """Weights of another data set, or one image's labels, broadcast in silence."""
    arguments = {"labels": np.zeros((1, 2, 2), int), **arguments}
    with pytest.raises(error, match=words) as caught:
        ops.dice_loss(Tensor(np.zeros((1, 3, 2, 2))), **arguments)
    assert str(caught.value).startswith("dice_loss: ")


@pytest.mark.cpu_only("a second device made of host arrays")
def test_it_stays_on_the_device_of_the_logits():
    """A constant made with NumPy in the middle of a GPU's arrays."""
    with second_device() as device:
        logits = Tensor(seeded(1, 3, 4).data, requires_grad=True, device=device)
        loss = ops.dice_loss(logits, np.array([[0, 1, 2, 255]]))
        assert loss.device == device
        loss.backward()
        with pytest.raises(DeviceError, match="dice_loss: the logits are on cpu, the weight on other"):
            ops.dice_loss(seeded(1, 3, 4), np.zeros((1, 4), int), weight=Tensor(np.ones(3), device=device))


def _options(case):
    return {key: value for key, value in case.items() if key not in ("logits", "labels")}
