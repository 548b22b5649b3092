"""Shift-and-stitch and the à-trous network: a score vector for every pixel, in two ways that agree."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device
from networks import fill

from minifcn import Tensor, models, nn, no_grad, ops
from minifcn.autograd.tensor import is_recording
from minifcn.errors import DtypeError, ShapeError, UsageError
from minifcn.models.dense_prediction import Chain, Layer, atrous, framed, multiply_adds, shift_and_stitch, unpadded

pytestmark = pytest.mark.usefixtures("device")
long = pytest.mark.cpu_only("long, and of the operations of other tests here")


def conv(name, weight, bias=(0.0,), **geometry):
    """A layer with this weight, float64."""
    weight = np.array(weight, float)
    layer = nn.Conv2d(weight.shape[1] * geometry.get("groups", 1), weight.shape[0], weight.shape[2:], **geometry)
    layer.astype(np.float64)
    layer.weight.data, layer.bias.data = on_device(weight), on_device(np.array(bias, float))
    return Layer.of_convolution(name, layer)


def pool(name, kernel_size=(2, 2), stride=(2, 2)):
    return Layer(name, ops.max_pool2d, kernel_size, stride)


def random_conv(generator, name, in_channels, out_channels, kernel_size, **geometry):
    shape = (out_channels, in_channels // geometry.get("groups", 1), *kernel_size)
    weight = generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    return conv(name, weight, generator.uniform(0.1, 0.5, out_channels), **geometry)


def normalisation(generator, name, channels):
    """Batch normalisation in evaluation mode, far from the identity."""
    layer = nn.BatchNorm2d(channels).astype(np.float64).eval()
    for parameter in layer.parameters():
        parameter.data = on_device(generator.uniform(0.5, 2, channels))
    return Layer(name, layer)


def pyramid(poolings, seed=0):
    """3×3 convolution, ReLU and 2×2 pooling so many times, and a score layer: scores 2^poolings coarser."""
    generator, layers = np.random.default_rng(seed), []
    for number in range(poolings):
        layers.append(random_conv(generator, f"conv{number}", 2, 2, (3, 3), padding=1))
        layers += [Layer(f"relu{number}", ops.relu), pool(f"pool{number}")]
    return Chain([*layers, random_conv(generator, "score", 2, 3, (2, 2))])


def irregular():
    """Whatever else a layer may be: strided, dilated or grouped convolutions, no square in it, pools that overlap."""
    generator = np.random.default_rng(1)
    return Chain(
        [
            random_conv(generator, "conv1", 2, 4, (2, 3), stride=(1, 2), padding=(3, 0)),
            normalisation(generator, "norm1", 4),
            pool("pool1", (3, 2), (2, 1)),
            Layer("relu1", ops.relu),
            random_conv(generator, "conv2", 4, 2, (1, 2), dilation=(1, 3), groups=2),
            pool("pool2", (1, 3), (3, 2)),
            random_conv(generator, "score", 2, 3, (2, 2), stride=(1, 1)),
        ]
    )


def image_of(height, width, channels=2, batch=1):
    return Tensor(np.random.default_rng([height, width]).normal(size=(batch, channels, height, width)))


def filled(network):
    """Random numbers everywhere, variances above zero, in evaluation mode."""
    for name, parameter in fill(network).named_parameters():
        if name.endswith("running_var"):
            parameter.data = abs(parameter.data) + 0.5
    return network.eval()


def window_by_window(network, image):
    """The definition: each pixel's window cut from the image with zeros around, and given to the network alone."""
    window, (height, width) = unpadded(network), image.shape[2:]
    field_h, field_w = window.receptive_field
    above, left = (field_h - 1) // 2, (field_w - 1) // 2
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), (above, field_h), (left, field_w)])
    scores = [
        window(Tensor(padded[:, :, y : y + field_h, x : x + field_w])).numpy()
        for y in range(height)
        for x in range(width)
    ]
    return np.concatenate(scores, axis=-1).reshape(*scores[0].shape[:2], height, width)


def test_a_pooling_by_hand():
    """Pixel by pixel the larger of itself and its right neighbour, zero beyond the edge: interlacing in another order,
    or a frame on the other side."""
    network, image = Chain([pool("pool", (1, 2), (1, 2))]), Tensor(np.array([[[[1.0, 5, 3, 2, -4]]]]))
    assert network.stride == (1, 2)
    assert network.receptive_field == (1, 2)
    assert_array_equal(framed(network)(image).data, [[[[5, 3, 0]]]])
    assert_array_equal(shift_and_stitch(network, image).data, [[[[5, 5, 3, 2, 0]]]])
    assert_array_equal(atrous(network)(image).data, [[[[5, 5, 3, 2, 0]]]])


def test_a_stride_becomes_dilation_of_what_follows():
    """Every second pixel, then left + 10·right: a kernel that is not spread takes neighbours instead."""
    network = Chain([conv("take", [[[[1]]]], stride=(1, 2)), conv("add", [[[[1, 10]]]])])
    image = Tensor(np.array([[[[1.0, 2, 3, 4, 5]]]]))
    assert [layer.dilation for layer in atrous(network).layers] == [(1, 1), (1, 2)]
    assert_array_equal(framed(network)(image).data, [[[[20, 42, 4]]]])
    assert_array_equal(shift_and_stitch(network, image).data, [[[[20, 31, 42, 53, 4]]]])
    assert_array_equal(atrous(network)(image).data, [[[[20, 31, 42, 53, 4]]]])


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4), (9, 11)], ids=str)
@pytest.mark.parametrize(
    "make", [lambda: pyramid(1), lambda: pyramid(2), lambda: pyramid(3), irregular], ids=["2", "4", "8", "irregular"]
)
def test_shift_and_stitch_and_atrous_are_the_network_at_every_window(make, size):
    """Any pixel that another window answers for: borders and odd sizes, a batch, height taken for width, padding left
    in a layer."""
    network, image = make(), image_of(*size, batch=2)
    with no_grad():
        expected = window_by_window(network, image)
        stitched, holes = shift_and_stitch(network, image), atrous(network)(image)
        coarse = framed(network)(image).data
    assert expected.std() > 0.05
    assert_allclose(stitched.data, expected, rtol=0, atol=1e-10)
    assert_allclose(holes.data, expected, rtol=0, atol=1e-10)
    step_h, step_w = network.stride
    assert_allclose(coarse, expected[:, :, ::step_h, ::step_w], rtol=0, atol=1e-10)


@long
@pytest.mark.parametrize("size", [(33, 3), (2, 35)], ids=str)
def test_five_poolings(size):
    """Factor 32, as VGG has, on an image where a shifted copy has more than one score along one axis."""
    network, image = pyramid(5), image_of(*size)
    assert network.stride == (32, 32)
    with no_grad():
        holes = atrous(network)(image).data
    assert holes.std() > 0.01
    assert_allclose(shift_and_stitch(network, image).data, holes, rtol=0, atol=1e-10)


REAL = {
    "vgg16": lambda: models.VGG16(num_classes=3, width=1),
    "vgg11, batch normalisation": lambda: models.VGG11(num_classes=3, width=1, batch_norm=True),
    "fcn32s": lambda: models.FCN32s(num_classes=3, width=1),
    "fcn8s, batch normalisation": lambda: models.FCN8s(num_classes=3, width=1, geometry="same", batch_norm=True),
    "fcn-basic": lambda: models.FCNBasic(num_classes=3, width=2),
}


@pytest.mark.parametrize("name", [n if n == "fcn-basic" else pytest.param(n, marks=long) for n in REAL])
def test_the_published_networks(name):
    """A layer left out, in the wrong place, or with its padding."""
    network, image = filled(REAL[name]()), image_of(2, 3, channels=3)
    with no_grad():
        holes = atrous(network)(image).data
        assert_allclose(holes, window_by_window(network, image), rtol=0, atol=1e-10)
    assert holes.shape == (1, 3, 2, 3)
    assert holes.std() > 1e-4
    assert_allclose(shift_and_stitch(network, image).data, holes, rtol=0, atol=1e-10)


def test_receptive_field_and_stride_of_the_published_networks():
    """404 pixels, as the receptive field of VGG16's fc7 is known to be; 212 at pool5."""
    chain = unpadded(models.VGG16(width=1))
    assert (chain.receptive_field, chain.stride) == ((404, 404), (32, 32))
    at_pool5 = [layer.name for layer in chain.layers].index("pool5")
    assert Chain(chain.layers[: at_pool5 + 1]).receptive_field == (212, 212)
    basic = unpadded(models.FCNBasic(width=1).eval())
    assert (basic.receptive_field, basic.stride) == ((106, 106), (16, 16))
    holes = atrous(models.FCN16s(width=1))
    assert (holes.receptive_field, holes.stride) == ((404, 404), (1, 1))


@pytest.mark.parametrize("size", [(224, 250), (229, 224)], ids=str)
@pytest.mark.parametrize("geometry", ["paper", "torchvision"])
def test_a_chain_of_a_classifier_is_the_classifier(geometry, size):
    """A chain that computes something else has dense scores of something else. Pooling rounds up, or down."""
    network = fill(models.VGG11(3, width=1, geometry=geometry, fully_convolutional=True)).eval()
    with no_grad():
        expected = network(image_of(*size, channels=3))
        assert_allclose(Chain.of(network)(image_of(*size, channels=3)).data, expected.data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("geometry", ["paper", "same"])
def test_a_chain_of_an_fcn_leads_to_its_score_layer(geometry):
    """The same with batch normalisation, up to score_fr; FCN-32s enlarges that and crops."""
    network = filled(models.FCN32s(3, width=1, geometry=geometry, batch_norm=True))
    image = image_of(45, 70, channels=3)
    with no_grad():
        enlarged = network.upscore(Chain.of(network)(image))
        expected = network(image)
        assert_allclose(ops.crop(enlarged, network.crops["upscore"], (45, 70)).data, expected.data, rtol=0, atol=1e-12)
    assert expected.data.std() > 1e-4


def test_a_chain_of_fcn_basic_leads_to_its_last_score_layer():
    """The same for the network of the SegNet paper; without skips, the rest is four doublings and crops."""
    network, image = filled(models.FCNBasic(3, width=2, skips="none")), image_of(16, 48, channels=3)
    with no_grad():
        scores = Chain.of(network)(image)
        for level in (4, 3, 2, 1):
            scores = getattr(network, f"upscore_pool{level}")(scores)
        assert_allclose(scores.data, network(image).data, rtol=0, atol=1e-12)
    assert scores.data.std() > 1e-4


@long
def test_where_no_window_reaches_the_edge_padding_makes_no_difference():
    """Without its padding it must still be the same network: windows inside the image get the same scores with it and
    without. Those that reach over the edge do not, as the documentation says."""
    network, image = fill(models.VGG11(3, width=1, fully_convolutional=True)).eval(), image_of(448, 480, channels=3)
    chain = unpadded(network)
    layers = Chain.of(network).layers
    before = sum(layer.padding[0] * Chain(layers[:n]).stride[0] for n, layer in enumerate(layers))  # pixels of padding
    field, first = chain.receptive_field[0], -(-before // 32)  # the first score whose window starts in the image
    start = 32 * first - before
    with no_grad():
        padded = network(image).data
        inside = chain(Tensor(image.data[:, :, start : start + field, start : start + field + 32])).data
        at_the_edge = framed(network)(Tensor(image.data)).data[:, :, 0, 0]
    assert inside.shape[2:] == (1, 2)
    assert_allclose(padded[:, :, first : first + 1, first : first + 2], inside, rtol=0, atol=1e-12)
    assert abs(padded[:, :, 0, 0] - at_the_edge).max() > 1e-3


def test_the_atrous_network_learns_what_the_network_learns():
    """Its weights are the network's own, and a loss on every 4th pixel gives them the gradients it gives to that."""
    network, image = pyramid(2), image_of(7, 9)
    generator = np.random.default_rng(0)
    coarse = framed(network)(image)
    cotangent = generator.normal(size=coarse.shape)
    coarse.backward(on_device(cotangent))
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    network_parameters = list(network.parameters())
    for parameter in network_parameters:
        parameter.grad = None
    holes = atrous(network)
    scores = holes(image)
    everywhere = np.zeros(scores.shape)
    everywhere[:, :, ::4, ::4] = cotangent
    scores.backward(on_device(everywhere))
    assert [*map(id, holes.parameters())] == [*map(id, network_parameters)]
    assert len(expected) == 6
    for name, parameter in network.named_parameters():
        assert_allclose(parameter.grad, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


def test_nothing_is_recorded_while_predicting():
    """Maps of all shifted images kept for a backward pass that cannot come."""
    recording = []
    shift_and_stitch(Chain([Layer("spy", lambda x: recording.append(is_recording()) or x)]), image_of(1, 1))
    assert recording == [False]


def test_numbers_stay_in_their_type():
    """float32 in, float32 out; a mix is refused, not promoted."""
    network = models.VGG11(3, width=1).eval()
    image = image_of(1, 2, channels=3)
    assert shift_and_stitch(network, Tensor(image.data.astype(np.float32))).dtype == np.float32
    with pytest.raises(DtypeError):
        shift_and_stitch(network, image)


@pytest.mark.parametrize("use", [unpadded, framed, atrous, lambda network: shift_and_stitch(network, image_of(2, 2))])
def test_batch_normalisation_in_training_mode_is_refused_by_name(use):
    """The mean of all windows makes scores of no window; and the running ones would move."""
    norm = nn.BatchNorm2d(2).astype(np.float64)
    network = Chain([Layer("conv1_1_bn", norm)])
    with pytest.raises(UsageError, match=r"conv1_1_bn is in training mode.*\.eval\(\)"):
        use(network)
    norm.frozen = True
    use(network)
    norm.frozen = False
    use(network.eval())


def test_other_networks_are_refused_by_name():
    """Layers guessed from attributes, in an order that is not the network's."""
    with pytest.raises(UsageError, match="Conv2d is neither a VGG nor an FCN; put its layers into a Chain"):
        atrous(nn.Conv2d(1, 1, 1))
    with pytest.raises(ShapeError, match=r"shift_and_stitch.*\(N, C, H, W\)"):
        shift_and_stitch(pyramid(1), Tensor(np.ones((4, 4))))


def test_multiply_adds_by_hand():
    """2 channels to 4 with 3×2 kernels, on 4×5 pixels: 3·5 positions of 48; with a frame of 1 and stride 2, 3·3."""
    chain = Chain([random_conv(np.random.default_rng(0), "conv", 2, 4, (3, 2), padding=(0, 0)), pool("p"), pool("q")])
    assert multiply_adds(Chain(chain.layers[:1]), (4, 5)) == 2 * 4 * 48
    strided = Chain([random_conv(np.random.default_rng(0), "conv", 2, 4, (3, 2), stride=2, padding=1)])
    assert multiply_adds(strided, (4, 5)) == 2 * 3 * 48
    assert multiply_adds(framed(strided), (4, 5)) == 2 * 3 * 48
    assert multiply_adds(atrous(strided), (4, 5)) == 4 * 5 * 48
    grouped = Chain([random_conv(np.random.default_rng(0), "conv", 4, 6, (1, 1), groups=2)])
    assert multiply_adds(grouped, 3) == 3 * 3 * 12


@long
def test_multiply_adds_of_the_published_networks():
    """VGG16's 15,346,630,656 in convolutions at 224, and 150 thousand million in FCN's at 500, as everyone counts them.
    fc6 and fc7 are narrow here: they would take most of a gigabyte."""
    vgg = models.VGG16(fc_width=8, fully_convolutional=True)
    assert multiply_adds(vgg, 224) == 15_346_630_656 + 25088 * 8 + 8 * 8 + 8 * 1000
    fcn = models.FCN32s(fc_width=8)
    cells = 16 * 16
    convolutions = multiply_adds(fcn, 500) - cells * (25088 * 8 + 8 * 8 + 8 * 21)
    assert convolutions == pytest.approx(150e9, abs=0.5e9)  # given in whole thousand millions
    with pytest.raises(ShapeError, match="fc6: a kernel of"):
        multiply_adds(vgg, 100)
