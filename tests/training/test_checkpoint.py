"""Checkpoint files that are damaged or of another run."""

import json

import numpy as np
import pytest
from devices import on_device
from safetensors.numpy import save_file

from minifcn import Tensor, models, ops
from minifcn.errors import WeightsError
from minifcn.training import SGD
from minifcn.training.checkpoint import Progress, read_progress, restore_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("device")


def network(width=2, batch_norm=False):
    model = models.FCN32s(2, width=width, fc_width=2, geometry="same", batch_norm=batch_norm)
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def checkpoint(tmp_path):
    model, optimizer = network()
    for parameter in optimizer.parameters():
        parameter.grad = on_device(np.ones_like(parameter.data))
    optimizer.step()
    model.dropout.generator.random(7)
    save_checkpoint(
        tmp_path / "c.safetensors", model, optimizer, Progress(1, 5, 2.5, [{"stage": "x"}], {"mean_iu": 0.1})
    )
    return tmp_path / "c.safetensors", model, optimizer


def test_everything_comes_back(checkpoint):
    """Weights, momentum, the number of steps, dropout's generator and the progress."""
    path, model, optimizer = checkpoint
    other, other_optimizer = network()
    restore_checkpoint(path, other, other_optimizer)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value)
    arrays, steps = optimizer.state_dict()
    other_arrays, other_steps = other_optimizer.state_dict()
    assert (steps, arrays.keys()) == (other_steps, other_arrays.keys())
    for name, value in arrays.items():
        np.testing.assert_array_equal(other_arrays[name], value)
    assert other.dropout.generator.random() == model.dropout.generator.random()
    assert read_progress(path) == Progress(1, 5, 2.5, [{"stage": "x"}], {"mean_iu": 0.1})


def test_a_run_with_batch_normalisation_goes_on_as_if_it_had_never_stopped(tmp_path):
    """Running means and variances left out of the file, or loaded into a copy that training does not move."""

    def train(model, optimizer, steps):
        for step in steps:
            images = np.random.default_rng(step).normal(size=(2, 3, 33, 40)).astype(np.float32)
            optimizer.zero_grad()
            ops.softmax_cross_entropy(model(Tensor(images)), (images[:, 0] > 0).astype(int)).backward()
            optimizer.step()

    model, optimizer = network(batch_norm=True)
    train(model, optimizer, range(2))
    save_checkpoint(tmp_path / "c.safetensors", model, optimizer, Progress())
    train(model, optimizer, range(2, 4))
    other, other_optimizer = network(batch_norm=True)
    restore_checkpoint(tmp_path / "c.safetensors", other, other_optimizer)
    train(other, other_optimizer, range(2, 4))
    assert "conv1_1_bn.running_var" in model.state_dict()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value, err_msg=name)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1000, -1])
def test_a_file_cut_off_is_named(checkpoint, length):
    path, model, optimizer = checkpoint
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"c\.safetensors"):
        read_progress(path)
    with pytest.raises(WeightsError, match=r"c\.safetensors"):
        restore_checkpoint(path, model, optimizer)


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1}', '{"format": 1, "progress": {"stages": 3}}']
)
def test_a_damaged_record_is_named(tmp_path, record):
    path = tmp_path / "c.safetensors"
    save_file({"model.x": np.zeros(2)}, path, {"minifcn-checkpoint": record})
    with pytest.raises(WeightsError, match=r"c\.safetensors"):
        read_progress(path)


def test_a_checkpoint_of_a_wider_network_lists_what_differs(checkpoint):
    path, _, _ = checkpoint
    with pytest.raises(WeightsError, match=r"(?s)c.safetensors.*conv1_1.weight.*conv5_3.weight"):
        restore_checkpoint(path, *network(width=3))


def test_foreign_tensors_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    about = {"format": 1, "progress": vars(Progress()), "optimizer_steps": 0, "generators": []}
    save_file({"stranger": np.zeros(2)}, path, {"minifcn-checkpoint": json.dumps(about)})
    with pytest.raises(WeightsError, match=r"c\.safetensors"):
        restore_checkpoint(path, *network())
