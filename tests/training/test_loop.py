"""The training loop."""

import numpy as np
import pytest
from devices import on_device
from networks import fill

from minifcn import Tensor, models, ops
from minifcn.data import Batch, Loader, Shapes
from minifcn.errors import TrainingError
from minifcn.training import SGD, Adam, paper_groups, poly, segmentation_loss, train
from minifcn.weights import Preprocessing

pytestmark = pytest.mark.usefixtures("device")


def small_model(num_classes=9, **options):
    model = models.FCN8s(num_classes, width=2, fc_width=4, geometry="same", dropout=0.2, **options)
    rng = np.random.default_rng(5)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            parameter.data = on_device(rng.standard_normal(parameter.shape).astype(np.float32))
    return model


def shapes_loader(**options):
    return Loader(Shapes(size=32, length=10), 2, normalise=Preprocessing().apply, prefetch=0, **options)


def test_training_lowers_the_loss():
    """A step in the wrong direction, a gradient not cleared, or a loop that never updates leaves it where it was."""
    model = models.FCN8s(9, width=4, fc_width=8, geometry="same", dropout=0)
    optimizer = Adam(paper_groups(model, lr=5e-3, weight_decay=0), lr=5e-3)
    losses = [step.loss for step in train(model, shapes_loader(), optimizer, steps=30, loss=segmentation_loss())]
    assert losses[0] == pytest.approx(np.log(9))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_gradients_do_not_add_up_over_steps():
    """Without zero_grad the second step would use the sum of two gradients."""

    def weights_after(zero_between: bool):
        model, loader = small_model(), shapes_loader(shuffle=False)
        optimizer = SGD(model.parameters(), lr=0.1)
        for batch in [next(loader.epoch(0))] * 2:
            if zero_between:
                optimizer.zero_grad()
            segmentation_loss()(model(Tensor(batch.images)), batch.labels, np.random.default_rng(0)).backward()
            optimizer.step()
        return model.score_fr.bias.numpy()

    model = small_model()
    loader = Loader(Shapes(size=32, length=2), 2, normalise=Preprocessing().apply, prefetch=0, shuffle=False)
    list(train(model, loader, SGD(model.parameters(), lr=0.1), steps=2, loss=segmentation_loss()))
    np.testing.assert_array_equal(model.score_fr.bias.numpy(), weights_after(True))
    assert not np.allclose(model.score_fr.bias.numpy(), weights_after(False))


def test_the_schedule_reaches_the_optimizer():
    model = small_model()
    optimizer = SGD(model.parameters(), lr=1e-3)
    steps = train(model, shapes_loader(), optimizer, steps=4, loss=segmentation_loss(), schedule=poly)
    assert [step.lr_factor for step in steps] == [pytest.approx((1 - k / 4) ** 0.9) for k in range(4)]


def test_a_start_in_mid_epoch_sees_the_batches_that_are_left():
    """Starting an epoch over would show some pictures twice and others never."""
    seen = []

    def loss(scores, labels, generator):
        seen.append(labels)
        return ops.softmax_cross_entropy(scores, labels)

    for start in (0, 3):
        model = small_model()
        list(train(model, shapes_loader(), SGD(model.parameters(), lr=0), steps=7, loss=loss, start=start))
    for whole, part in zip(seen[3:7], seen[7:], strict=True):
        np.testing.assert_array_equal(whole, part)


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_touched():
    """The error names the step, the picture and what to try; the weights stay as they were before it."""
    model = small_model()
    optimizer = SGD(model.parameters(), lr=1e-3)
    before = model.state_dict()

    def broken(scores, labels, generator):
        return ops.softmax_cross_entropy(scores, labels) * float("nan")

    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*shapes-train.*learning rate"):
        list(train(model, shapes_loader(), optimizer, steps=2, loss=broken))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


class Batches:
    """A loader of given pictures, so many a batch, in order, in float64."""

    def __init__(self, images, labels, batch_size):
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self):
        return len(self.images) // self.batch_size

    def epoch(self, epoch, start=0, *, upload):
        for first in range(start * self.batch_size, len(self.images), self.batch_size):
            part = slice(first, first + self.batch_size)
            names = [str(number) for number in range(len(self.images))[part]]
            images = self.images[part]
            yield Batch(images, self.labels[part], names, [(32, 32)] * len(names), upload(images))


def trained(batch_size, accumulate, make_optimizer, loss, steps=3):
    """The weights after some steps on four pictures (without void), and what each step told."""
    rng = np.random.default_rng(11)
    images, labels = rng.standard_normal((4, 3, 32, 32)), rng.integers(0, 3, (4, 32, 32)).astype(np.uint8)
    model = fill(models.FCN8s(3, width=2, fc_width=4, geometry="same", dropout=0))
    loader = Batches(images, labels, batch_size)
    told = list(train(model, loader, make_optimizer(model), steps=steps, loss=loss, accumulate=accumulate))
    return model.state_dict(), told


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda model: SGD(paper_groups(model, lr=1e-2, weight_decay=1e-3), lr=1e-2, momentum=0.9),
        lambda model: Adam(paper_groups(model, lr=1e-3, weight_decay=1e-3), lr=1e-3),
    ],
    ids=["sgd", "adam"],
)
def test_two_batches_of_two_are_one_batch_of_four(make_optimizer):
    """Gradients added up and not divided, or only the last batch's; Adam would not notice the first, momentum would."""
    whole, told = trained(4, 1, make_optimizer, segmentation_loss())
    parts, told_in_parts = trained(2, 2, make_optimizer, segmentation_loss())
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert [step.loss for step in told_in_parts] == pytest.approx([step.loss for step in told], rel=1e-9)
    assert [step.images for step in told_in_parts] == [step.images for step in told] == [4] * 3
    untrained = fill(models.FCN8s(3, width=2, fc_width=4, geometry="same", dropout=0)).state_dict()
    assert np.abs(whole["conv1_1.weight"] - untrained["conv1_1.weight"]).max() > 1e-4
    half, _ = trained(2, 1, make_optimizer, segmentation_loss())
    assert np.abs(half["conv1_1.weight"] - whole["conv1_1.weight"]).max() > 1e-6


def test_a_sum_stays_that_of_one_batch():
    """Twenty batches for each step would otherwise need a learning rate twenty times smaller."""

    def sgd(model):
        return SGD(model.parameters(), lr=1e-5)

    mean_of_two, _ = trained(2, 2, sgd, segmentation_loss(reduction="sum"))
    sum_of_four, _ = trained(4, 1, lambda model: SGD(model.parameters(), lr=0.5e-5), segmentation_loss(reduction="sum"))
    for name, value in sum_of_four.items():
        np.testing.assert_allclose(mean_of_two[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_start_in_the_middle_sees_the_same_pictures_and_the_same_chances(accumulate):
    """Started at batch 3 in place of step 3; or chances that depend on how often the process was started."""
    seen = []

    def loss(scores, labels, generator):
        seen.append((labels, generator.random()))
        return ops.softmax_cross_entropy(scores, labels)

    options = {"steps": 5, "loss": loss, "accumulate": accumulate}
    model = small_model()
    list(train(model, shapes_loader(), SGD(model.parameters(), lr=0), **options))
    whole = seen[3 * accumulate :]
    seen.clear()
    list(train(model, shapes_loader(), SGD(model.parameters(), lr=0), start=3, **options))
    assert len(seen) == len(whole) == 2 * accumulate
    for (labels, chance), (expected, expected_chance) in zip(seen, whole, strict=True):
        np.testing.assert_array_equal(labels, expected)
        assert chance == expected_chance


def test_the_chances_of_a_loss_differ_from_batch_to_batch_and_with_the_seed():
    """One mask of pixels for all batches, or for all seeds, would leave the same pixels out for ever."""
    seen = []

    def loss(scores, labels, generator):
        seen.append(generator.random())
        return ops.softmax_cross_entropy(scores, labels)

    model = small_model()
    for seed in (0, 1):
        optimizer = SGD(model.parameters(), lr=0)
        list(train(model, shapes_loader(), optimizer, steps=2, loss=loss, accumulate=2, seed=seed))
    assert len(set(seen)) == 8
