"""The patch classifier: patches in the right place, and the logits of the fully convolutional network."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from networks import fill

from minifcn import Tensor, models, no_grad, ops
from minifcn.autograd.tensor import is_recording
from minifcn.errors import ShapeError, UsageError
from minifcn.models.dense_prediction import Chain, Layer, atrous, framed, multiply_adds, unpadded
from minifcn.models.patch_classifier import PatchClassifier, patches_around
from minifcn.nn import Conv2d

pytestmark = pytest.mark.usefixtures("device")


def picture(rows):
    return Tensor(np.array([[rows]], float))


def small_network(seed=0):
    """Two convolutions that pad, each before a pooling, and a score layer: one score for 14×14 pixels; float64."""
    generator = np.random.default_rng(seed)
    convolutions = [Conv2d(*sizes, 3, padding=1, generator=generator) for sizes in ((2, 3), (3, 3))]
    score = Conv2d(3, 4, 2, generator=generator)
    first, second = (Layer.of_convolution(f"conv{n}", layer) for n, layer in enumerate(convolutions))
    pools = [Layer(f"pool{n}", ops.max_pool2d, (2, 2), (2, 2)) for n in range(2)]
    relus = [Layer(f"relu{n}", ops.relu) for n in range(2)]
    layers = [first, relus[0], pools[0], second, relus[1], pools[1], Layer.of_convolution("score", score)]
    return fill(Chain(layers), seed)


def image_of(*shape):
    return Tensor(np.random.default_rng(list(shape)).normal(size=shape))


def test_patches_lie_around_their_pixels():
    """A patch that begins at its pixel, a frame of anything but zeros, or stride taken for a number of patches."""
    image = picture([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    corners = PatchClassifier(lambda patches: patches, 3, stride=2)(image)
    assert corners.shape == (1, 9, 2, 2)
    assert_array_equal(corners.data[0, :, 0, 0].reshape(3, 3), [[0, 0, 0], [0, 1, 2], [0, 4, 5]])
    assert_array_equal(corners.data[0, :, 1, 0].reshape(3, 3), [[0, 4, 5], [0, 7, 8], [0, 0, 0]])
    assert_array_equal(corners.data[0, :, 0, 1].reshape(3, 3), [[0, 0, 0], [2, 3, 0], [5, 6, 0]])


def test_even_patches_have_their_pixel_before_the_middle():
    """Up and left of the middle, as for the windows of the fully convolutional network."""
    image = picture([[1, 2, 3], [4, 5, 6]])
    scores = PatchClassifier(lambda patches: patches, (2, 4), stride=(1, 3))(image)
    assert_array_equal(scores.data[0, :, 0, 0].reshape(2, 4), [[0, 1, 2, 3], [0, 4, 5, 6]])
    assert_array_equal(scores.data[0, :, 1, 0].reshape(2, 4), [[0, 4, 5, 6], [0, 0, 0, 0]])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (8, 4)], ids=str)
def test_the_logits_are_those_of_the_fully_convolutional_network(size, batch_size):
    """Any difference between one pass over the image and a pass for each patch: borders, order, the last batch."""
    network, images = small_network(), image_of(2, 2, *size)
    windows = unpadded(network)
    assert (windows.receptive_field, windows.stride) == ((14, 14), (4, 4))
    patches = PatchClassifier(windows, windows.receptive_field, stride=windows.stride, batch_size=batch_size)
    with no_grad():
        dense, every_third = framed(network)(images).data, atrous(network)(images).data[:, :, ::3, ::3]
    assert dense.std() > 0.05
    assert_allclose(patches(images).data, dense, rtol=0, atol=1e-10)
    patches = PatchClassifier(windows, windows.receptive_field, stride=3, batch_size=batch_size)
    assert_allclose(patches(images).data, every_third, rtol=0, atol=1e-10)


def test_vgg_at_every_32nd_pixel():
    """The classifier itself, dense layers and batch normalisation included, against one pass of the same weights."""
    network, images = fill(models.VGG11(3, width=1, batch_norm=True)), image_of(1, 3, 33, 3)
    for name, parameter in network.named_parameters():
        if name.endswith("running_var"):
            parameter.data = abs(parameter.data) + 0.5
    windows = unpadded(network.eval())
    with no_grad():
        dense = framed(network)(images).data
    assert dense.shape == (1, 3, 2, 1)
    assert dense.std() > 1e-4
    patches = PatchClassifier(windows, windows.receptive_field, stride=32)
    assert_allclose(patches(images).data, dense, rtol=0, atol=1e-10)


def test_a_classifier_that_pads_does_not_give_these_logits():
    """Its zeros lie around every patch: which is why the comparison takes the padding out of both."""
    network, images = small_network(), image_of(1, 2, 12, 12)
    with no_grad():
        dense = framed(network)(images).data
        crop = Chain(network.layers)(ops.crop(images, 0, (9, 9)))
    padding = PatchClassifier(network, 9, stride=4)
    assert crop.shape[2:] == (1, 1)
    assert padding(images).shape == dense.shape
    assert abs(padding(images).data - dense).max() > 0.1


def test_how_many_times_more_work_it_is():
    """By hand: a 3×3 kernel, then a 1×1 one with stride 2, on 4×4 pixels. A patch has 9 + 1 products, and there are 4;
    the network in one pass has the 9 at each of 4·4 pixels and the 1 at 2·2 of them."""
    layers = [Conv2d(1, 1, 3), Conv2d(1, 1, 1, stride=2)]
    network = Chain([Layer.of_convolution(f"conv{n}", layer) for n, layer in enumerate(layers)])
    assert multiply_adds(unpadded(network), unpadded(network).receptive_field) == 10
    assert multiply_adds(framed(network), 4) == 16 * 9 + 4 * 1
    asked = []
    count = PatchClassifier(lambda patches: asked.append(len(patches.data)) or patches, 3, stride=2, batch_size=3)
    count(image_of(1, 1, 4, 4))
    assert asked == [3, 1]


def test_nothing_is_recorded_while_predicting():
    """Maps of all patches kept for a backward pass that cannot come."""
    recording = []
    PatchClassifier(lambda patches: recording.append(is_recording()) or patches, 1)(image_of(1, 1, 1, 1))
    assert recording == [False]


def test_patches_for_training_have_the_labels_of_their_pixels():
    """Row and column exchanged, the patch of another image, or a label beside the middle."""
    images = Tensor(np.arange(2 * 2 * 3, dtype=float).reshape(2, 1, 2, 3))
    labels = np.arange(2 * 2 * 3).reshape(2, 2, 3)
    patches, targets = patches_around(images, labels, np.array([[1, 0, 2], [0, 1, 0], [0, 1, 0]]), (1, 3))
    assert_array_equal(patches.data[:, 0, 0], [[7, 8, 0], [0, 3, 4], [0, 3, 4]])
    assert_array_equal(targets, [8, 3, 3])
    assert_array_equal(patches_around(images, Tensor(labels), np.array([[0, 0, 1]]), 1)[1], [1])


def test_training_on_patches_is_training_on_those_pixels():
    """Long et al. 2015, section 3.4: the loss of patches is the dense loss with all other pixels masked, and so are its
    gradients. Void in the middle of a patch does not count in either."""
    generator, network, images = np.random.default_rng(3), small_network(), image_of(2, 2, 6, 7)
    labels = generator.integers(0, 4, (2, 6, 7))
    labels[generator.random(labels.shape) < 0.2] = 255
    centres = generator.permutation(np.argwhere(labels >= 0))[:20]
    windows, chosen = unpadded(network), np.zeros(labels.shape)
    chosen[tuple(centres.T)] = 1

    patches, targets = patches_around(images, labels, centres, windows.receptive_field)
    scores = ops.reshape(windows(patches), (len(centres), -1))
    sampled = ops.softmax_cross_entropy(scores, targets, reduction="sum")
    sampled.backward()
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = None
    dense = ops.softmax_cross_entropy(atrous(network)(images), labels, mask=chosen, reduction="sum")
    dense.backward()

    assert 0 < (targets == 255).sum() < 20
    assert dense.item() == pytest.approx(sampled.item(), rel=1e-12)
    for name, parameter in network.named_parameters():
        assert_allclose(parameter.grad, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("labels", "centres", "words"),
    [
        (np.zeros((1, 4, 5), int), [[0, 0, 0]], r"need labels of \(1, 5, 4\), not \(1, 4, 5\)"),
        (np.zeros((1, 5, 4), int), [[0, 5, 0]], r"centre \(0, 5, 0\) lies outside \(1, 5, 4\)"),
        (np.zeros((1, 5, 4), int), [[0, -1, 0]], r"centre \(0, -1, 0\) lies outside"),
        (np.zeros((1, 5, 4), int), [[0, 1]], r"shape \(1, 2\); integers of shape \(n, 3\)"),
        (np.zeros((1, 5, 4), int), np.zeros((0, 3), int), "one or more rows"),
        (np.zeros((1, 5, 4), int), [[0, 1.5, 0]], "centres are float64"),
    ],
)
def test_centres_and_labels_that_do_not_fit_are_refused(labels, centres, words):
    """A negative row counts from the end; one too large cuts a patch too small."""
    with pytest.raises(ShapeError, match=words):
        patches_around(Tensor(np.ones((1, 1, 5, 4))), labels, np.array(centres), 3)


def test_arguments_are_checked_by_name():
    """NumPy's word for it, or no patch at all."""
    with pytest.raises(ShapeError, match="PatchClassifier: stride must be at least 1"):
        PatchClassifier(lambda x: x, 3, stride=0)
    with pytest.raises(ShapeError, match="PatchClassifier: patch_size must be at least 1"):
        PatchClassifier(lambda x: x, 0)
    with pytest.raises(UsageError, match="batch_size=0 must be at least 1"):
        PatchClassifier(lambda x: x, 3, batch_size=0)
    with pytest.raises(ShapeError, match=r"PatchClassifier.*\(N, C, H, W\)"):
        PatchClassifier(lambda x: x, 3)(Tensor(np.ones((3, 3))))
