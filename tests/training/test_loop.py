"""The training loop."""

import numpy as np
import pytest

from minifcn import models, ops
from minifcn.data import Loader, Shapes
from minifcn.errors import TrainingError
from minifcn.training import SGD, Adam, paper_groups, poly, segmentation_loss, train
from minifcn.weights import Preprocessing


def small_model(num_classes=9, **options):
    model = models.FCN8s(num_classes, width=2, fc_width=4, geometry="same", dropout=0.2, **options)
    rng = np.random.default_rng(5)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    return model


def shapes_loader(**options):
    return Loader(Shapes(size=32, length=10), 2, normalise=Preprocessing().apply, prefetch=0, **options)


def test_training_lowers_the_loss():
    """A step in the wrong direction, a gradient not cleared, or a loop that never updates leaves it where it was."""
    model = models.FCN8s(9, width=4, fc_width=8, geometry="same", dropout=0)
    optimizer = Adam(paper_groups(model, lr=5e-3, weight_decay=0), lr=5e-3)
    losses = [step.loss for step in train(model, shapes_loader(), optimizer, steps=30, loss=segmentation_loss())]
    assert losses[0] == pytest.approx(np.log(9), abs=1e-4)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_gradients_do_not_add_up_over_steps():
    """Without zero_grad the second step would use the sum of two gradients."""

    def weights_after(zero_between: bool):
        model, loader = small_model(), shapes_loader(shuffle=False)
        optimizer = SGD(model.parameters(), lr=0.1)
        for batch in [next(loader.epoch(0))] * 2:
            if zero_between:
                optimizer.zero_grad()
            segmentation_loss()(model(_tensor(batch.images)), batch.labels, np.random.default_rng(0)).backward()
            optimizer.step()
        return model.score_fr.bias.data

    model = small_model()
    loader = Loader(Shapes(size=32, length=2), 2, normalise=Preprocessing().apply, prefetch=0, shuffle=False)
    list(train(model, loader, SGD(model.parameters(), lr=0.1), steps=2, loss=segmentation_loss()))
    np.testing.assert_array_equal(model.score_fr.bias.data, weights_after(True))
    assert not np.allclose(model.score_fr.bias.data, weights_after(False))


def _tensor(array):
    from minifcn import Tensor

    return Tensor(array)


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
