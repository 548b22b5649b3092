"""The three commands as a user calls them: what they leave behind, and what bad input gets."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minifcn import Tensor, commands, models, no_grad
from minifcn.errors import UsageError
from minifcn.weights import Preprocessing, load, save_weights

TINY = ["--model", "fcn8s", "--width", "2", "--fc-width", "4", "--batch-size", "2", "--steps", "3", "--quiet"]


def run(*arguments, cwd=None):
    """The finished process of `python -m minifcn.COMMAND …`."""
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def fails(process, code, *words):
    """Assert the exit code, one readable message that has the words, and no traceback."""
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in process.stderr, process.stderr


def write_folder(root, sizes=((24, 32),) * 4, mask=lambda shape, i: np.indices(shape).sum(0) // 8 % 2):
    """A data set of the simplest form: images/ and masks/, split by seed."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / "images" / f"{i:03}.png")
        Image.fromarray(mask(size, i).astype(np.uint8)).save(root / "masks" / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "pictures", [(24, 32), (33, 20), (24, 32), (17, 40), (9, 9)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
    out = tmp_path_factory.mktemp("runs") / "mine"
    process = run("minifcn.train", "--data", pictures, *TINY, "--out", out)
    assert process.returncode == 0, process.stderr
    return out


# What they do


def test_training_on_pictures_of_unequal_sizes_gives_a_table_and_a_model(trained):
    record = load(trained / "model.safetensors")
    assert record.record["classes"] == ["class_0", "class_1"]
    assert record.architecture["width"] == 2
    assert len(json.loads((trained / "report.json").read_text())["stages"]) == 1


def test_evaluation_prints_classes_baseline_and_json(trained, tmp_path):
    """Without --data: on what it was trained on."""
    process = run("minifcn.evaluate", trained / "model.safetensors", "--json", tmp_path / "result.json")
    assert process.returncode == 0, process.stderr
    assert "all background" in process.stdout
    assert "class_1" in process.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    counts = np.array(result["confusion"])
    assert result["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())


def test_evaluation_writes_only_json_to_standard_output_for_a_dash(trained):
    process = run("minifcn.evaluate", trained / "model.safetensors", "--json", "-")
    assert set(json.loads(process.stdout)) >= {"pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu", "boundary_iu"}


def test_evaluation_gives_the_report_s_figures(trained):
    """Training and evaluation must not differ in preprocessing, size or split."""
    result = json.loads(run("minifcn.evaluate", trained / "model.safetensors", "--json", "-").stdout)
    stage = json.loads((trained / "report.json").read_text())["stages"][0]
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu"):
        assert result[name] == pytest.approx(stage[name], abs=1e-12)


def test_prediction_takes_any_kind_of_picture_and_keeps_its_size(trained, tmp_path):
    """Grey, RGBA, palette, 16-bit and EXIF-rotated pictures; the mask has the size that a viewer shows."""
    rng = np.random.default_rng(1)
    plain = Image.fromarray(rng.integers(0, 256, (30, 45, 3), np.uint8))
    plain.convert("L").save(tmp_path / "grey.png")
    plain.convert("RGBA").save(tmp_path / "alpha.png")
    plain.convert("P").save(tmp_path / "palette.png")
    Image.fromarray(rng.integers(0, 65536, (30, 45)).astype(np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(tmp_path / "rotated.jpg", exif=exif)
    names = ["grey.png", "alpha.png", "palette.png", "deep.png", "rotated.jpg"]
    out = tmp_path / "out"
    paths = [tmp_path / name for name in names]
    process = run("minifcn.predict", trained / "model.safetensors", *paths, "--out", out)
    assert process.returncode == 0, process.stderr
    for name in names:
        with Image.open(out / f"{Path(name).stem}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == ((30, 45) if name == "rotated.jpg" else (45, 30))
            assert set(np.unique(np.asarray(mask))) <= {0, 1}
        with Image.open(out / f"{Path(name).stem}-overlay.png") as overlay:
            assert overlay.width >= mask.width
            assert overlay.height > mask.height  # the legend stands beneath


def test_prediction_uses_the_preprocessing_of_the_file(tmp_path):
    """BGR weights fed with RGB, the field's commonest mistake, would give another mask."""
    model = models.FCN32s(3, width=2, fc_width=4, geometry="same", dropout=0)
    rng = np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    preprocessing = Preprocessing("BGR", 1.0, (104.0, 116.7, 122.7), (1.0, 1.0, 1.0))
    record = {"classes": ["a", "b", "c"]}
    save_weights(
        tmp_path / "m.safetensors",
        model.state_dict(),
        architecture=model.architecture,
        preprocessing=preprocessing,
        record=record,
    )
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    process = run("minifcn.predict", tmp_path / "m.safetensors", tmp_path / "x.png", "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    x = image[:, :, ::-1].astype(np.float64).transpose(2, 0, 1) - np.array([104.0, 116.7, 122.7])[:, None, None]
    with no_grad():
        expected = model.eval()(Tensor(x[None].astype(np.float32))).data[0].argmax(axis=0)
    found = np.asarray(Image.open(tmp_path / "out" / "x.png"))
    assert (found == expected).mean() > 0.999  # ties at rounding
    assert len(np.unique(found)) > 1


def test_help_explains_itself():
    for command in ("train", "evaluate", "predict"):
        process = run(f"minifcn.{command}", "--help")
        assert process.returncode == 0
        assert f"python -m minifcn.{command}" in process.stdout
        assert "Exit codes" in process.stdout


# What bad input gets


def test_a_missing_folder_is_named(tmp_path):
    process = run("minifcn.train", "--data", tmp_path / "nowhere", *TINY, "--out", tmp_path / "out")
    fails(process, 1, "nowhere")
    assert not (tmp_path / "out").exists()


def test_an_unknown_word_for_data_is_wrong_usage(tmp_path):
    fails(run("minifcn.train", "--data", "shape", *TINY, "--out", tmp_path / "out"), 2, "'shape'", "shapes")


def test_an_image_without_mask_is_named(tmp_path):
    root = write_folder(tmp_path / "d")
    (root / "masks" / "002.png").unlink()
    fails(run("minifcn.train", "--data", root, *TINY, "--out", tmp_path / "out"), 1, "002.png")
    assert not (tmp_path / "out").exists()


def test_an_image_and_a_mask_of_different_sizes_are_named(tmp_path):
    root = write_folder(tmp_path / "d")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "001.png")
    fails(run("minifcn.train", "--data", root, *TINY, "--out", tmp_path / "out"), 1, "001.png")


def test_a_label_that_is_no_class_is_counted(tmp_path):
    root = write_folder(tmp_path / "d")
    (root / "classes.txt").write_text("ground\nthing\n")
    mask = np.zeros((24, 32), np.uint8)
    mask[:3, :5] = 7
    Image.fromarray(mask).save(root / "masks" / "003.png")
    fails(run("minifcn.train", "--data", root, *TINY, "--out", tmp_path / "out"), 1, "003.png", "7", "15")


def test_masks_of_0_and_255_are_explained(tmp_path):
    root = write_folder(tmp_path / "d", mask=lambda shape, i: 255 * (np.indices(shape).sum(0) // 8 % 2))
    fails(run("minifcn.train", "--data", root, *TINY, "--out", tmp_path / "out"), 1, "255", "--foreground 255")
    process = run("minifcn.train", "--data", root, "--foreground", "255", *TINY, "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    process = run("minifcn.evaluate", tmp_path / "out" / "model.safetensors")  # remembers the foreground
    assert process.returncode == 0, process.stderr


def test_a_truncated_image_is_named_and_nothing_is_half_written(tmp_path):
    root = write_folder(tmp_path / "d")
    for name in ("000.png", "001.png", "002.png", "003.png"):
        content = (root / "images" / name).read_bytes()
        (root / "images" / name).write_bytes(content[: len(content) // 2])
    process = run("minifcn.train", "--data", root, *TINY, "--out", tmp_path / "out")
    fails(process, 1, "images", ".png")
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_an_absent_gpu_is_wrong_usage_and_never_the_cpu(tmp_path, trained):
    """A silent fall-back would train for days where hours were meant."""
    for arguments in (
        ("minifcn.train", *TINY, "--out", tmp_path / "out"),
        ("minifcn.evaluate", trained / "model.safetensors"),
        ("minifcn.predict", trained / "model.safetensors", "x.png", "--out", tmp_path / "p"),
    ):
        process = run(*arguments, "--device", "gpu:99")
        fails(process, 2, "--device gpu:99", "CuPy")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out/x.png"), "out/x.png: Permission denied; name a place"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: No space left on device; make room"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), "a folder is expected there"),
        (MemoryError("1 EiB"), "the command: out of memory (1 EiB). Lower --batch-size, --size, or end"),
        (UsageError("--x 1: 2 is needed."), "--x 1: 2 is needed."),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_what_the_system_refuses_is_said_with_a_remedy_and_no_traceback(monkeypatch, capsys, error, words, debug):
    """A bare "[Errno 13]", which helps nobody; a traceback for a full disk; none for --debug."""

    def fail(arguments):
        raise error

    parser = commands.Parser("x", "", "")
    parser.add_debug_option()
    parser.add_argument("--size")
    parser.add_argument("--batch-size")
    monkeypatch.setattr(sys, "argv", ["x", *(["--debug"] if debug else [])])
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # what it sets for its own process
    with pytest.raises(SystemExit) as ended:
        commands.run_command(fail, parser)
    assert ended.value.code == (2 if isinstance(error, UsageError) else 1)
    shown = capsys.readouterr().err
    assert "error: " in shown
    assert words in shown
    assert ("Traceback" in shown) == debug


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows knows no closed terminal")
@pytest.mark.parametrize("ignored", [True, False])
def test_a_command_under_nohup_outlives_its_terminal(monkeypatch, ignored):
    """A handler set over the ignored signal, so that a run of days ends with the window it was started in."""
    parser, set_for = commands.Parser("x", "", ""), []
    parser.add_debug_option()
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if ignored else signal.SIG_DFL)
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_for.append(number))
    with pytest.raises(SystemExit):
        commands.run_command(lambda arguments: 0, parser)
    assert (signal.SIGHUP in set_for) != ignored


def test_an_unknown_device_is_wrong_usage():
    fails(run("minifcn.train", "--device", "cuda"), 2, "'cuda'", "gpu")


@pytest.mark.parametrize(
    "option",
    [("--steps", "0"), ("--batch-size", "0"), ("--size", "big"), ("--lr", "-1"), ("--threads", "0"), ("--bogus",)],
)
def test_impossible_options_are_wrong_usage(tmp_path, option):
    fails(run("minifcn.train", *option, "--out", tmp_path / "out"), 2, option[0])
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_architecture_lists_what_differs(tmp_path, trained):
    """Tensors and record that disagree: every one of them by name, with both shapes."""
    file = load(trained / "model.safetensors")
    architecture = {**file.architecture, "fc_width": 8}
    save_weights(
        tmp_path / "bad.safetensors",
        file.tensors,
        architecture=architecture,
        preprocessing=file.preprocessing,
        record=file.record,
    )
    process = run("minifcn.evaluate", tmp_path / "bad.safetensors")
    fails(
        process,
        1,
        "fc6.weight",
        "fc6_bn.weight",
        "fc6_bn.running_mean",
        "fc7.weight",
        "fc7_bn.bias",
        "score_fr.weight",
        "(4, 16, 7, 7)",
        "(8, 16, 7, 7)",
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 8 + b"{}"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    fails(run("minifcn.evaluate", path), 1, "broken.safetensors")
    fails(run("minifcn.predict", path, "x.png", "--out", tmp_path / "out"), 1, "broken.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    fails(run("minifcn.evaluate", tmp_path / "none.safetensors"), 1, "none.safetensors")


def test_data_with_other_classes_are_refused(tmp_path, trained):
    fails(run("minifcn.evaluate", trained / "model.safetensors", "--data", "shapes"), 1, "class_1", "crescent")


def test_one_bad_picture_does_not_stop_the_others(tmp_path, trained):
    """It is named, the exit code says so, and the good ones are done."""
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    out = tmp_path / "out"
    paths = [tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "missing.png"]
    process = run("minifcn.predict", trained / "model.safetensors", *paths, "--out", out)
    fails(process, 1, "bad.png", "missing.png", "2 of 3")
    assert sorted(path.name for path in out.iterdir()) == ["good-overlay.png", "good.png"]


def test_two_pictures_of_one_name_are_refused(tmp_path, trained):
    """The second would overwrite the first one's mask."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / folder / "x.png")
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    fails(run("minifcn.predict", trained / "model.safetensors", *paths, "--out", tmp_path / "out"), 2, "x.png")


def test_resuming_another_configuration_names_the_keys(trained, pictures):
    process = run("minifcn.train", "--resume", "--out", trained, "--width", "3", "--batch-size", "2")
    fails(process, 2, "width is 2, not 3")
    assert "batch_size" not in process.stderr


def test_a_result_never_overwrites_a_picture(tmp_path, trained):
    """`--out .` in the folder of a PNG would put the mask in its place."""
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()
    fails(run("minifcn.predict", trained / "model.safetensors", "x.png", "--out", ".", cwd=tmp_path), 2, "overwrite")
    assert (tmp_path / "x.png").read_bytes() == before


def test_evaluation_takes_the_split_of_training(tmp_path):
    """With another seed, a folder without train and val would be split anew, and training pictures scored."""
    root, out = write_folder(tmp_path / "d", [(16, 16)] * 10), tmp_path / "out"
    assert run("minifcn.train", "--data", root, *TINY, "--seed", "3", "--out", out).returncode == 0
    result = json.loads(run("minifcn.evaluate", out / "model.safetensors", "--json", "-").stdout)
    stage = json.loads((out / "report.json").read_text())["stages"][0]
    assert result["pixel_accuracy"] == pytest.approx(stage["pixel_accuracy"], abs=1e-12)
    assert load(out / "model.safetensors").record["seed"] == 3


def test_resuming_in_a_folder_that_holds_no_run_is_refused(tmp_path):
    """A mistyped --out must not be filled with a new run."""
    (tmp_path / "letter.txt").write_text("dear")
    fails(run("minifcn.train", "--resume", "--out", tmp_path), 2, "holds no run")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_foreground_is_for_folders(tmp_path):
    fails(run("minifcn.train", "--foreground", "255", "--out", tmp_path / "out"), 2, "--foreground 255", "shapes")


def test_resuming_needs_a_folder():
    fails(run("minifcn.train", "--resume"), 2, "--out")


def test_a_learning_rate_far_too_large_stops_with_advice(tmp_path):
    """The loss becomes NaN within a few steps; the weights of the last checkpoint survive."""
    arguments = [*TINY[:-3], "--steps", "60", "--quiet", "--checkpoint-every", "1", "--optimizer", "sgd"]
    process = run("minifcn.train", *arguments, "--size", "32", "--lr", "1e6", "--out", tmp_path / "out")
    fails(process, 1, "step", "learning rate")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_can_be_resumed(tmp_path, stop):
    out = tmp_path / "out"
    arguments = ["minifcn.train", *TINY[:-3], "--steps", "100000", "--size", "32", "--threads", "1", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        time.sleep(0.05)
    process.send_signal(stop)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert f"--resume --out {out}" in errors
    assert "Traceback" not in errors
    assert (out / "checkpoint.safetensors").exists()


def test_the_debug_option_shows_where(tmp_path):
    assert "Traceback" in run("minifcn.train", "--device", "cuda", "--debug").stderr
