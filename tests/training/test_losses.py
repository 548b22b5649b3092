"""Losses of training: what each does to a small problem, and that sampling pixels changes no expected gradient."""

import itertools
import re

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, to_host

from minifcn import Tensor, nn, ops
from minifcn.data import VOID
from minifcn.errors import UsageError
from minifcn.training.losses import LOSSES, check_scale, classification_loss, segmentation_loss
from minifcn.training.optim import SGD, Adam

pytestmark = pytest.mark.usefixtures("device")

WEIGHTS = np.array([1.0, 20.0, 3.0])


def rng(seed=0):
    return np.random.default_rng(seed)


class Drawn:
    """In place of a generator: gives out the numbers it was made with."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def random(self, shape, dtype=float):
        return self.numbers.reshape(shape).astype(dtype)


def rare_among_common(generator, share):
    """Pixels of two measurements each (8, 2, 24, 24), and labels: a rare class 1 that overlaps the common one."""
    labels = (generator.random((8, 24, 24)) < share).astype(np.uint8)
    pixels = generator.standard_normal((8, 2, 24, 24)) + 1.2 * labels[:, None]
    return pixels.astype(np.float32), labels


def trained(loss, pixels, labels, steps=150, **options):
    """A 1×1 convolution, which is a linear classifier of pixels, after Adam has minimised the loss."""
    model, generator = nn.Conv2d(2, 2, 1), rng()
    optimizer = Adam(model.parameters(), lr=0.05)
    minimised = segmentation_loss(loss, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        minimised(model(Tensor(pixels)), labels, generator).backward()
        optimizer.step()
    return model


def scores_on_new_pixels(model, share):
    """(pixel accuracy, share of the rare class found, its intersection over union)."""
    pixels, labels = rare_among_common(rng(99), share)
    predicted = model(Tensor(pixels)).numpy().argmax(axis=1)
    rare, found = labels == 1, predicted == 1
    return (predicted == labels).mean(), found[rare].mean(), (found & rare).sum() / (found | rare).sum()


@pytest.mark.cpu_only("statistics, and long")
def test_class_weights_trade_pixel_accuracy_for_the_rare_class():
    """A switch that reaches nothing: weights not handed on, or multiplied into every class alike."""
    data = rare_among_common(rng(1), 0.05)
    plain = scores_on_new_pixels(trained("cross-entropy", *data), 0.05)
    weighted = scores_on_new_pixels(trained("cross-entropy", *data, class_weights=np.array([1.0, 19.0])), 0.05)
    assert weighted[1] > plain[1] + 0.3  # class accuracy of the rare class
    assert weighted[0] < plain[0] - 0.05  # pixel accuracy


@pytest.mark.cpu_only("statistics, and long")
@pytest.mark.parametrize("loss", ["dice", "cross-entropy+dice"])
def test_dice_raises_the_iu_of_a_tiny_class(loss):
    """Cross entropy does best by hardly ever naming a class of one pixel in fifty."""
    data = rare_among_common(rng(2), 0.02)
    cross_entropy = scores_on_new_pixels(trained("cross-entropy", *data), 0.02)
    with_dice = scores_on_new_pixels(trained(loss, *data), 0.02)
    assert with_dice[2] > 1.5 * cross_entropy[2]


def test_the_sum_of_two_losses_is_their_sum():
    """One of them forgotten, or averaged."""
    scores, labels = Tensor(rng().standard_normal((2, 3, 4, 4))), rng().integers(0, 3, (2, 4, 4))
    both, *parts = (
        segmentation_loss(name, class_weights=WEIGHTS)(scores, labels, rng()).item()
        for name in ("cross-entropy+dice", "cross-entropy", "dice")
    )
    assert both == pytest.approx(sum(parts))
    assert parts[1] == ops.dice_loss(scores, labels, weight=WEIGHTS).item()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_sampling_the_loss_is_the_operation_itself(reduction):
    """Runs of before must give the same weights, bit for bit."""
    scores, labels = Tensor(rng().standard_normal((2, 3, 4, 4))), rng().integers(0, 3, (2, 4, 4))
    loss = segmentation_loss(reduction=reduction)(scores, labels, rng())
    assert loss.item() == ops.softmax_cross_entropy(scores, labels, reduction=reduction).item()


def test_the_classifier_s_loss_takes_one_label_a_picture():
    scores, labels = Tensor(rng().standard_normal((3, 5))), np.array([4, 0, 2])
    pictures = np.broadcast_to(labels[:, None, None], (3, 6, 7))
    assert classification_loss(scores, pictures, rng()).item() == ops.softmax_cross_entropy(scores, labels).item()


# Sampling pixels


def gradient(loss, generator, scores, labels):
    logits = Tensor(scores, requires_grad=True)
    loss(logits, labels, generator).backward()
    return to_host(logits.grad)


def divided_by_what_was_kept(keep_pixels, class_weights=None):
    """The tempting mistake: the mean over the pixels that were kept."""

    def loss(scores, labels, generator):
        mask = generator.random(labels.shape, np.float32) < keep_pixels
        return ops.softmax_cross_entropy(scores, labels, weight=class_weights, mask=mask)

    return loss


def expectation_over_all_masks(loss, p, scores, labels):
    """The gradient of each of the 2ⁿ masks, times its probability."""
    total = np.zeros(scores.shape)
    for kept in itertools.product([True, False], repeat=labels.size):
        probability = np.prod([p if one else 1 - p for one in kept])
        total += probability * gradient(loss, Drawn(~np.array(kept)), scores, labels)
    return total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_expected_gradient_of_sampled_pixels_is_the_whole_one(reduction, weights):
    """Exactly, over all 2⁶ masks of six pixels: without 1/p it is p times that, and void ones may not divide."""
    scores, labels = rng().standard_normal((1, 3, 6)), np.array([[0, 1, 2, 0, 255, 0]])
    options = {"reduction": reduction, "class_weights": weights}
    whole = gradient(segmentation_loss(**options), rng(), scores, labels)
    expected = expectation_over_all_masks(segmentation_loss(**options, keep_pixels=0.25), 0.25, scores, labels)
    assert_allclose(expected, whole, rtol=1e-12, atol=1e-15)


def test_dividing_by_the_kept_weights_would_change_the_expected_gradient():
    """What the docstring says of it: harmless with equal weights (but for empty masks), wrong with others."""
    scores, labels = rng().standard_normal((1, 3, 6)), np.array([[0, 1, 2, 0, 1, 0]])
    for weights in (None, WEIGHTS):
        whole = gradient(segmentation_loss(class_weights=weights), rng(), scores, labels)
        naive = expectation_over_all_masks(divided_by_what_was_kept(0.25, weights), 0.25, scores, labels)
        naive /= 1 - 0.75**6  # given that anything was kept
        if weights is None:
            assert_allclose(naive, whole, rtol=1e-7)
        else:
            assert np.abs(naive - whole).max() > 0.1 * np.abs(whole).max()


def standard_scores(loss, p, weights, draws=1500):
    """How many standard errors the mean gradient of many masks lies from the whole one, for each of nine parameters.

    The parameters are those of a linear layer on three measurements. Pixel i adds c_i to their gradient, and with
    independent masks the variance is (1 − p)/p Σ c_i². Also the measured spread over the computed one.
    """
    generator = rng(5)
    inputs, scores = generator.standard_normal((3, 64)), generator.standard_normal((1, 3, 64))
    labels = np.where(generator.random((1, 64)) < 0.1, 1, 2 * generator.integers(0, 2, (1, 64)))
    labels[0, :5] = VOID
    whole = gradient(segmentation_loss(class_weights=weights), rng(), scores, labels)[0]  # (3, 64)
    each = np.einsum("ci,fi->cfi", whole, inputs)  # c_i
    sampled = np.array([gradient(loss, generator, scores, labels)[0] @ inputs.T for _ in range(draws)])
    spread = np.sqrt((1 - p) / p * (each**2).sum(axis=-1))
    distances = (sampled.mean(axis=0) - each.sum(axis=-1)) / (spread / np.sqrt(draws))
    return distances, sampled.std(axis=0) / spread


@pytest.mark.cpu_only("statistics, and long")
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_gradient_of_many_masks_approaches_the_whole_one(weights):
    """The same from real random numbers: a mask that keeps another share, or one mask for all steps.

    Nine distances in standard errors: beyond 4 none is believable, and their computed spread must be the measured one.
    """
    distances, spreads = standard_scores(segmentation_loss(class_weights=weights, keep_pixels=0.25), 0.25, weights)
    assert np.abs(distances).max() < 4
    assert 0.3 < np.sqrt((distances**2).mean()) < 2
    assert_allclose(spreads, 1, atol=0.1)  # of 1500 draws: five standard errors


@pytest.mark.cpu_only("statistics, and long")
def test_the_statistics_would_notice_the_naive_mean():
    """A test that cannot fail is worth nothing: the tempting mistake is many standard errors off."""
    distances, _ = standard_scores(divided_by_what_was_kept(0.25, WEIGHTS), 0.25, WEIGHTS)
    assert np.abs(distances).max() > 6


def test_each_step_draws_a_mask_of_its_own_that_its_generator_repeats():
    """Chance from elsewhere: a resumed run would see other pixels."""
    scores, labels = rng().standard_normal((1, 3, 50)), rng().integers(0, 3, (1, 50))
    loss, generator = segmentation_loss(keep_pixels=0.5), rng(7)
    first, second = (gradient(loss, generator, scores, labels) for _ in range(2))
    assert (first.any(axis=1) != second.any(axis=1)).any()
    assert_array_equal(first, gradient(loss, rng(7), scores, labels))


@pytest.mark.parametrize(("label", "weights"), [(VOID, None), (VOID, WEIGHTS), (1, np.zeros(3))])
def test_sampling_from_nothing_costs_nothing(label, weights):
    """0/0 in a batch without labels, or without weights."""
    labels = np.full((1, 4), label)
    loss = segmentation_loss(keep_pixels=0.5, class_weights=weights)
    assert loss(Tensor(rng().standard_normal((1, 3, 4))), labels, rng()).item() == 0


def test_float32_stays_float32():
    """Class weights or a mask of float64 would run the whole backward pass at half the speed."""
    scores = Tensor(rng().standard_normal((2, 3, 4)).astype(np.float32), requires_grad=True)
    for name in LOSSES:
        keep = 1.0 if name == "dice" else 0.5
        loss = segmentation_loss(name, class_weights=WEIGHTS, keep_pixels=keep)(scores, np.zeros((2, 4), int), rng())
        loss.backward()
        assert loss.dtype == scores.grad.dtype == np.float32


def test_a_label_out_of_range_is_named_with_sampling_too():
    """An IndexError of the class weights."""
    with pytest.raises(UsageError, match="label 7 in 2 pixels"):
        segmentation_loss(keep_pixels=0.5, class_weights=WEIGHTS)(
            Tensor(np.zeros((1, 3, 2))), np.full((1, 2), 7), rng()
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "focal"}, "--loss focal: choose one of cross-entropy, dice"),
        ({"reduction": "none"}, "--reduction none: choose one of mean, sum"),
        ({"loss": "dice", "reduction": "sum"}, "--reduction sum with --loss dice"),
        ({"loss": "cross-entropy+dice", "reduction": "sum"}, "--reduction sum with --loss cross-entropy"),
        ({"loss": "dice", "keep_pixels": 0.5}, "--keep-pixels 0.5 with --loss dice"),
        ({"keep_pixels": 0}, "--keep-pixels 0: a probability"),
        ({"keep_pixels": 1.5}, "--keep-pixels 1.5"),
        ({"keep_pixels": float("nan")}, "--keep-pixels nan"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    """A switch that is silently ignored."""
    with pytest.raises(UsageError, match=words):
        segmentation_loss(**options)


# Learning rates that fit a loss

WHOLE_IMAGE = 500 * 500


@pytest.mark.parametrize(
    ("reduction", "lr", "momentum", "pixels"),
    [
        *[("sum", lr, 0.99, WHOLE_IMAGE) for lr in (1e-10, 1e-12, 1e-14)],  # heavy
        *[("mean", lr, 0.9, 20 * WHOLE_IMAGE) for lr in (1e-4, 1e-6, 1e-8)],  # light
        ("sum", 1e-14, 0.99, 180 * 240),  # heavy on smaller pictures
        ("mean", 0.1, 0.9, 4 * 180 * 240),  # from scratch, with batch normalisation
        ("mean", 0, 0.9, WHOLE_IMAGE),
    ],
)
def test_published_learning_rates_are_not_warned_of(reduction, lr, momentum, pixels):
    """A warning at every right recipe is one that nobody reads."""
    assert check_scale(reduction, lr, optimizer="sgd", momentum=momentum, pixels=pixels) is None


@pytest.mark.parametrize("momentum", [0, 0.9, 0.99])
@pytest.mark.parametrize(
    ("reduction", "lr", "words"),
    [
        ("mean", 1e-10, r"averages the 250,000 pixels .* 250,000 times shorter; hardly anything will be learnt"),
        ("sum", 1e-4, r"adds up the 250,000 pixels .* 250,000 times longer; the loss will soon be NaN"),
    ],
)
def test_the_two_commonest_mistakes_are_explained(reduction, lr, words, momentum):
    """A run of a day that ends in NaN, or where it began."""
    message = check_scale(reduction, lr, optimizer="sgd", momentum=momentum, pixels=WHOLE_IMAGE)
    other = {"mean": "sum", "sum": "mean"}[reduction]
    assert re.search(words, message)
    assert f"--lr {lr:g} with --reduction {reduction}: " in message
    assert f"{lr:g} would suit --reduction {other}." in message


@pytest.mark.parametrize(("reduction", "lr"), [("mean", 1e-14), ("mean", 1e3), ("sum", 1e-22), ("sum", 10)])
def test_other_extremes_are_reported_without_a_wrong_cause(reduction, lr):
    """ "The loss is averaged, so the steps are short: it will soon be NaN.\""""
    message = check_scale(reduction, lr, optimizer="sgd", momentum=0.9, pixels=WHOLE_IMAGE)
    assert ("NaN" in message) == (lr > 1)
    assert ("shorter" in message) == (lr == 1e-14)
    assert ("longer" in message) == (lr == 10)


def test_the_suggested_rates_are_those_of_the_paper():
    """A suggestion that would itself be warned of. 4e-11 is the order of magnitude of the heavy recipe's 1e-10."""
    for reduction, lr, momentum, suggested in [("mean", 1e-10, 0.9, "0.0001"), ("sum", 1e-4, 0.99, "4e-11")]:
        message = check_scale(reduction, lr, optimizer="sgd", momentum=momentum, pixels=WHOLE_IMAGE)
        assert message.endswith(f"and momentum {momentum}, try --lr {suggested}.")
        again = check_scale(reduction, float(suggested), optimizer="sgd", momentum=momentum, pixels=WHOLE_IMAGE)
        assert again is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_adam_is_judged_by_its_step_alone(reduction):
    """Its steps are about lr long whatever the loss is multiplied by, so the advice for SGD would mislead."""

    def check(lr):
        return check_scale(reduction, lr, optimizer="adam", momentum=0.9, pixels=WHOLE_IMAGE)

    assert [check(lr) for lr in (1e-2, 1e-3, 1e-5, 1e-7)] == [None] * 4
    assert "hardly anything will be learnt" in check(1e-10)
    assert "nothing that was learnt will last" in check(1.0)
    assert "whether the loss is a mean or a sum" in check(1e-10)


def test_what_is_warned_of_happens():
    """The loss after 40 steps of SGD of a network of two layers: where it was, not finite or above, and lower."""
    generator = rng(3)
    pixels = generator.standard_normal((4, 2, 32, 32)).astype(np.float32)
    labels = (pixels[:, 0] * pixels[:, 1] > 0).astype(np.uint8)

    def change(reduction, lr):
        layers = [nn.Conv2d(2, 16, 1, generator=rng(1)), nn.Conv2d(16, 2, 1, generator=rng(2))]
        optimizer = SGD([p for layer in layers for p in layer.parameters()], lr=lr, momentum=0.9)
        loss, losses = segmentation_loss(reduction=reduction), []
        for _ in range(40):
            optimizer.zero_grad()
            with np.errstate(all="ignore"):
                value = loss(layers[1](ops.relu(layers[0](Tensor(pixels)))), labels, generator)
                value.backward()
                optimizer.step()
            losses.append(value.item())
        return losses[-1] / losses[0]

    def suggested(reduction, lr):
        return float(
            re.search(
                r"try --lr (\S+)\.$", check_scale(reduction, lr, optimizer="sgd", momentum=0.9, pixels=labels.size)
            ).group(1)
        )

    assert change("mean", 1e-10) == pytest.approx(1)
    assert not change("sum", 1e-2) < 1
    for reduction, lr in (("mean", 1e-10), ("sum", 1e-2)):
        assert change(reduction, suggested(reduction, lr)) < 0.995
