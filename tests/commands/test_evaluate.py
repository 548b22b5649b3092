"""`evaluate` in full: what it prints, what it writes, what it refuses."""

import csv
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from minifcn import data, evaluate, models
from minifcn.commands import run_command
from minifcn.data import voc_palette
from minifcn.weights import Preprocessing, save_weights

CLASSES = ("sky", "road", "car")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eight pictures of the simplest layout; road is the most frequent class, and void at the rim."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for split, names in (("train", "ab"), ("val", "cdefgh")):
        for name in names:
            labels = np.where(np.indices((20, 28))[0] < rng.integers(4, 9), 0, 1).astype(np.uint8)
            labels[12:16, 5 : rng.integers(10, 20)] = 2
            labels[:, :2] = 255
            image = rng.integers(0, 256, (20, 28, 3), np.uint8)
            for folder, picture in (("images", image), ("masks", labels)):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(root / split / folder / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, pictures):
    """A network with random weights, in a file as training writes it."""
    model = models.FCN32s(3, width=2, fc_width=4, geometry="same", dropout=0)
    rng = np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    record = {"classes": list(CLASSES), "palette": voc_palette().tolist(), "data": str(pictures), "seed": 0}
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_weights(
        path, model.state_dict(), architecture=model.architecture, preprocessing=Preprocessing(), record=record
    )
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """The command as it is called: exit code, standard output, standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda number, handler: None)  # the tests' own stay in place
        with pytest.raises(SystemExit) as ended:
            run_command(evaluate.main, evaluate.make_parser())
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def figures_of(checkpoint, run, *arguments) -> dict:
    code, out, err = run(checkpoint, "--json", "-", *arguments)
    assert code == 0, err
    return json.loads(out)


def test_accuracy_is_never_shown_without_mean_iu_and_the_baselines(checkpoint, run, tmp_path):
    """On these pictures, all road has an accuracy of 60 %, and looks like a result by itself.

    Every paragraph that is printed, every file that is written.
    """
    code, out, err = run(checkpoint, "--out", tmp_path / "out")
    assert code == 0, err
    paragraphs = [paragraph for paragraph in out.split("\n\n") if re.search(r"acc(uracy|\.)", paragraph)]
    assert all("mean" in paragraph and "IU" in paragraph for paragraph in paragraphs)
    tables = [paragraph for paragraph in paragraphs if "----" in paragraph]
    assert len(tables) == 2
    for table in tables:
        assert "all background (sky)" in table
        assert "all road" in table
    report = json.loads((tmp_path / "out" / "report.json").read_text())

    def check(value):
        if isinstance(value, dict):
            assert ("pixel_accuracy" in value) == ("mean_iu" in value)
            for one in value.values():
                check(one)

    check(report)
    assert report["all_background"]["stage"] == "all background (sky)"
    assert report["most_frequent"]["pixel_accuracy"] > 0.5
    header = (tmp_path / "out" / "images.csv").read_text().splitlines()[0].split(",")
    assert {"pixel_accuracy", "mean_iu", "all_background_pixel_accuracy", "all_background_mean_iu"} <= set(header)


def test_every_figure_has_an_interval(checkpoint, run):
    """[low, high] beside each of the metrics and classes, of the confidence that was asked for."""
    code, out, err = run(checkpoint, "--confidence", "0.5")
    assert code == 0, err
    assert "50 % bootstrap interval over the 6 pictures" in out
    narrow, wide = (figures_of(checkpoint, run, "--confidence", share) for share in ("0.5", "0.95"))
    assert (narrow["confidence"], wide["confidence"]) == (0.5, 0.95)
    assert narrow["intervals"]["pixel_accuracy"][0] > wide["intervals"]["pixel_accuracy"][0]
    for name, (low, high) in wide["intervals"].items():
        assert low <= wide[name] <= high
        assert low <= narrow["intervals"][name][0] <= narrow["intervals"][name][1] <= high
        assert f"{100 * narrow[name]:.1f} [{100 * narrow['intervals'][name][0]:.1f}" in out
    for name in CLASSES:
        low, _ = narrow["classes"][name]["iu_interval"]
        assert f"{100 * narrow['classes'][name]['iu']:.1f} [{100 * low:.1f}" in out


def test_one_picture_has_no_interval(checkpoint, run, pictures, tmp_path):
    """[x, x] would claim to be certain."""
    for folder in ("images", "masks"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "c.png").write_bytes((pictures / "val" / folder / "c.png").read_bytes())
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    for split_folder in ("images", "masks"):
        (tmp_path / "train" / split_folder).mkdir(parents=True)
        (tmp_path / "train" / split_folder / "a.png").write_bytes(
            (pictures / "train" / split_folder / "a.png").read_bytes()
        )
    code, out, err = run(checkpoint, "--data", tmp_path)
    assert code == 0, err
    assert "No intervals" in out
    assert "[" not in out
    assert set(figures_of(checkpoint, run, "--data", tmp_path)["intervals"].values()) == {None}


def test_the_folder_of_an_evaluation_is_listed_and_complete(checkpoint, run, tmp_path):
    """Five files, each named with what it is; the report is that of --json."""
    out = tmp_path / "deep" / "out"
    code, printed, err = run(checkpoint, "--out", out, "--json", tmp_path / "same.json")
    assert code == 0, err
    listed = re.findall(r"^  (\S+\.(?:json|csv|png)) +\S", printed, re.MULTILINE)
    assert listed == ["report.json", "confusion.csv", "confusion.png", "images.csv", "worst.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(listed)
    assert (out / "report.json").read_bytes() == (tmp_path / "same.json").read_bytes()
    with open(out / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list("cdefgh")
    report = json.loads((out / "report.json").read_text())
    assert report["pictures"] == 6
    assert run(checkpoint, "--out", out)[0] == 0  # a second time, over the first


def test_json_to_standard_output_is_nothing_else(checkpoint, run, tmp_path):
    """A list of files among the JSON cannot be read."""
    assert figures_of(checkpoint, run, "--out", tmp_path / "out")["split"] == "val"
    assert (tmp_path / "out" / "worst.png").exists()


def test_the_folder_of_a_run_is_not_written_into(checkpoint, run, tmp_path):
    """Its report.json, of the training, would be lost."""
    (tmp_path / "config.toml").touch()
    (tmp_path / "report.json").write_text("precious")
    code, _, err = run(checkpoint, "--out", tmp_path)
    assert code == 2
    assert "is the folder of a run" in err
    assert (tmp_path / "report.json").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_width_of_the_band_can_be_chosen(checkpoint, run):
    """An option that is read but not used."""
    results = [figures_of(checkpoint, run, "--boundary-width", width) for width in (1, 40)]
    assert [result["boundary_width"] for result in results] == [1, 40]
    assert results[0]["boundary_iu"] != results[1]["boundary_iu"]
    assert results[1]["boundary_iu"] == results[1]["mean_iu"]  # as wide as the picture
    assert "at most 1 pixel from" in run(checkpoint, "--boundary-width", 1)[1]


def test_a_label_can_be_left_out(checkpoint, run):
    """Void still does not count; the class that was left out has no pixels."""
    every, without = figures_of(checkpoint, run), figures_of(checkpoint, run, "--ignore-label", 1)
    assert without["classes"]["road"]["pixels"] == 0
    assert without["classes"]["road"]["accuracy"] is None
    assert without["classes"]["sky"]["pixels"] == every["classes"]["sky"]["pixels"] > 0
    assert without["confusion"][0] == every["confusion"][0]


@pytest.mark.parametrize(
    "arguments",
    [("--confidence", "95"), ("--confidence", "nan"), ("--boundary-width", "0"), ("--ignore-label", "256")],
)
def test_impossible_options_are_wrong_usage(checkpoint, run, tmp_path, arguments):
    """Before minutes of evaluation, and by the option's name."""
    code, out, err = run(checkpoint, *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert arguments[0] in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_split_is_named(checkpoint, run):
    """The validation pictures, whatever is asked for."""
    assert figures_of(checkpoint, run, "--split", "train")["pictures"] == 2
    code, _, err = run(checkpoint, "--split", "test")
    assert code == 1
    assert "test" in err


def test_data_can_be_fetched_first(checkpoint, run, pictures, monkeypatch):
    """Evaluated is what was downloaded, not what was typed; messages leave standard output to the figures."""
    asked = []

    def download(spec, *, progress, say):
        asked.append(spec)
        say("licence: none")
        return str(pictures)

    monkeypatch.setattr(data, "download", download)
    assert figures_of(checkpoint, run, "--data", "voc", "--download")["data"] == str(pictures)
    assert asked == ["voc"]
    assert "licence: none" in run(checkpoint, "--data", "voc", "--download")[2]
    figures_of(checkpoint, run)
    assert len(asked) == 2


def test_a_network_of_one_fold_is_measured_on_the_pictures_it_has_not_seen(checkpoint, run, pictures, tmp_path):
    """On the split called val, most would be those that it was trained on."""
    folds = {"splits": ["train", "val"], "number": 2, "count": 4, "group": ""}
    path = with_record(checkpoint, tmp_path, folds=folds)
    names = [sample.name for sample in data.open_fold(str(pictures), part="val", seed=0, **folds)]
    assert len(names) == 2
    result = figures_of(path, run, "--out", tmp_path / "out")
    assert result["split"] == "val of fold 2"
    with open(tmp_path / "out" / "images.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    assert figures_of(path, run, "--split", "val")["pictures"] == 6
    assert figures_of(path, run, "--data", pictures)["pictures"] == 6


def test_a_damaged_record_of_folds_is_taken_for_none(checkpoint, run, tmp_path):
    """Keys that open_fold does not know are a TypeError."""
    for folds in (5, {"number": 1}, {"splits": ["train"], "number": "1", "count": 2, "group": ""}):
        path = with_record(checkpoint, tmp_path, folds=folds)
        assert figures_of(path, run)["split"] == "val"


def with_record(checkpoint, folder, **changes):
    """The checkpoint with another record."""
    from minifcn.weights import load

    file = load(checkpoint)
    save_weights(
        folder / "other.safetensors",
        file.tensors,
        architecture=file.architecture,
        preprocessing=file.preprocessing,
        record={**file.record, **changes},
    )
    return folder / "other.safetensors"
