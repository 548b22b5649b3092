"""The learner's own FCN-8s, with every exercise solved, computes what the library's does: logits and all gradients."""

import shutil

import numpy as np
import pytest
from networks import fill

from course import engine
from course.network import FCN8s
from course.saving import SOLUTIONS
from minifcn import Tensor, models, ops

SIZES = {"same": [(37, 51), (64, 40), (1, 33)], "paper": [(21, 34)]}
CASES = [(geometry, size) for geometry, sizes in SIZES.items() for size in sizes]
PLANTED = {  # what FCN-8s and its loss run on, and how each is altered
    "im2col": "return right(*arguments, **options) * (1 + 1e-8)",
    "conv2d": "return right(*arguments, **options) * (1 + 1e-8)",
    "col2im": "return right(*arguments, **options) * (1 + 1e-8)",
    "conv2d_backward": "x, weight, bias = right(*arguments, **options); return x, weight * (1 + 1e-8), bias",
    "max_pool2d": "return right(*arguments, **options) * (1 + 1e-8)",
    "max_pool2d_backward": "return right(*arguments, **options) * (1 + 1e-8)",
    "conv_transpose2d": "return right(*arguments, **options) * (1 + 1e-8)",
    "conv_transpose2d_backward": "y, weight = right(*arguments, **options); return y * (1 + 1e-8), weight",
    "unbroadcast": "return right(*arguments, **options) * (1 + 1e-8)",
    "softmax_cross_entropy": "loss, grad = right(*arguments, **options); return loss, grad * (1 + 1e-8)",
    "backward_pass": "right(arguments[0], arguments[1] * (1 + 1e-8))",
    "compose": "scale, offset = right(*arguments); return scale, offset + scale",
    "decoder": "return right(*arguments, **options) * (1 + 1e-8)",
}


@pytest.fixture
def solved(monkeypatch, tmp_path):
    """A folder in the place of mine/ that holds every solution."""
    folder = tmp_path / "mine"
    shutil.copytree(SOLUTIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("MINIFCN_MINE", str(folder))
    return folder


@pytest.mark.parametrize(("geometry", "size"), CASES)
def test_all_solutions_together_are_the_librarys_fcn8s(solved, geometry, size):
    compare_networks(geometry, size)


def test_every_exercise_is_solved(solved):
    """Else the network above would run on what is borrowed, and the comparison would be with itself."""
    from course.exercises import EXERCISES

    assert {path.stem for path in solved.glob("*.py")} == set(EXERCISES)


@pytest.mark.parametrize("name", PLANTED)
def test_one_altered_solution_is_noticed(solved, name):
    """So the network does run on these files, and a hundred-millionth is seen."""
    path = solved / f"{name}.py"
    code = PLANTED[name].replace("; ", "\n    ")
    path.write_text(f"{path.read_text()}\n\nright = {name}\n\n\ndef {name}(*arguments, **options):\n    {code}\n")
    geometry = "paper" if name == "compose" else "same"
    with pytest.raises(AssertionError):
        compare_networks(geometry, SIZES[geometry][0])


def test_names_that_fit_nowhere_are_not_left_out_silently():
    network = FCN8s(3, 1, 4)
    with pytest.raises(ValueError, match="conv9_9"):
        network.take_over({"conv9_9.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="shape"):
        network.take_over({"fc7.weight": np.zeros((3, 4, 1, 1))})
    assert "fc7.bias" in network.take_over({"fc7.weight": np.zeros((4, 4, 1, 1))})


def test_it_starts_as_the_paper_does():
    """Score layers at zero, so that the loss begins at ln(classes), and bilinear upsampling."""
    network = FCN8s(3, 1, 4)
    loss = engine.softmax_cross_entropy(
        network(engine.Tensor(np.ones((1, 3, 32, 32), np.float32))), np.ones((1, 32, 32), int)
    )
    assert loss.data == pytest.approx(np.log(3))
    library = models.FCN8s(3, 1, 4, geometry="same").state_dict()
    for name in ("upscore2", "upscore_pool4", "upscore8"):
        np.testing.assert_allclose(network.parameters[f"{name}.weight"].data, library[f"{name}.weight"], rtol=1e-7)
    assert len(network.learned()) == len(network.parameters) - 1
    assert [FCN8s(3, 1, 4, geometry=geometry).crops for geometry in ("paper", "same")] == [(5, 9, 31), (0, 0, 0)]


def compare_networks(geometry, size):
    """AssertionError unless logits, loss and the gradient of every parameter agree to 1e-10 of the largest number."""
    classes, width, fc_width = 4, 2, 6
    options = {"geometry": geometry, "learned_upsampling": "all"}
    library = fill(models.FCN8s(classes, width, fc_width, **options)).eval()
    network = FCN8s(classes, width, fc_width, geometry=geometry, dtype=np.float64)
    assert network.take_over(library.state_dict()) == []

    generator = np.random.default_rng(5)
    images = generator.normal(size=(2, 3, *size))
    labels = generator.integers(0, classes, (2, *size))
    labels[generator.random(labels.shape) < 0.1] = 255
    expected = library(Tensor(images))
    expected_loss = ops.softmax_cross_entropy(expected, labels)
    expected_loss.backward()
    logits = network(engine.Tensor(images))
    loss = engine.softmax_cross_entropy(logits, labels)
    loss.backward()

    close("logits", logits.data, expected.data)
    close("loss", loss.data, expected_loss.data)
    for name, parameter in library.named_parameters():
        assert np.abs(parameter.grad).max() > 0, name  # a dead network would compare zeros
        close(name, network.parameters[name].grad, parameter.grad)


def close(name, yours, expected):
    np.testing.assert_allclose(yours, expected, rtol=0, atol=1e-10 * np.abs(expected).max(), err_msg=name)
