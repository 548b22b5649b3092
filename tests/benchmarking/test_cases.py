"""What the benchmark measures, and how many operations it says that takes."""

from dataclasses import replace

import numpy as np
import pytest

from minifcn import Tensor, models, nn, no_grad
from minifcn.benchmarking.cases import (
    BACKWARD,
    FORWARD,
    GROUP_3X3,
    TRAINING,
    all_cases,
    fcn_convolutions,
    make_arrays,
    network_case,
    select,
)
from minifcn.errors import UsageError

CASES = {case.name: case for case in all_cases()}


def test_operations_of_single_layers_by_hand():
    """A factor of two lost, or a gradient counted that nobody asks for: every rate would be wrong by it."""
    # 64·64·9 weights at each of 384·512 positions, two operations each.
    assert CASES["conv1_2/forward"].floating_point_operations == 2 * 36_864 * 196_608 == 14_495_514_624
    assert CASES["conv1_2/forward+backward"].floating_point_operations == 3 * 14_495_514_624
    # The image needs no gradient: forward and the weight's gradient only.
    assert CASES["conv1_1/forward"].multiply_adds == 64 * 3 * 9 * 384 * 512
    assert CASES["conv1_1/forward+backward"].multiply_adds == 2 * 64 * 3 * 9 * 384 * 512
    # 12×16 cells, 7×7 kernel, padding 3.
    assert CASES["fc6/forward"].multiply_adds == 4096 * 512 * 49 * 12 * 16
    # Each of 21·70·70 inputs meets 21·16·16 weights; the filter is fixed, so there is one gradient.
    assert CASES["upsample-x8/forward"].multiply_adds == 21 * 70 * 70 * 21 * 16 * 16
    assert CASES["upsample-x8/forward+backward"].multiply_adds == 2 * 21 * 70 * 70 * 21 * 16 * 16
    assert CASES["relu/forward"].floating_point_operations == 0


def test_operations_of_the_whole_network_as_published():
    """FCN-8s on 500×500, padded by 100: 150 G in the 3×3 layers, 26 in fc6, 4.3 in fc7, and little in the decoder."""
    counts = {layer.name: layer.multiply_adds / 1e9 for layer in fcn_convolutions(FCN8S, (1, 3, 500, 500))}
    convolutions = sum(count for name, count in counts.items() if name.startswith("conv"))
    assert convolutions == pytest.approx(150, abs=0.5)  # given as a whole number
    assert counts["fc6"] == 4096 * 512 * 49 * 16 * 16 / 1e9
    assert counts["fc7"] == 4096 * 4096 * 16 * 16 / 1e9
    assert sum(counts.values()) == pytest.approx(CASES["fcn8s-500x500/forward"].multiply_adds / 1e9)


FCN8S = CASES["fcn8s-500x500/forward"].architecture
SMALL = {"num_classes": 3, "width": 2, "fc_width": 5}


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"])
@pytest.mark.parametrize(("geometry", "size"), [("paper", (9, 30)), ("same", (45, 70))])
@pytest.mark.parametrize("learned", ["none", "intermediate", "all"])
def test_operations_are_those_that_the_network_does(monkeypatch, name, geometry, size, learned):
    """The count is made from the architecture alone; a crop or a padding forgotten there shows here."""
    done = {}

    def recording(kind, forward):
        def call(layer, x, **options):
            y = forward(layer, x, **options)
            positions = x if kind is nn.ConvTranspose2d else y  # at each of them all weights are used
            products = layer.weight.size * positions.size // positions.shape[1]
            done[id(layer)] = (products, products * (1 + x.requires_grad + layer.weight.requires_grad))
            return y

        return call

    for kind in (nn.Conv2d, nn.ConvTranspose2d):
        monkeypatch.setattr(kind, "forward", recording(kind, kind.forward))
    architecture = {**SMALL, "name": name, "geometry": geometry, "learned_upsampling": learned}
    model = models.build(architecture)
    model(Tensor(np.zeros((2, 3, *size), np.float32)))
    expected = {layer: done[id(module)] for layer, module in model.named_modules() if id(module) in done}
    counted = {c.name: (c.count(FORWARD), c.count(TRAINING)) for c in fcn_convolutions(architecture, (2, 3, *size))}
    assert counted == expected


def test_the_distinct_layers_of_vgg16():
    """13 convolutions, of which four repeat the one before: 9 stay. On 384×512 the last ones see 24×32."""
    layers = [case.name.partition("/")[0] for case in CASES.values() if case.group == GROUP_3X3]
    assert layers[::2] == [f"conv{n}" for n in ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "4_1", "4_2", "5_1")]
    assert CASES["conv5_1/forward"].input_shape == (1, 512, 24, 32)


def test_names_are_chosen_by_pattern():
    cases = all_cases()
    assert [case.name for case in select(cases, ["conv5*"])] == ["conv5_1/forward", "conv5_1/forward+backward"]
    assert [case.name for case in select(cases, ["relu", "conv3_1/forward"])] == [
        "conv3_1/forward",
        "relu/forward",
        "relu/forward+backward",
    ]
    assert select(cases, []) == cases
    assert select(cases, [], quick=True) == [case for case in cases if case.quick] != cases
    assert len(CASES) == len(cases)


def test_an_unknown_case_is_refused():
    """A misspelled name that quietly selects nothing, or everything else."""
    with pytest.raises(UsageError, match=r"--cases conv9_1: no case has this name.*conv1_1"):
        select(all_cases(), ["relu", "conv9_1"])


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.operation != "network"], ids=lambda c: c.name)
def test_arrays_fit_the_case(case):
    """A cotangent of another shape than the output would be broadcast, or refused, only in the middle of a run."""
    case = replace(case, input_shape=(case.input_shape[0], *case.input_shape[1:2], 8, 10))
    if case.weight_shape[:1] == (4096,):
        return  # hundreds of megabytes; of the same kind as the others
    arrays = make_arrays(case)
    assert all(array.dtype == np.float32 for name, array in arrays.items() if name != "labels")
    if case.pass_ == BACKWARD and case.operation != "loss":
        from minifcn.benchmarking.minifcn_side import MinifcnSide

        assert arrays["cotangent"].shape == MinifcnSide().workload(case, arrays, "cpu")()["output"].shape


def test_inputs_are_the_same_each_time():
    first, second = (make_arrays(CASES["upsample-x2/forward+backward"]) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_network_case_has_labels_for_its_classes():
    arrays = make_arrays(
        network_case("tiny", {**SMALL, "name": "fcn8s", "geometry": "same"}, (2, 3, 9, 8), TRAINING, "sgd")
    )
    assert arrays["labels"].shape == (2, 9, 8)
    assert set(np.unique(arrays["labels"])) == {0, 1, 2, 255}
    with no_grad():
        assert arrays["input"].shape == (2, 3, 9, 8)
