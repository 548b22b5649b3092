"""softmax_cross_entropy: void, weights, masks, reductions, and numbers that overflow."""

import math

import numpy as np
import oracles
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
def losses(draw):
    """Logits, labels, and every argument; some labels are ignored."""
    num_classes, batch = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    spatial = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    ignore_index = draw(st.sampled_from([255, -100, 0, None]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    labels = generator.integers(0, num_classes, (batch, *spatial))
    if ignore_index is not None:
        labels[generator.random(labels.shape) < 0.3] = ignore_index
    return {
        "logits": 3 * generator.standard_normal((batch, num_classes, *spatial)),
        "labels": labels,
        "weight": generator.random(num_classes) + 0.1 if draw(st.booleans()) else None,
        "ignore_index": ignore_index,
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "mask": generator.integers(0, 3, labels.shape).astype(float) if draw(st.booleans()) else None,
    }


def test_zero_scores_cost_the_logarithm_of_the_number_of_classes():
    """ln 21 = 3.0445, the first loss of every FCN on VOC: anything else and the score layers are not zero."""
    logits, labels = Tensor(np.zeros((1, 21, 4, 4))), np.arange(16).reshape(1, 4, 4)
    assert ops.softmax_cross_entropy(logits, labels).item() == pytest.approx(3.0445, abs=5e-5)


def test_two_pixels_by_hand():
    """Probabilities 3/4 and 1/4: losses ln 4/3 and ln 4."""
    logits, labels = Tensor(np.log([[3.0, 1.0], [3.0, 1.0]]), requires_grad=True), np.array([0, 1])
    each = ops.softmax_cross_entropy(logits, labels, reduction="none")
    assert_allclose(each.data, [math.log(4 / 3), math.log(4)])
    assert ops.softmax_cross_entropy(logits, labels, reduction="sum").item() == pytest.approx(math.log(16 / 3))
    ops.softmax_cross_entropy(logits, labels).backward()
    assert_allclose(logits.grad, [[-1 / 8, 1 / 8], [3 / 8, -3 / 8]])


def test_the_mean_divides_by_the_weights_that_count():
    """Dividing by the number of pixels, void ones included, gives 1/3 of it; void treated as background, more."""
    logits = Tensor(np.zeros((1, 2, 1, 3)), requires_grad=True)
    labels = np.array([[[1, 255, 255]]])
    loss = ops.softmax_cross_entropy(logits, labels, weight=np.array([5.0, 3.0]))
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert_allclose(logits.grad[0, :, 0], [[0.5, 0, 0], [-0.5, 0, 0]])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_of_nothing_but_void_costs_nothing(reduction):
    """0/0 = NaN, which would end the training at the first picture without a label."""
    logits = seeded(2, 3, 2, 2)
    loss = ops.softmax_cross_entropy(logits, np.full((2, 2, 2), 255), reduction=reduction)
    assert_array_equal(loss.data, np.zeros((2, 2, 2) if reduction == "none" else ()))
    loss.backward(np.ones(loss.shape))
    assert_array_equal(logits.grad, np.zeros((2, 3, 2, 2)))


def test_an_empty_batch_costs_nothing():
    """The maximum of no labels is an error of NumPy's."""
    logits = seeded(0, 3, 2, 2)
    loss = ops.softmax_cross_entropy(logits, np.zeros((0, 2, 2), int))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_neither_overflow_nor_lose_the_answer(dtype, size):
    """exp(1e4) is infinite; log(softmax) is −inf where the probability is too small for a float."""
    logits = Tensor(np.array([[size, 0, 0], [0, size, 0]], dtype), requires_grad=True)
    loss = ops.softmax_cross_entropy(logits, np.array([0, 0]), reduction="none")
    expected = [0, 1e4] if size > 0 else [1e4 + math.log(2), math.log(2)]
    assert_allclose(loss.data, expected, rtol=1e-6)
    loss.backward(np.ones(2, dtype))
    assert np.isfinite(logits.grad).all()
    assert_allclose(logits.grad.sum(axis=1), 0, atol=1e-6)


@random_cases
@given(losses())
def test_it_equals_the_loops(case):
    """Any slip in weights, void, mask or reduction, for (N, C), (N, C, L) and (N, C, H, W)."""
    logits = Tensor(case.pop("logits"))
    loss = ops.softmax_cross_entropy(logits, **case)
    assert_allclose(loss.data, oracles.softmax_cross_entropy(logits.data, **case), rtol=1e-10, atol=1e-12)


@random_cases
@given(losses())
def test_its_gradient_agrees_with_finite_differences(case):
    """A factor forgotten: the pixel's weight, the mean's divisor, the incoming gradient."""
    logits = Tensor(case.pop("logits"), requires_grad=True)
    assert gradcheck(lambda logits: ops.softmax_cross_entropy(logits, **case), [logits])
    assert gradcheck(lambda logits: ops.softmax_cross_entropy(logits, **case) * 3.0, [logits], mode="elementwise")


def test_the_mask_chooses_pixels():
    """Patchwise sampling: pixels outside the mask get no gradient and do not count in the mean."""
    logits, labels = seeded(1, 3, 2, 2), np.array([[[0, 1], [2, 0]]])
    mask = np.array([[[True, False], [False, True]]])
    loss = ops.softmax_cross_entropy(logits, labels, mask=mask)
    both = ops.softmax_cross_entropy(Tensor(logits.data), labels, reduction="none").numpy()[mask]
    assert loss.item() == pytest.approx(both.mean())
    loss.backward()
    assert_array_equal(logits.grad.any(axis=1), mask)


@pytest.mark.parametrize("labels_dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_labels_of_any_whole_type(labels_dtype):
    """A mask straight from a PNG is uint8, where 255 − 256 and −1 are the same."""
    labels = np.array([[1, 0], [2, 1]], labels_dtype)
    logits = seeded(2, 3, 2)
    expected = ops.softmax_cross_entropy(logits, labels.astype(np.int64)).item()
    assert ops.softmax_cross_entropy(logits, labels).item() == expected
    assert ops.softmax_cross_entropy(logits, Tensor(labels)).item() == expected
    assert ops.softmax_cross_entropy(logits, labels, ignore_index=-100).item() == expected


def test_a_class_may_be_the_one_ignored():
    """ignore_index compared after the labels were changed."""
    logits, labels = seeded(1, 3, 4), np.array([[0, 1, 2, 0]])
    kept = ops.softmax_cross_entropy(logits, labels, reduction="none").numpy()[0, [1, 2]]
    assert ops.softmax_cross_entropy(logits, labels, ignore_index=0).item() == pytest.approx(kept.mean())


def test_the_labels_are_left_as_they_are():
    """Void replaced by 0 in the caller's own array turns it into background for everybody else."""
    labels = np.array([[0, 255]], np.uint8)
    ops.softmax_cross_entropy(seeded(1, 3, 2), labels)
    assert_array_equal(labels, [[0, 255]])


def test_weights_of_another_float_type_do_not_promote():
    """Class weights from NumPy are float64; the loss of float32 logits stays float32."""
    logits = seeded(1, 3, 2, 2, dtype=np.float32)
    for reduction in ("mean", "sum", "none"):
        loss = ops.softmax_cross_entropy(
            logits,
            np.zeros((1, 2, 2), int),
            weight=np.array([1.0, 2.0, 3.0]),
            mask=np.ones((1, 2, 2)),
            reduction=reduction,
        )
        loss.backward(np.ones(loss.shape, np.float32))
        assert loss.dtype == logits.grad.dtype == np.float32


def test_a_label_out_of_range_is_named_and_counted():
    """An IndexError from inside, or a label −1 that counts from the end."""
    labels = np.zeros((1, 4, 4), int)
    labels[0, :3, 0], labels[0, 0, 1] = 12, -1
    with pytest.raises(UsageError) as caught:
        ops.softmax_cross_entropy(Tensor(np.zeros((1, 11, 4, 4))), labels)
    assert "label -1 in 1 pixels; 12 in 3 pixels" in str(caught.value)
    assert "11 classes (0–10) and 255 is ignored" in str(caught.value)
    assert caught.value.exit_code == 2


def test_without_an_ignored_label_none_is_recommended():
    """`map the label to None`."""
    with pytest.raises(UsageError, match="label 255 in 1 pixels") as caught:
        ops.softmax_cross_entropy(Tensor(np.zeros((1, 3))), np.array([255]), ignore_index=None)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"labels": np.zeros((1, 2, 3), int)}, ShapeError, r"need labels of \(1, 2, 2\), not \(1, 2, 3\)"),
        ({"labels": np.zeros((1, 1, 2, 2), int)}, ShapeError, r"need labels of \(1, 2, 2\)"),
        ({"labels": np.zeros((1, 2, 2))}, DtypeError, "labels are integers, not float64"),
        ({"labels": np.zeros((1, 2, 2), bool)}, DtypeError, "labels are integers, not bool"),
        ({"weight": np.ones(4)}, ShapeError, r"weight has shape \(4,\); \(3,\)"),
        ({"mask": np.ones((2, 2))}, ShapeError, r"mask has shape \(2, 2\)"),
        ({"reduction": "average"}, UsageError, "'average' is not one of mean, sum, none"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, error, words):
    """Broadcasting one image's labels or weights over everything, in silence."""
    arguments = {"labels": np.zeros((1, 2, 2), int), **arguments}
    with pytest.raises(error, match=words) as caught:
        ops.softmax_cross_entropy(Tensor(np.zeros((1, 3, 2, 2))), **arguments)
    assert str(caught.value).startswith("softmax_cross_entropy: ")


@pytest.mark.parametrize("shape", [(), (3,)])
def test_logits_need_a_batch_and_classes(shape):
    """An IndexError about a tuple."""
    with pytest.raises(ShapeError, match=r"softmax_cross_entropy: .*\(N, C, …\)"):
        ops.softmax_cross_entropy(Tensor(np.zeros(shape)), np.zeros(shape, int))


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_logits_are_float32_or_float64(dtype):
    """exp of whole numbers is promoted; of half precision it overflows at 11."""
    with pytest.raises(DtypeError, match=f"not {np.dtype(dtype)}"):
        ops.softmax_cross_entropy(Tensor(np.zeros((1, 3), dtype)), np.array([0]))


@pytest.mark.cpu_only("a second device made of host arrays")
@pytest.mark.parametrize("name", ["labels", "weight", "mask"])
def test_tensors_of_another_device_are_refused(name):
    """A silent copy at each step would be slow, and on a GPU it is an error without words."""
    arguments = {"labels": np.zeros((1, 2), int), "weight": np.ones(3), "mask": np.ones((1, 2))}
    with second_device() as device:
        arguments[name] = Tensor(arguments[name], device=device)
        with pytest.raises(DeviceError, match=rf"the {name} on other; move them with \.to\('cpu'\)"):
            ops.softmax_cross_entropy(Tensor(np.zeros((1, 3, 2))), **arguments)
        assert arguments[name].to("cpu").device == "cpu"
