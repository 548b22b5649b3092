"""Evaluation: what is predicted, what counts, and what is left behind of it."""

import csv
import json

import numpy as np
import pytest
from devices import on_device
from PIL import Image

from minifcn import Tensor, models, nn
from minifcn.data import VOID, Sample, Shapes, voc_palette
from minifcn.metrics import Evaluation, figures_report
from minifcn.training import evaluate
from minifcn.training.evaluation import worst_sheet, write_evaluation
from minifcn.weights import Preprocessing

pytestmark = pytest.mark.usefixtures("device")


class Unequal:
    """Two pictures of different sizes."""

    classes = ("background", "thing")
    palette = voc_palette()
    name = "unequal"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        size = [(20, 33), (41, 17)][index]
        rng = np.random.default_rng(index)
        stripes = (np.indices(size).sum(axis=0) // 12 % 2).astype(np.uint8)
        return Sample(rng.integers(0, 256, (*size, 3), np.uint8), stripes, str(index))


def small_model(num_classes=9, **options):
    model = models.FCN8s(num_classes, width=2, fc_width=4, geometry="same", dropout=0.2, **options)
    rng = np.random.default_rng(5)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            parameter.data = on_device(rng.standard_normal(parameter.shape).astype(np.float32))
    return model


def test_evaluation_does_not_depend_on_the_batch_size():
    """Pictures padded to their neighbours' size would see the padding, and be scored differently alone."""
    model = small_model(2)
    rng = np.random.default_rng(7)
    for name, parameter in model.named_parameters():  # biases make what lies beyond the picture differ from zero
        if name.endswith(".bias"):
            parameter.data = on_device(rng.standard_normal(parameter.shape).astype(np.float32))
    scores = model.eval()(Tensor(Preprocessing().apply(Unequal()[0].image)[None])).numpy()
    model.score_fr.bias.data[1] -= float(np.median(scores[0, 1] - scores[0, 0]))  # so that both classes are predicted
    one, two = (evaluate(model, Unequal(), Preprocessing(), batch_size=size) for size in (1, 2))
    assert (one.confusion.counts.sum(axis=0) > 100).all()
    np.testing.assert_array_equal(one.confusion.counts, two.confusion.counts)
    np.testing.assert_array_equal(one.boundary.counts, two.boundary.counts)  # the padding makes no border
    assert one.confusion.counts.sum() == 20 * 33 + 41 * 17


def test_evaluation_leaves_dropout_out():
    """With dropout left on, two evaluations differ."""
    model = small_model()
    model.train()
    data = Shapes("val", size=32, length=4)
    first, second = (evaluate(model, data, Preprocessing()).confusion.counts for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Coloured:
    """Five pictures of 4 × 8, of the colours of their labels, and masks that are wrong in ever more columns.

    The first has no void, the others a column of it; the last is nothing else.
    """

    classes = ("red", "green", "blue")
    palette = voc_palette()
    name = "coloured"

    def __len__(self):
        return 5

    def __getitem__(self, index):
        shown = np.zeros((4, 8), np.uint8)
        shown[:, 4:] = 1
        truth = shown.copy()
        truth[:, : [2, 4, 0, 1, 0][index]] = 2  # where red is shown, and red will be predicted
        truth[:, 7:] = VOID if index else 1
        if index == 4:
            truth[:] = VOID
        image = np.eye(3, dtype=np.uint8)[shown] * 255
        return Sample(image, truth, f"picture-{index}")


class NamesColours(nn.Module):
    """A network whose scores are the colours, so that its predictions are known."""

    def forward(self, images):
        return Tensor(images.data)


PLAIN = Preprocessing("RGB", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def measured(**options) -> Evaluation:
    return evaluate(NamesColours(), Coloured(), PLAIN, **options)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_picture_keeps_its_name_and_figures(batch_size):
    """Figures beside another picture's name, or only those of the last batch."""
    result = measured(batch_size=batch_size)
    assert result.names == [f"picture-{i}" for i in range(5)]
    np.testing.assert_array_equal(result.images.pixel_accuracy, [6 / 8, 3 / 7, 1, 6 / 7, np.nan])
    assert result.worst(3) == [1, 0, 3]


def test_the_width_of_the_band_is_passed_on():
    """The default, whatever is asked for."""
    assert measured(boundary_width=1).boundary.counts.sum() < measured(boundary_width=2).boundary.counts.sum()
    assert measured(boundary_width=2).boundary_width == 2


@pytest.mark.parametrize("label", [0, 2])
def test_a_label_can_be_left_out_beside_void(label):
    """Pixels of the label count, or void does as soon as another is named."""
    every, without = measured().confusion.counts, measured(ignore_label=label).confusion.counts
    expected = every.copy()
    expected[label] = 0
    assert every[label].sum() > 0
    np.testing.assert_array_equal(without, expected)


def test_the_worst_sheet_shows_the_worst_pictures(monkeypatch):
    """The best ones, their truths beside other images, or predictions of another size."""
    shown = {}

    def note(images, truths, predictions, captions, classes, palette, *, title):
        shown.update(images=images, truths=truths, predictions=predictions, captions=captions, title=title)

    monkeypatch.setattr("minifcn.visualize.comparison_sheet", note)
    data = Coloured()
    worst_sheet(NamesColours(), data, PLAIN, measured(ignore_label=1), count=2, ignore_label=1)
    assert shown["captions"] == ["picture-1: mean IU 0.0 %", "picture-0: mean IU 25.0 %"]
    for place, index in enumerate((1, 0)):
        np.testing.assert_array_equal(shown["images"][place], data[index].image)
        truth = data[index].labels
        np.testing.assert_array_equal(shown["truths"][place], np.where(truth == 1, VOID, truth))
        np.testing.assert_array_equal(shown["predictions"][place], data[index].image.argmax(axis=2))
    assert shown["title"] == "The worst 2 of 5 pictures: image, truth, prediction"
    worst_sheet(NamesColours(), data, PLAIN, measured(size=(8, 16)), size=(8, 16))
    assert {one.shape for one in shown["predictions"]} == {(8, 16)}
    assert len(shown["images"]) == 4  # of the fifth, no pixel counts


@pytest.mark.cpu_only("about files")
def test_of_nothing_but_void_there_is_no_worst_picture(tmp_path):
    """A sheet of no pictures is an error; the other files are written, with empty figures."""

    class OnlyVoid(Coloured):
        def __getitem__(self, index):
            return super().__getitem__(4)

    result = evaluate(NamesColours(), OnlyVoid(), PLAIN)
    assert worst_sheet(NamesColours(), OnlyVoid(), PLAIN, result) is None
    report = figures_report(result, OnlyVoid.classes, result.intervals(), result.baselines(OnlyVoid.classes, 0.95))
    written = write_evaluation(tmp_path, report, result, OnlyVoid(), None)
    assert "worst.png" not in written
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
    assert json.loads((tmp_path / "report.json").read_text())["mean_iu"] is None


@pytest.mark.cpu_only("about files")
def test_a_file_name_of_another_encoding_is_no_obstacle(tmp_path):
    """It has no UTF-8, so that the evaluation would end in an error when all is computed."""
    result, data = Evaluation(3), Coloured()
    result.update(np.zeros((2, 2), int), np.zeros((2, 2), int), ["caf\udce9"])
    report = figures_report(result, data.classes, result.intervals(), result.baselines(data.classes, 0.95))
    write_evaluation(tmp_path, report, result, data, None)
    assert "caf\\udce9," in (tmp_path / "images.csv").read_text(encoding="utf-8")


@pytest.mark.cpu_only("about files")
def test_an_evaluation_leaves_its_figures_and_pictures(tmp_path):
    """A file that is promised but not there, or holds something else than its name says."""
    result, data = measured(), Coloured()
    report = figures_report(result, data.classes, result.intervals(), result.baselines(data.classes, 0.95))
    sheet = worst_sheet(NamesColours(), data, PLAIN, result)
    written = write_evaluation(tmp_path, report, result, data, sheet)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
    assert json.loads((tmp_path / "report.json").read_text())["pixel_accuracy"] == result.summary()["pixel_accuracy"]
    with open(tmp_path / "confusion.csv", newline="") as file:
        counts = [[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]]
    assert counts == result.confusion.counts.tolist()
    with open(tmp_path / "images.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == result.names
    with Image.open(tmp_path / "worst.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), sheet)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > 200
