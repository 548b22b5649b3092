"""`minifcn.train` as a user calls it: its help, its recipes, its warnings, and what wrong options get."""

import json
import re
import shutil
import sys
from dataclasses import fields

import numpy as np
import pytest
from networks import fill
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file
from tiny_runs import STAGES, assert_same_weights, call, few_pictures, rows_of, stop_after, write_pictures

from minifcn import evaluate, models, train
from minifcn.commands import run_command
from minifcn.errors import DataError, UsageError
from minifcn.training import RECIPES, Config, resolve
from minifcn.weights import Preprocessing, load, save_weights

SMALL = ["--size", "32", "--width", "2", "--fc-width", "4", "--quiet"]
TINY = [*SMALL, "--steps", "2", "--batch-size", "2"]
ONE = [*TINY, "--model", "fcn8s", "--lr", "1e-3"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_pictures(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Asserts that training ends with the code and one line that has the words, and leaves nothing behind."""

    def check(code, words, *arguments, out=None):
        folder = tmp_path / "refused" if out is None else out
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments), "--out", str(folder)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(train.main, train.make_parser())
        errors = capsys.readouterr().err
        assert ended.value.code == code, errors
        assert errors.startswith("error: ")
        assert len(errors.replace("See python -m minifcn.train --help.\n", "").splitlines()) == 1, errors
        assert re.search(words, errors), errors
        assert out is not None or not folder.exists()

    return check


def weight_file(path, model):
    state = fill(model).astype(np.float32).state_dict()
    save_weights(path, state, architecture=model.architecture, preprocessing=Preprocessing(), record={})
    return path


# Help


def options():
    """The options that are choices of a configuration: by key, with their help."""
    keys = {field.name for field in fields(Config)}
    return {action.dest: action for action in train.make_parser()._actions if action.dest in keys}


def test_every_choice_has_an_option_that_is_explained():
    """A key that can be set in a file only, or an option of which one can but guess."""
    assert options().keys() == {field.name for field in fields(Config)}
    for action in train.make_parser()._actions:
        assert action.help, action.option_strings


def test_the_defaults_that_help_states_are_those_that_hold():
    """A help text that was true once."""
    defaults = {field.name: field.default for field in fields(Config)}
    stated = {}
    for key, action in options().items():
        if found := re.search(r"\(default: ([^\s;,)]+)", action.help):
            stated[key] = found[1]
    assert len(stated) > 20
    del stated["data"], stated["size"]  # shapes, and 96 for shapes, which the miniature says
    for key, text in stated.items():
        default = defaults[key]
        expected = {"yes": True, "no": False}.get(text, text)
        assert default == (type(default)(expected) if not isinstance(expected, bool) else expected), key


def test_help_shows_every_recipe_within_the_screen():
    """Lines of three hundred characters are read by nobody."""
    text = train.make_parser().format_help()
    for name in RECIPES:
        assert f"\n  {name}\n      " in text
    epilog = text[text.index("examples:") :]
    assert max(map(len, epilog.splitlines())) <= 120


# Recipes


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("data", ["shapes", "folder"])
def test_every_recipe_runs(tmp_path, folder, capsys, recipe, data):
    """In small: narrow networks, two steps, on drawn pictures and on one's own."""
    cheaper = ["--geometry", "same"] if recipe != "at-once" else []
    cheaper += ["--accumulate", "2"] if recipe == "light" else []
    out, source = tmp_path / "run", folder if data == "folder" else data
    assert call(train, *TINY, *cheaper, "--recipe", recipe, "--data", source, "--out", out) == 0
    config = Config.from_toml(out / "config.toml")
    report = json.loads((out / "report.json").read_text())
    segmenters = [stage for stage in config.stages if stage != "classifier"]
    assert [stage["stage"] for stage in report["stages"]] == segmenters
    printed = capsys.readouterr().out
    for stage in segmenters:
        assert re.search(rf"^{stage} +\d", printed, re.M), printed


def test_the_stages_of_the_paper_by_their_short_names(tmp_path, folder):
    """`--stages classifier,32s,16s,8s`, each with its own file."""
    out = tmp_path / "run"
    arguments = [*TINY, "--data", folder, "--stages", "classifier, 32s,16s,fcn8s", "--lr", "1e-3,1e-4,1e-5,1e-6"]
    assert call(train, *arguments, "--out", out) == 0
    config = Config.from_toml(out / "config.toml")
    assert (config.stages, config.lr) == (STAGES, (1e-3, 1e-4, 1e-5, 1e-6))
    assert all((out / f"{stage}.safetensors").exists() for stage in STAGES)


@pytest.mark.parametrize("text", ["fcn-basic", "basic"])
def test_fcn_basic_has_a_short_name_too(text):
    assert train.parse_stages(text) == ("fcn-basic",)


def test_stages_that_do_not_exist_list_those_that_do(refused):
    refused(2, r"--stages: '64s' is none of classifier, 32s, 16s, 8s.* 8s-at-once, basic\n", "--stages", "32s,64s")


# Warnings


def loud(arguments):
    return [argument for argument in arguments if argument != "--quiet"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--optimizer", "sgd", "--lr", "1e-10"],
            r"--lr 1e-10 with --reduction mean: .*hardly anything.*suit --red.* sum",
        ),
        (
            ["--optimizer", "sgd", "--momentum", "0.99", "--reduction", "sum", "--lr", "1e-4", "--steps", "1"],
            r"--lr 0\.0001 with --reduction sum: .*NaN.*suit --reduction mean",
        ),
    ],
)
@pytest.mark.parametrize("quiet", [["--quiet"], []])
def test_a_rate_that_clashes_with_the_loss_is_warned_of(tmp_path, capsys, arguments, words, quiet):
    """The commonest two questions; also asked by those who wanted it quiet."""
    out = tmp_path / "run"
    assert call(train, *loud(TINY), "--model", "fcn8s", *quiet, *arguments, "--out", out) == 0
    errors = capsys.readouterr().err
    assert re.search(rf"^warning: fcn8s: {words}", errors)
    assert errors.count("warning") == 1


def test_only_the_stage_that_clashes_is_warned_of(tmp_path, capsys):
    arguments = [*TINY, "--stages", "classifier,32s,16s", "--lr", "1e-12,1e-3,1e-12", "--optimizer", "sgd"]
    assert call(train, *arguments, "--out", tmp_path / "run") == 0
    assert re.findall("warning: ([a-z0-9]+)", capsys.readouterr().err) == ["fcn16s"]


@pytest.mark.parametrize("recipe", ["heavy", "light", "at-once", "fine-tune"])
def test_a_recipe_for_pretrained_weights_asks_for_them(tmp_path, capsys, recipe):
    """A hundred thousand steps from random numbers, at a rate that hardly moves them: all background."""
    quick = [*SMALL, "--steps", "1", "--geometry", "same", "--accumulate", "1", "--lr", "1e-3"]
    model = "fcn8s-at-once" if recipe == "at-once" else "fcn32s"
    assert call(train, *quick, "--recipe", recipe, "--model", model, "--out", tmp_path / "random") == 0
    expected = f"warning: --recipe {recipe} is made to start from pretrained weights, but there are none"
    assert expected in capsys.readouterr().err
    file = weight_file(tmp_path / "vgg.safetensors", models.VGG16(5, 2, 4))
    assert call(train, *quick, "--recipe", recipe, "--weights", file, "--model", model, "--out", tmp_path / "own") == 0
    stages = ["--stages", f"classifier,{model}"]
    assert call(train, *quick, "--recipe", recipe, *stages, "--out", tmp_path / "classifier") == 0
    assert "pretrained" not in capsys.readouterr().err


def test_what_fits_is_not_warned_of(tmp_path, capsys):
    assert call(train, *ONE, "--out", tmp_path / "run") == 0
    assert capsys.readouterr().err == ""


# Wrong options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "best"], r"--recipe: invalid choice: 'best'"),
        (["--config", "nowhere.toml"], r"nowhere\.toml: not found"),
        (["--lr", "fast"], r"--lr: 'fast' is not a number"),
        (["--lr", "1e-3,"], "--lr: '1e-3,' is not a number"),
        (["--lr", "1e-3,1e-4"], "--lr 0.001, 0.0001: one value, or one for each of the 4 stages"),
        (["--lr", "nan"], "--lr nan"),
        (["--steps", "1e5"], "--steps: '1e5' is not a whole number"),
        (["--steps", "3,0"], "--steps"),
        (["--epochs", "2", "--steps", "3"], "--steps: not allowed with argument --epochs"),
        (["--stages", "32s", "--model", "fcn8s"], "--model: not allowed with argument --stages"),
        (["--stages", "classifier"], "a classifier alone segments nothing"),
        (["--stages", "32s,32s", "--lr", "1"], "each may come once"),
        (["--stages", "32s,basic", "--lr", "1", "--steps", "2"], "fcn-basic has no layers in common"),
        (["--accumulate", "0"], "--accumulate 0"),
        (["--warm-up", "-1"], "--warm-up -1"),
        (["--schedule", "cosine"], "--schedule: invalid choice"),
        (["--step-every", "-1"], "--step-every -1"),
        (["--step-factor", "0"], "--step-factor 0"),
        (["--loss", "focal"], "--loss: invalid choice"),
        (["--loss", "dice", "--reduction", "sum"], "--reduction sum with --loss dice"),
        (["--loss", "dice", "--keep-pixels", "0.5"], "--keep-pixels 0.5 with --loss dice"),
        (["--class-weights", "median"], "--class-weights: invalid choice"),
        (["--class-weight-power", "-1"], "--class-weight-power -1"),
        (["--keep-pixels", "0"], "--keep-pixels 0"),
        (["--keep-pixels", "1.5"], "--keep-pixels 1.5"),
        (["--jitter", "1"], "--jitter 1"),
        (["--scale", "1"], "--scale: expected 2 arguments"),
        (["--scale", "1", "inf"], "--scale 1.0 inf"),
        (["--size", "225"], "--size 225x225: the classifier takes .* at most 224 pixels; .*leave it out by --stages"),
        (["--crop", "0"], "--crop: '0' is not a size"),
        (["--skips", "concat"], "--skips: invalid choice"),
        (["--batch-norm", "frozen"], "--batch-norm frozen: needs --weights"),
        (["--split", "test"], "test"),
        (["--val-split", "test"], "test"),
        (["--fold", "1"], "--fold 1: is for cross-validation; give --folds"),
        (["--group", "(a)"], r"--group \(a\): is for cross-validation; give --folds"),
        (["--folds", "1"], "--folds 1: at least 2"),
        (["--folds", "3", "--fold", "4"], "--fold 4: there are the folds 1 to 3"),
        (["--folds", "3", "--split", "val"], "--folds 3: .*both val"),
        (["--folds", "3", "--fold", "1", "--group", "name"], "'name' has no parentheses"),
        (["--download"], "--download: shapes cannot be downloaded"),
    ],
)
def test_an_impossible_option_is_named_before_anything_is_written(refused, arguments, words):
    """A traceback, or a folder that is in the way of the second try."""
    refused(2, words, *SMALL, *arguments)


def test_a_map_of_one_pixel_without_variance_is_one_line_with_a_remedy(refused, tmp_path):
    """A traceback out of batch_norm, ten calls deep."""
    arguments = [*SMALL, "--model", "fcn8s", "--batch-size", "1", "--batch-norm", "train"]
    refused(1, "batch_norm: .*larger batch or larger pictures", *arguments, out=tmp_path / "run")


# Files of configuration


def test_a_run_can_be_repeated_from_its_folder_alone(tmp_path, folder):
    """A choice that the command line made, and the file forgets."""
    first, second = tmp_path / "first", tmp_path / "second"
    choices = [
        "--class-weights",
        "inverse-frequency",
        "--jitter",
        "0.2",
        "--no-flip",
        "--seed",
        "5",
        "--scale",
        ".8",
        "1",
    ]
    assert call(train, *ONE, "--data", folder, *choices, "--out", first) == 0
    assert call(train, "--config", first / "config.toml", "--quiet", "--out", second) == 0
    assert (first / "config.toml").read_text() == (second / "config.toml").read_text()
    assert_same_weights(first, second, "fcn8s", "model")


@pytest.fixture
def fcn(tmp_path):
    return weight_file(tmp_path / "fcn.safetensors", models.FCN8s(9, 2, 4, geometry="same"))


def test_a_file_may_name_the_weights(tmp_path, fcn):
    """Noted in config.toml, and not loaded; or loaded, and a network of another width built for them."""
    file = tmp_path / "choices.toml"
    file.write_text(f"weights = '{fcn}'\nlr = 0\nsize = [32, 32]\nsteps = 1\nbatch_size = 2\n")
    assert call(train, "--config", file, "--quiet", "--out", tmp_path / "run") == 0
    theirs, ours = load_file(fcn), load_file(tmp_path / "run" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    for name in theirs:
        assert_array_equal(ours[name], theirs[name], err_msg=name)
    config = Config.from_toml(tmp_path / "run" / "config.toml")
    assert (config.weights, config.width, config.stages) == (str(fcn), 2, ("fcn8s",))
    assert load(tmp_path / "run" / "model.safetensors").record["source"]["name"] == "fcn.safetensors"


def test_the_command_line_may_do_without_a_file_s_weights(tmp_path, fcn):
    """Their sizes and their recipe taken over, and the network random."""
    file = tmp_path / "choices.toml"
    file.write_text(f"weights = '{fcn}'\n")
    assert call(train, *ONE, "--config", file, "--weights", "", "--batch-norm", "train", "--out", tmp_path / "run") == 0
    assert "conv1_1_bn.weight" in load_file(tmp_path / "run" / "model.safetensors")
    config = Config.from_toml(tmp_path / "run" / "config.toml")
    assert (config.weights, config.dropout) == ("", resolve({}).dropout)


def test_a_download_is_of_the_data_that_the_file_names(tmp_path, monkeypatch, folder):
    """Shapes, which cannot be downloaded, when the file says what is wanted."""
    asked = []
    monkeypatch.setattr(train.data, "download", lambda spec, **options: asked.append(spec) or str(folder))
    file = tmp_path / "choices.toml"
    file.write_text('data = "camvid"\n')
    assert call(train, *ONE, "--config", file, "--download", "--out", tmp_path / "run") == 0
    assert asked == ["camvid"]
    assert Config.from_toml(tmp_path / "run" / "config.toml").data == str(folder)


# Resuming


def test_the_same_command_with_resume_goes_on(tmp_path, monkeypatch, folder):
    """The recipe, the file and the options once more, as the shell's history has them; compared, and found the same."""
    file, out = tmp_path / "choices.toml", tmp_path / "run"
    file.write_text("# gentle\nwarm_up = 1\n")
    arguments = [*TINY, "--recipe", "heavy", "--config", file, "--data", folder, "--geometry", "same"]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            call(train, *arguments, "--out", out)
    assert call(train, *arguments, "--out", out, "--resume") == 0
    assert call(train, *arguments, "--out", tmp_path / "whole") == 0
    assert_same_weights(out, tmp_path / "whole", "fcn32s", "fcn16s", "fcn8s")
    assert [row["stage"] for row in rows_of(out)] == [row["stage"] for row in rows_of(tmp_path / "whole")]


def test_resuming_compares_what_recipe_and_file_say(tmp_path, folder, refused):
    """Another recipe, and nobody told that it had no effect."""
    out, file = tmp_path / "run", tmp_path / "choices.toml"
    assert call(train, *ONE, "--recipe", "heavy", "--data", folder, "--out", out) == 0
    refused(2, "--resume: .*momentum is 0.99, not 0.9", *ONE, "--recipe", "light", "--resume", out=out)
    file.write_text("warm_up = 7\n")
    refused(2, "warm_up is 0, not 7", "--config", file, "--resume", out=out)
    refused(2, "lr is .*0.001,.*, not .*1e-14", "--recipe", "heavy", "--resume", out=out)
    file.write_text("warm_up = 0\nmomentum = 0.99\n")
    assert call(train, "--config", file, "--resume", "--quiet", "--out", out) == 0


def test_resuming_with_the_recipe_knows_what_the_weight_file_decided(tmp_path, fcn, refused):
    """Heavy has three stages, the file is of one: no contradiction; nor is it one once the file is gone."""
    out, recipe = tmp_path / "run", ["--recipe", "heavy", "--weights", fcn]
    quick = ["--size", "32", "--steps", "1", "--quiet"]
    assert call(train, *recipe, *quick, "--out", out) == 0
    assert call(train, *recipe, *quick, "--resume", "--out", out) == 0
    refused(2, "accumulate is 1, not 20", "--recipe", "light", "--steps", "1", "--resume", out=out)
    fcn.unlink()
    assert call(train, *recipe, *quick, "--resume", "--out", out) == 0


def stopped(monkeypatch, arguments, out, steps=2):
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            call(train, *arguments, "--out", out)


def test_how_often_is_saved_may_differ(tmp_path, monkeypatch, refused):
    """Refused, though it has no effect on the weights; or accepted, and the old value kept."""
    out, arguments = tmp_path / "run", [*ONE, "--steps", "4"]
    stopped(monkeypatch, arguments, out)
    call(train, *arguments, "--checkpoint-every", "3", "--resume", "--out", out)
    assert Config.from_toml(out / "config.toml").checkpoint_every == 3
    refused(2, "validate_every is 0, not 5", *arguments, "--validate-every", "5", "--resume", out=out)


def test_set_changes_what_follows_and_says_what(tmp_path, monkeypatch, capsys):
    """Another rate for the rest of a run that has got stuck; a change that nobody sees would make the file a lie."""
    out, arguments = tmp_path / "run", [*TINY, "--model", "fcn8s", "--lr", "1e-3", "--steps", "4"]
    stopped(monkeypatch, arguments, out)
    capsys.readouterr()
    assert call(train, "--resume", "--set", "lr=0.0", "--set", "flip=false", "--quiet", "--out", out) == 0
    errors = capsys.readouterr().err
    assert "--set: lr was 0.001, is now 0.0\n--set: flip was True, is now False\n" in errors
    assert "config.toml was changed since the checkpoint was saved (now lr = [0.0]; flip = false)" in errors
    config = Config.from_toml(out / "config.toml")
    assert (config.lr, config.flip) == ((0.0,), False)
    first = load_file(out / "fcn8s.safetensors")
    whole = tmp_path / "whole"
    stopped(monkeypatch, arguments, whole)
    for name, array in load_file(whole / "checkpoint.safetensors").items():
        if (
            name.startswith("model.") and "running_" not in name
        ):  # means and variances follow the pictures, not the rate
            assert_array_equal(first[name.removeprefix("model.")], array)  # a rate of 0 has moved nothing since


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["width=3"], "--set width=3: what was trained so far depends on width"),
        (["seed=3"], "depends on seed"),
        (["learning-rate=3"], "--set: unknown keys learning_rate"),
        (["lr"], "--set lr: KEY=VALUE is needed"),
        (["lr=fast"], '--set: lr = "fast", but'),
        (["batch_size=0"], "--batch-size 0"),
    ],
)
def test_set_refuses_what_a_checkpoint_cannot_follow(tmp_path, monkeypatch, refused, changes, words):
    out = tmp_path / "run"
    stopped(monkeypatch, [*ONE, "--steps", "4"], out)
    before = (out / "config.toml").read_bytes()
    refused(2, words, "--resume", *(word for change in changes for word in ("--set", change)), out=out)
    assert (out / "config.toml").read_bytes() == before


def test_set_is_for_runs_that_go_on(tmp_path, refused):
    """Nothing would follow the new value, and config.toml would tell of a run that never was."""
    refused(2, "--set lr=1: is for --resume", *ONE, "--set", "lr=1")
    out = tmp_path / "run"
    assert call(train, *ONE, "--out", out) == 0
    refused(2, "--set steps=9: the run in .* is finished", "--resume", "--set", "steps=9", out=out)


def test_set_lr_for_every_stage(tmp_path):
    config = resolve({"stages": ("fcn32s", "fcn8s"), "lr": 1e-3, "epochs": 3})
    assert config.changed(["lr=1e-4"]).lr == (1e-4, 1e-4)
    assert config.changed(["lr=1e-4, 1e-5"]).lr == (1e-4, 1e-5)
    assert config.changed(["lr=[1e-4, 1e-5]"]).lr == (1e-4, 1e-5)
    assert config.changed(["--checkpoint-every=7", "crop=[32, 48]", "schedule=fixed"]).crop == (32, 48)
    longer = config.changed(["steps=700"])
    assert (longer.steps, longer.epochs) == ((700, 700), ())
    with pytest.raises(UsageError, match="lr"):
        config.changed(["lr=1,2,3"])


def test_a_finished_run_is_resumed_with_success(tmp_path, capsys):
    """A script that repeats `--resume` until it succeeds would never end."""
    out = tmp_path / "run"
    assert call(train, *ONE, "--out", out) == 0
    capsys.readouterr()
    assert call(train, "--resume", "--quiet", "--out", out) == 0
    assert "fcn8s" in capsys.readouterr().out


def test_resuming_what_is_not_there_begins_nothing_else(tmp_path, refused, capsys):
    """A slip in the folder's name, and minutes of training on drawn shapes, for which nobody asked."""
    refused(2, r"--resume: there is no run in .*; see whether the name is right", "--resume", "--threads", "1")
    capsys.readouterr()
    assert call(train, *ONE, "--resume", "--out", tmp_path / "run") == 0
    assert "there is no run in" in capsys.readouterr().err


def test_overwrite_is_an_option(tmp_path, refused):
    out = tmp_path / "run"
    assert call(train, *ONE, "--out", out) == 0
    refused(2, "not empty.*--overwrite", *ONE, out=out)
    assert call(train, *ONE, "--seed", "4", "--overwrite", "--out", out) == 0
    assert Config.from_toml(out / "config.toml").seed == 4
    refused(2, "--overwrite: not allowed with argument --resume", *ONE, "--resume", "--overwrite", out=out)


def test_what_stops_a_run_says_how_to_go_on(tmp_path, folder, monkeypatch, capsys):
    """A picture that went bad in the night, and nobody says that the night is not lost."""
    out, pictures = tmp_path / "run", tmp_path / "pictures"
    shutil.copytree(folder, pictures)
    arguments = [*ONE, "--steps", "9", "--checkpoint-every", "1", "--data", pictures]
    stopped(monkeypatch, arguments, out)
    for path in (pictures / "train" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    with pytest.raises(DataError, match=r"train\d\.png"):
        call(train, "--resume", "--out", out)
    assert f"go on with: python -m minifcn.train --resume --out {out}" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [["--quiet"], []])
def test_without_a_terminal_there_are_plain_lines(tmp_path, monkeypatch, capsys, quiet):
    """A bar in a log file is a thousand lines of escape codes."""
    monkeypatch.setattr("minifcn.training.display.SECONDS_A_LINE", -1)
    assert call(train, *loud(ONE), *quiet, "--out", tmp_path / "run") == 0
    shown = capsys.readouterr()
    line = r"^fcn8s: step 2 of 2, loss \d\.\d{3}, lr 0\.\d+, [\d.e+]+ images/s, 00:00 left$"
    assert bool(re.search(line, shown.out, re.M)) is not bool(quiet), shown.out
    assert "\r" not in shown.out + shown.err


# The parts of a data set


def test_evaluation_is_of_the_split_that_training_measured_on(tmp_path):
    """The default "val", when the run kept that for training."""
    root = write_pictures(tmp_path / "pictures", count=3)
    extra = write_pictures(tmp_path / "extra", ("more",), count=5)
    (extra / "more").rename(root / "more")
    out = tmp_path / "run"
    assert call(train, *ONE, "--data", root, "--split", "val", "--val-split", "more", "--out", out) == 0
    result = tmp_path / "result.json"
    assert call(evaluate, out / "model.safetensors", "--json", result) == 0
    found, report = json.loads(result.read_text()), json.loads((out / "report.json").read_text())
    assert (found["split"], found["pictures"]) == ("more", 5)
    assert found["mean_iu"] == pytest.approx(report["stages"][0]["mean_iu"], abs=1e-12)
