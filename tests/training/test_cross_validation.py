"""Cross-validation: every picture is predicted once, by a network that has not seen it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minifcn import data
from minifcn.errors import DataError, UsageError
from minifcn.training import Config, evaluation
from minifcn.training.assembly import open_split
from minifcn.training.cross_validation import cross_validate

CONFIG = Config(
    data="",
    stages=("fcn32s",),
    steps=(2,),
    lr=(1e-3,),
    width=2,
    fc_width=4,
    batch_size=2,
    folds=3,
    group="(scene[0-9])_",
)


@pytest.fixture
def config(tmp_path):
    """Nine pictures of three scenes, of which six are called train and three val."""
    rng = np.random.default_rng(0)
    for number in range(9):
        folder = tmp_path / "pictures" / ("val" if number % 3 == 2 else "train")
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        name = f"scene{number // 3}_{number}.png"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / "images" / name)
        Image.fromarray(rng.integers(0, 2, (24, 24), np.uint8)).save(folder / "masks" / name)
    return replace(CONFIG, data=str(tmp_path / "pictures"))


def run(config, out, **options):
    return cross_validate(config, out, say=lambda line: None, bar=False, **options)


def names_of(dataset):
    return {dataset[index].name for index in range(len(dataset))}


def test_no_scene_is_on_both_sides_and_every_picture_is_measured_once(config, tmp_path):
    """Folds of val alone, or pictures of one scene on both sides, would give too good a figure."""
    parts = [(names_of(open_split(fold, "train")), names_of(open_split(fold, "val"))) for fold in _folds(config)]
    assert sorted(name for _, val in parts for name in val) == sorted(set.union(*parts[0]))
    assert len(set.union(*parts[0])) == 9
    for train, val in parts:
        assert not {name[:6] for name in train} & {name[:6] for name in val}
    result = run(config, tmp_path / "out")
    assert sorted(result.evaluation.names) == sorted(set.union(*parts[0]))
    assert result.evaluation.confusion.counts.sum() == 9 * 24 * 24


def _folds(config):
    return [replace(config, fold=number) for number in (1, 2, 3)]


def test_the_figure_of_all_folds_is_that_of_their_sum(config, tmp_path):
    """The mean of three mean IUs is another number, and one that depends on how the pictures are dealt."""
    result = run(config, tmp_path / "out")
    counts = np.zeros((2, 2), int)
    for number, fold in enumerate(_folds(config), start=1):
        model, file = evaluation.load_segmenter(tmp_path / "out" / f"fold-{number}" / "model.safetensors")
        counts += evaluation.evaluate(model, open_split(fold, "val"), file.preprocessing).confusion.counts
    np.testing.assert_array_equal(result.evaluation.confusion.counts, counts)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mean_iu"] == pytest.approx(result.evaluation.confusion.mean_iu)
    assert [row["stage"] for row in report["folds"]] == ["fold 1", "fold 2", "fold 3"]
    assert report["pictures"] == 9


def test_a_folds_own_configuration_repeats_it(config, tmp_path):
    run(config, tmp_path / "out")
    saved = Config.from_toml(tmp_path / "out" / "fold-2" / "config.toml")
    assert saved == replace(config, fold=2)
    _, file = evaluation.load_segmenter(tmp_path / "out" / "fold-2" / "model.safetensors")
    left_out = data.open_fold(config.data, part="val", seed=0, **file.record["folds"])
    assert names_of(left_out) == names_of(open_split(saved, "val"))


def test_finished_folds_are_not_trained_again(config, tmp_path):
    before = run(config, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("fold-*/fcn32s.safetensors"))
    times = [path.stat().st_mtime_ns for path in files]
    after = run(config, tmp_path / "out", resume=True)
    assert len(files) == 3
    assert [path.stat().st_mtime_ns for path in files] == times
    np.testing.assert_array_equal(before.evaluation.confusion.counts, after.evaluation.confusion.counts)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"folds": 4}, "4 folds of 3 groups"),
        ({"group": "patient([0-9])"}, "finds no group"),
        ({"fold": 4}, "--fold 4: there are the folds 1 to 3"),
        ({"folds": 1}, "--folds 1: at least 2"),
    ],
)
def test_folds_that_cannot_be_are_refused_with_a_remedy(config, changes, named):
    with pytest.raises(UsageError, match=named):
        open_split(replace(config, **{"fold": 1, **changes}), "val")


def test_a_group_that_no_name_has_leaves_no_folder(config, tmp_path):
    """The command with the group put right would be refused, since its folder is there and not empty."""
    with pytest.raises(UsageError, match="finds no group"):
        run(replace(config, group="patient([0-9])"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_that_cannot_be_used_are_skipped_if_asked(config, tmp_path):
    """A look at the data before there is a folder, which forgets that bad pictures were to be skipped."""
    (tmp_path / "pictures" / "train" / "masks" / "scene0_0.png").unlink()
    with pytest.raises(DataError, match="scene0_0"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(config, tmp_path / "run", skip_bad=True).report["pictures"] == 8
