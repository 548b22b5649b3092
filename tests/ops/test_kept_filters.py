"""Filters that are kept while weights cannot change: the same numbers, made once, and never of weights of before."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from devices import CPU, assert_array_equal, on_device
from numpy.testing import assert_array_equal as assert_host_array_equal
from PIL import Image
from strategies import Machine, seeded
from tiny_runs import call

from minifcn import Tensor, models, no_grad, ops, predict
from minifcn.benchmarking import cases
from minifcn.benchmarking.minifcn_side import MinifcnSide
from minifcn.data import Shapes
from minifcn.errors import ShapeError
from minifcn.ops import kept_filters, routes
from minifcn.ops.kept_filters import keep_filters, kept
from minifcn.prediction import label_pixels
from minifcn.training import SGD, evaluate
from minifcn.weights import Preprocessing, save_weights

KEEPING = ("winograd-rows", "winograd-6x6", "winograd-4x4", "winograd-2x2")
every_way = pytest.mark.parametrize("route", KEEPING)
PLAIN = Preprocessing("RGB", 1 / 255, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


class CountingTile:
    """A tile that counts how often filters are transformed by its matrix G."""

    def __init__(self, tile):
        self.tile, self.count = tile, 0

    def __getattr__(self, name):
        self.count += name == "evaluate_filter"
        return getattr(self.tile, name)


@pytest.fixture
def rows(monkeypatch):
    """The tile of winograd-rows, the way that convolutions go meanwhile, wherever they can."""
    way, tile = routes.WINOGRAD["winograd-rows"]
    counting = CountingTile(tile)
    monkeypatch.setitem(routes.WINOGRAD, "winograd-rows", (way, counting))
    with routes.conv_route("winograd-rows"):
        yield counting


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test, and nothing that it calls, leaves an array behind that is kept or read-only for ever."""
    yield
    assert kept_filters._fixed == {}


def layer(seed=0, channels=3):
    """An image and a weight, float32."""
    return seeded(2, channels, 9, 8, dtype=np.float32), seeded(4, channels, 3, 3, seed=seed, dtype=np.float32)


def convolved(x, weight):
    return ops.conv2d(x, weight, padding=1).numpy().copy()


# ------------------------------------------------------------------------------------------ what is kept, and how long


def test_a_result_is_kept_until_the_block_ends():
    """Made in each call all the same; or kept for ever, or in memory that the next call overwrites."""
    scratch, calls = np.zeros(2), []

    @kept
    def doubled(backend, weight, tile):
        calls.append(tile)
        scratch[:] = 2 * weight
        return scratch

    one, other = Tensor(np.array([1.0, 2.0])), Tensor(np.array([5.0, 6.0]))
    with keep_filters([one]):
        for _ in range(3):
            assert_host_array_equal(doubled(None, one.data, "a"), [2, 4])
            assert_host_array_equal(doubled(None, other.data, "a"), [10, 12])  # which is not kept
        assert calls == ["a"] * 4
        doubled(None, one.data, "b")  # another tile, another result
        assert calls == ["a"] * 4 + ["b"]
    one.data[0] = 3
    assert_host_array_equal(doubled(None, one.data, "a"), [6, 4])


@every_way
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_are_the_same_bit_for_bit(route, threads):
    """U of another layer, of another way or tile, or in scratch memory that the next layer overwrites."""
    (x, one), (_, other) = layer(0), layer(1)
    with Machine(1500, threads).running():
        with routes.conv_route(route):
            expected = [convolved(x, weight) for weight in (one, other)]
        with keep_filters([one, other]):
            for way in KEEPING:
                with routes.conv_route(way):
                    convolved(x, one), convolved(x, other)
            with routes.conv_route(route):
                for weight, y in zip((one, other, one), (*expected, expected[0]), strict=True):
                    assert_host_array_equal(convolved(x, weight), y)


@every_way
def test_filters_are_transformed_once(route, monkeypatch):
    """Made anew in each call; or in the first call after the block not at all."""
    way, tile = routes.WINOGRAD[route]
    counting = CountingTile(tile)
    monkeypatch.setitem(routes.WINOGRAD, route, (way, counting))
    (x, weight), wide = layer(), seeded(1, 3, 20, 30, dtype=np.float32)
    with routes.conv_route(route):
        with keep_filters([weight]):
            for image in (x, wide, x):
                convolved(image, weight)
        assert counting.count == 1
        convolved(x, weight)
        assert counting.count == 2


@every_way
def test_changed_weights_count_after_the_block(route):
    """What was kept outlives the block, in the next one too."""
    x, weight = layer()
    with routes.conv_route(route):
        with keep_filters([weight]):
            before = convolved(x, weight)
        weight.data *= 2
        assert_host_array_equal(convolved(x, weight), 2 * before)
        with keep_filters([weight]):
            assert_host_array_equal(convolved(x, weight), 2 * before)


def test_another_array_in_the_tensor_counts_at_once(rows):
    """What was kept of the old array is taken for the new one."""
    x, weight = layer()
    with keep_filters([weight]):
        before = convolved(x, weight)
        weight.data = 2 * weight.data
        assert_host_array_equal(convolved(x, weight), 2 * before)
        weight.data[...] = 0
        assert not convolved(x, weight).any()


def test_nothing_is_kept_over_the_limit(rows, monkeypatch):
    """Memory that grows by four times the weights of a large network."""
    x, weight = layer()
    size = 8 * (4 * 3 * 3) * 4  # bytes of (m + 2) · O·kw·C numbers
    for most, count in [(size, 1), (size - 1, 2)]:
        monkeypatch.setattr(kept_filters, "MOST_BYTES", most)
        rows.count = 0
        with keep_filters([weight]):
            convolved(x, weight), convolved(x, weight)
        assert rows.count == count


def test_gradients_are_the_same(rows):
    """The turned weights of the gradient to the input taken for the weights, or U made by two threads at once."""
    x, weight = (Tensor(tensor.data, requires_grad=True) for tensor in layer(channels=4))
    gradients = []
    with Machine(threads=2).running():
        for block in (contextlib.nullcontext(), keep_filters([weight])):
            with block:
                for _ in range(2):
                    x.grad = weight.grad = None
                    ops.conv2d(x, weight, padding=1).backward(Tensor(np.ones((2, 4, 9, 8), np.float32)))
                    gradients.append((x.grad, weight.grad))
    for found in gradients[1:]:
        assert_host_array_equal(found[0], gradients[0][0])
        assert_host_array_equal(found[1], gradients[0][1])


# ------------------------------------------------------------------------------------ what can be written to, and when


def test_weights_are_read_only_within_the_block():
    """A weight that is changed in silence, while results go on being those of the old one."""
    _, weight = layer()
    with keep_filters([weight]):
        with pytest.raises(ValueError, match="assignment destination is read-only"):
            weight.data[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            weight.data *= 2
    weight.data[0] = 1


def test_an_error_ends_the_block_too(rows):
    """Weights that cannot be trained any more once a picture was damaged; the list itself may fail as well."""
    x, weight = layer()

    def broken_off():
        with keep_filters([weight]):
            convolved(x, weight)
            raise ShapeError("of a picture")

    def failing():
        yield weight
        raise RuntimeError("no more of them")

    before = convolved(x, weight)
    with pytest.raises(ShapeError):
        broken_off()
    with pytest.raises(RuntimeError), keep_filters(failing()):
        pass
    weight.data *= 2
    assert_host_array_equal(convolved(x, weight), 2 * before)


def test_arrays_that_can_be_written_to_by_others_are_left_alone(rows):
    """A view's own flag says nothing of its base; and who made an array read-only may make it writeable again."""
    x, (_, whole), (_, fixed) = layer()[0], layer(), layer(1)
    view, base = Tensor(whole.data[:]), whole.data
    fixed.data.flags.writeable = False
    with keep_filters([view, fixed]):
        before = convolved(x, view), convolved(x, fixed)
        base *= 2
        assert not fixed.data.flags.writeable
        fixed.data.flags.writeable = True
        fixed.data *= 2
        fixed.data.flags.writeable = False
        assert_host_array_equal(convolved(x, view), 2 * before[0])
        assert_host_array_equal(convolved(x, fixed), 2 * before[1])
    assert not fixed.data.flags.writeable


def test_blocks_may_be_nested(rows):
    """The inner one drops what the outer keeps, or makes its weights writeable; the same weight twice in a list."""
    (x, one), (_, other) = layer(0), layer(1)
    with keep_filters([one, one]):
        convolved(x, one)
        with keep_filters([one, other]):
            convolved(x, one), convolved(x, other), convolved(x, other)
        assert rows.count == 2
        assert not one.data.flags.writeable
        assert other.data.flags.writeable
        convolved(x, one), convolved(x, other)
        assert rows.count == 3
    assert one.data.flags.writeable


def test_blocks_may_end_in_any_order(rows):
    """The second, of another thread or held by a generator, goes on with what the first one has let go."""
    x, weight = layer()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(keep_filters([weight]))
        second.enter_context(keep_filters([weight]))
        before = convolved(x, weight)
        first.close()
        weight.data *= 2
        assert_host_array_equal(convolved(x, weight), 2 * before)
        second.close()
        assert weight.data.flags.writeable


@pytest.mark.usefixtures("device")
def test_a_block_does_no_harm_on_any_device():
    """A GPU's arrays have no flags to set; what is computed there is right with any weights."""
    x, weight = (Tensor(on_device(tensor.data)) for tensor in layer())
    with no_grad():
        before = ops.conv2d(x, weight, padding=1)
        with keep_filters([weight]):
            for _ in range(2):
                assert_array_equal(ops.conv2d(x, weight, padding=1), before)
        weight.data *= 2
        assert_array_equal(ops.conv2d(x, weight, padding=1), 2 * before)


# ---------------------------------------------------------------------------------------------- where blocks are opened


LAYERS = 13  # of 3×3 filters, in each of these networks


def network(num_classes=9):
    """FCN-8s two channels wide, that has something to say."""
    model, generator = models.FCN8s(num_classes, width=2, fc_width=4, geometry="same"), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.startswith("score_") and name.endswith(".weight"):
            parameter.data = on_device(generator.standard_normal(parameter.shape, np.float32))
    return model


def is_writeable(model):
    return all(parameter.data.flags.writeable for parameter in model.parameters())


def with_and_without(monkeypatch):
    """Each limit to what is kept: none, and as it is."""
    for most in (0, kept_filters.MOST_BYTES):
        monkeypatch.setattr(kept_filters, "MOST_BYTES", most)
        yield most


def test_a_picture_is_predicted_with_filters_made_once(rows, monkeypatch):
    """Tiles, scales and mirror images each with their own; or other numbers."""
    model, image, found = network(3), np.random.default_rng(1).integers(0, 256, (80, 64, 3), np.uint8), []
    options = {"scales": (1, 0.5), "flip": True, "tile": 64, "overlap": 32}  # four views of each of two tiles
    for most in with_and_without(monkeypatch):
        rows.count = 0
        found.append(np.empty((3, 80, 64), np.float32))
        label_pixels(model, image, PLAIN, probabilities=found[-1], **options)
        assert rows.count == (LAYERS if most else 8 * LAYERS)
        assert is_writeable(model)
    assert_host_array_equal(*found)


def test_pictures_are_predicted_with_filters_made_once(rows, tmp_path, monkeypatch):
    """Each picture of the command with its own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the command sets for its process
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    model = network(3)
    record = {"classes": ["background", "sheep", "wolf"]}
    file = tmp_path / "model.safetensors"
    save_weights(file, model.state_dict(), architecture=model.architecture, preprocessing=PLAIN, record=record)
    assert call(predict, file, *paths, "--out", tmp_path / "out") == 0
    assert rows.count == LAYERS


def test_a_data_set_is_evaluated_with_filters_made_once(rows, monkeypatch):
    """Each batch with its own; or other figures."""
    model, found = network(), []
    for most in with_and_without(monkeypatch):
        rows.count = 0
        found.append(evaluate(model, Shapes("val", size=32, length=5), PLAIN, batch_size=2).confusion.counts)
        assert rows.count == (LAYERS if most else 3 * LAYERS)
        assert is_writeable(model)
    assert_host_array_equal(*found)


def test_a_damaged_picture_leaves_weights_that_can_be_trained():
    """An evaluation that is broken off, and a run that cannot go on after it."""
    model, pictures = network(), Shapes("val", size=32, length=5)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, pictures, PLAIN, progress=lambda batches: (1 / 0 for _ in batches))
    assert is_writeable(model)


def test_training_goes_on_after_an_evaluation(device):
    """Weights that a step cannot change, or the figures of those before the step."""
    model, pictures = network(), Shapes("val", size=32, length=4)
    optimizer = SGD(model.parameters(), lr=0.1)
    images = Tensor(on_device(seeded(2, 3, 32, 32, dtype=np.float32).data))
    counts = []
    with routes.conv_route("winograd-rows" if device == CPU else "im2col"):
        for _ in range(2):
            counts.append(evaluate(model, pictures, PLAIN).confusion.counts)
            model.train()
            optimizer.zero_grad()
            ops.softmax_cross_entropy(model(images), np.full((2, 32, 32), 4)).backward()
            optimizer.step()
        counts.append(evaluate(model, pictures, PLAIN).confusion.counts)
        fresh = network()
        fresh.load_state_dict(model.state_dict())
        assert_host_array_equal(counts[-1], evaluate(fresh, pictures, PLAIN).confusion.counts)
    assert (counts[-1] != counts[0]).any()


def test_the_benchmark_calls_a_forward_pass_as_prediction_does(rows):
    """Filters made in each call; or weights that stay read-only, and kept, when the case is over."""
    case = cases.network_case(
        "fcn8s",
        {"name": "fcn8s", "num_classes": 3, "width": 2, "fc_width": 4, "geometry": "same"},
        (1, 3, 32, 32),
        cases.FORWARD,
        "sgd",
    )
    layer_case = next(
        one for one in cases.all_cases() if one.name.startswith("conv3_1/") and one.pass_ == cases.FORWARD
    )
    layer_case = replace(layer_case, input_shape=(1, 4, 12, 12), weight_shape=(4, 4, 3, 3))
    for one, layers in [(case, LAYERS), (layer_case, 1)]:
        arrays = cases.make_arrays(one)
        workload, rows.count = MinifcnSide().workload(one, arrays, "cpu"), 0
        first, second = workload()["output"].copy(), workload()["output"]
        assert_host_array_equal(first, second)
        assert rows.count == layers
        del workload
        assert kept_filters._fixed == {}
        assert all(array.flags.writeable for array in arrays.values())
