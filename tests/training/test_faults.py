"""Disks that fill up, folders that cannot be written, pictures that change, threads that die, memory that ends."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_runs import STAGES, assert_same_weights, few_pictures, rows_of, start, stop_after, tiny, write_pictures

from minifcn import Tensor, files, models, ops
from minifcn.data import Batch, Loader, Sample
from minifcn.errors import DataError, OutOfMemoryError, TrainingError, UsageError, WeightsError
from minifcn.training import SGD, Adam, segmentation_loss, train
from minifcn.training.checkpoint import Progress, read_progress, save_checkpoint
from minifcn.training.loop import check_weights
from minifcn.training.run import loop


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_pictures(monkeypatch)


def small_model():
    return models.FCN8s(3, width=2, fc_width=4, geometry="same", dropout=0)


def at_step(monkeypatch, number, action):
    """Something happens once so many steps have been done."""
    train_as_before = loop.train

    def wrapped(*arguments, **options):
        for step in train_as_before(*arguments, **options):
            if step.number == number:
                action()
            yield step

    monkeypatch.setattr(loop, "train", wrapped)


# The disk


class FullDisk:
    """A file on a disk with room for so many bytes; then, as real ones do, it takes a part and refuses the rest."""

    def __init__(self, path, mode, room):
        self.file, self.room = open(path, mode), room  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        content = memoryview(content).cast("B")
        self.file.write(content[: self.room])
        if len(content) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(content)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_disk_that_fills_up_at_any_byte_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    """Written in place, the old checkpoint is gone before the new one is there."""
    path, model = tmp_path / "checkpoint.safetensors", small_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    save_checkpoint(path, model, optimizer, Progress(step=1))
    before, size = path.read_bytes(), path.stat().st_size
    disk = SimpleNamespace(room=0)
    monkeypatch.setattr(files, "open", lambda path, mode: FullDisk(path, mode, disk.room), raising=False)
    for disk.room in [*range(20), *range(20, size, max(1, size // 100)), size - 1]:
        with pytest.raises(OSError, match="No space left on device") as caught:
            save_checkpoint(path, model, optimizer, Progress(step=2))
        assert caught.value.filename == str(path)
        assert path.read_bytes() == before
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
    disk.room = 2 * size
    save_checkpoint(path, model, optimizer, Progress(step=2))
    assert read_progress(path).step == 2


@pytest.fixture
def file_limit():
    """Sets the largest size that the kernel lets a file of this process have; at the end, as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_whose_disk_was_full_goes_on_once_there_is_room(tmp_path, monkeypatch, file_limit):
    """A limit of the kernel's, as a quota is: the writing itself fails, and not a function put in its place."""
    config, out = tiny(steps=(4,)), tmp_path / "run"
    start(config, tmp_path / "whole").run()
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: file_limit(10_000))
        with pytest.raises(OSError, match="File too large") as caught:
            start(config, out).run()
    assert caught.value.filename == str(out / "checkpoint.safetensors")
    assert read_progress(out / "checkpoint.safetensors").step == 2
    file_limit(resource.RLIM_INFINITY)
    start(config, out, resume=True).run()
    assert_same_weights(out, tmp_path / "whole", "fcn8s", "model", "best")


def test_metrics_that_cannot_be_written_are_named(tmp_path, monkeypatch, file_limit):
    """ "No space left on device", and nobody knows on which."""
    run = start(tiny(), tmp_path / "run")
    file_limit(20)
    with pytest.raises(OSError, match="File too large") as caught:
        run.folder.add_row(stage="fcn8s", step=1)
    assert caught.value.filename == str(tmp_path / "run" / "metrics.csv")


@pytest.fixture
def readonly():
    """A folder that this process cannot write: it belongs to somebody else, even if the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="minifcn-"))
    yield folder
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
    folder.chmod(0o755)
    shutil.rmtree(folder)


def close(folder):
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:  # whom no permission stops
        os.seteuid(65534)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of another kind")
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_is_named_before_training(readonly, resume):
    """After an hour of training, at the first checkpoint."""
    if resume:
        start(tiny(), readonly / "run").run()
    close(readonly)
    with pytest.raises(UsageError, match=rf"--out {readonly}/run: cannot be written \(Permission denied\)"):
        start(tiny(), readonly / "run", resume=resume)


# Checkpoints of other versions


def rewritten(path, change):
    """The same checkpoint with another record."""
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["minifcn-checkpoint"])
    change(about)
    save_file(load_file(path), path, {"minifcn-checkpoint": json.dumps(about)})


def test_a_checkpoint_of_format_1_is_read(tmp_path, monkeypatch):
    """A run of days, and an update of the program in between; its rows were in metrics.csv alone."""
    config, out = tiny(steps=(4,), validate_every=1), tmp_path / "run"
    start(config, tmp_path / "whole").run()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            start(config, out).run()

    def age(about):
        about["format"] = 1
        for key in ("metrics", "losses", "best", "skipped", "pictures"):
            del about["progress"][key]

    rewritten(out / "checkpoint.safetensors", age)
    with open(out / "metrics.csv", "a") as file:
        file.write("fcn8s,3,,,,,,,,,0.5,,,\nfcn8")  # came after the checkpoint, and is done again
    start(config, out, resume=True).run()
    assert_same_weights(out, tmp_path / "whole", "fcn8s", "model")
    wanted, got = (rows_of(folder) for folder in (tmp_path / "whole", out))
    assert [(row["step"], row["mean_iu"]) for row in wanted] == [(row["step"], row["mean_iu"]) for row in got]


@pytest.mark.parametrize("version", [0, 3, "two"])
def test_a_checkpoint_of_another_format_names_it(tmp_path, version):
    start(tiny(), tmp_path / "run").run()
    rewritten(tmp_path / "run" / "checkpoint.safetensors", lambda about: about.update(format=version))
    with pytest.raises(WeightsError, match=rf"is a checkpoint of format {version}; this version .* reads .* 1 and 2"):
        start(tiny(), tmp_path / "run", resume=True)


# Pictures


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def bomb(path):
    """A small file that says it has 60,000 × 60,000 pixels."""
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    content = path.read_bytes()
    path.write_bytes(content[:12] + header + content[29:])


BROKEN = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"<html>404</html>"),
    "bomb": bomb,
    "another size": lambda path: Image.new("RGB", (9, 9)).save(path),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def third_epoch(pictures, **changes):
    """Ten steps on six pictures: the third epoch begins with step 7."""
    return tiny(data=str(pictures), size=None, crop=(32, 32), steps=(10,), **changes)


@pytest.mark.parametrize("how", BROKEN)
def test_a_picture_that_breaks_in_the_third_epoch_is_named(tmp_path, pictures, monkeypatch, how):
    path = pictures / "train" / "images" / "train3.png"
    at_step(monkeypatch, 4, lambda: BROKEN[how](path))
    with pytest.raises(DataError, match=re.escape(str(path))):
        start(third_epoch(pictures), tmp_path / "run").run()
    assert read_progress(tmp_path / "run" / "checkpoint.safetensors").step >= 4


@pytest.mark.parametrize("how", BROKEN)
def test_skip_bad_counts_it_and_goes_on(tmp_path, pictures, monkeypatch, capsys, how):
    """Skipped in silence, a thousand pictures could be missing; counted in threads, twice what was used."""
    path = pictures / "train" / "images" / "train3.png"
    at_step(monkeypatch, 4, lambda: BROKEN[how](path))
    start(third_epoch(pictures), tmp_path / "run", skip_bad=True).run()
    skipped = json.loads((tmp_path / "run" / "report.json").read_text())["skipped"]
    ((what, times),) = skipped.items()
    assert str(path) in what
    assert 1 <= times <= 2  # epochs 3 and 4, of which the fourth has a single step
    errors = capsys.readouterr().err
    assert errors.count(f"warning: skipped: {what}") == 1
    assert f"a file was skipped {times} times in all, for 1 that cannot be used" in errors


def test_a_run_that_skips_is_resumed_exactly(tmp_path, pictures, monkeypatch):
    """What takes a bad picture's place must depend on the step alone; and what was counted is not counted again."""
    truncate(pictures / "train" / "images" / "train3.png")
    truncate(pictures / "val" / "images" / "val1.png")
    config = third_epoch(pictures, validate_every=3)
    start(config, tmp_path / "whole", skip_bad=True).run()
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            start(config, tmp_path / "run", skip_bad=True).run()
    start(config, tmp_path / "run", resume=True, skip_bad=True).run()
    assert_same_weights(tmp_path / "run", tmp_path / "whole", "model", "best")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "run")]
    assert reports[0]["skipped"] == reports[1]["skipped"]
    assert sorted(reports[0]["skipped"].values()) == [4, 4]  # in 3 and a third epochs; in 4 validations


@pytest.mark.parametrize("stages", [("fcn8s",), STAGES])
def test_skip_bad_also_of_what_is_bad_from_the_start(tmp_path, pictures, stages):
    truncate(pictures / "train" / "images" / "train0.png")  # the first, which is looked at before all others
    (pictures / "train" / "images" / "train2.png").write_bytes(b"")
    (pictures / "train" / "masks" / "train4.png").write_bytes(b"")
    config = tiny(data=str(pictures), size=None, crop=(32, 32), stages=stages, class_weights="inverse-frequency")
    with pytest.raises(DataError, match=r"train[024]\.png"):
        start(config, tmp_path / "strict")
    start(config, tmp_path / "run", skip_bad=True).run()
    skipped = json.loads((tmp_path / "run" / "report.json").read_text())["skipped"]
    assert any("train4.png" in what for what in skipped)


def test_pictures_added_during_a_pause_are_not_silent(tmp_path, pictures, monkeypatch, capsys):
    """Every picture then comes at another time, and the run does not end as it would have done."""
    config, out = third_epoch(pictures), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            start(config, out).run()
    for kind in ("images", "masks"):
        shutil.copy(pictures / "train" / kind / "train0.png", pictures / "train" / kind / "new.png")
    capsys.readouterr()
    start(config, out, resume=True)
    assert "train has 7 pictures now, and had 6 when the run began" in capsys.readouterr().err


# Threads


class Fatal:
    """A data set of which one sample ends the thread that reads it."""

    classes, name, palette = ("a", "b"), "fatal", np.zeros((256, 3), np.uint8)

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise self.error
        return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), str(index))


@pytest.mark.parametrize("error", [RuntimeError("broken pipe"), SystemExit(0), KeyError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("skip", [None, lambda what: None])
def test_a_loader_thread_that_dies_is_said(error, skip):
    """A SystemExit would end the process as if all were well; with --skip-bad too, since it is no bad picture."""
    loader = Loader(
        Fatal(error), 2, normalise=lambda image: image.transpose(2, 0, 1).astype(np.float32), shuffle=False, skip=skip
    )
    batches = loader.epoch(1)
    assert [next(batches).names for _ in range(2)] == [["0", "1"], ["2", "3"]]
    with pytest.raises(DataError, match=rf"has died \({type(error).__name__}.*sample 5 of fatal"):
        next(batches)


# Numbers that are none


def batches(images):
    """A loader of one batch, again and again."""

    class One:
        def __len__(self):
            return 1

        def epoch(self, epoch, start=0, *, upload):
            labels = np.zeros((len(images), *images.shape[2:]), np.uint8)
            names = [str(number) for number in range(len(images))]
            yield Batch(images, labels, names, [(32, 32)] * len(images), upload(images))

    return One()


def lead_astray(model, images, tensor):
    if tensor == "the picture 1":
        images[1, 0, 3, 3] = np.nan
    elif tensor == "the weights of conv4_1.weight":
        model.conv4_1.weight.data[0, 0, 1, 1] = np.inf
    else:
        model.conv1_2.weight.data[:] = 3e38
        model.conv1_1.bias.data[:] = 1e3


@pytest.mark.parametrize(
    "tensor", ["the picture 1", "the weights of conv4_1.weight", "the output of conv1_2 is the first tensor"]
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_the_tensor_that_went_wrong_first_is_named(tensor):
    """ "The loss is nan" could be the picture, the weights, or any of twenty layers."""
    model, images = small_model(), np.zeros((2, 3, 32, 32), np.float32)
    lead_astray(model, images, tensor)
    with pytest.raises(TrainingError, match=rf"step 1: the loss is .*{tensor}.*Checkpoints saved before are kept"):
        list(train(model, batches(images), SGD(model.parameters(), lr=1), steps=1, loss=segmentation_loss()))


def test_squares_that_overflow_are_found_before_they_are_saved():
    """Adam divides by their root: the weight never moves again, and every figure looks healthy."""
    model = small_model()
    optimizer = Adam(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = np.zeros_like(parameter.data)
    optimizer.step()
    check_weights(model, optimizer, 1)
    model.fc6.weight.grad[0, 0] = 1e30
    with np.errstate(over="ignore"):
        optimizer.step()
    assert np.isfinite(model.fc6.weight.data).all()
    with pytest.raises(TrainingError, match=r"step 2: the optimiser's square of fc6.weight holds .*are kept"):
        check_weights(model, optimizer, 2)


# Memory


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_out_of_memory_names_the_layer_and_what_to_lower(monkeypatch, direction):
    """A traceback through ten functions, whose last line says how much, but not of what."""
    model, original = small_model(), getattr(ops.conv.Conv2d, direction)

    def hungry(ctx, *arguments, **options):
        arrays = [array for array in (*arguments, *ctx.saved) if getattr(array, "ndim", 0) == 4]
        if any(array.shape == model.conv4_2.weight.shape for array in arrays):
            np.empty(2**60, np.uint8)
        return original(ctx, *arguments, **options)

    monkeypatch.setattr(ops.conv.Conv2d, direction, staticmethod(hungry))
    images = np.zeros((2, 3, 32, 40), np.float32)
    with pytest.raises(TrainingError, match=r"step 1: conv[45]_[23]: Conv2d.*: out of memory \(Unable") as caught:
        list(train(model, batches(images), SGD(model.parameters(), lr=1), steps=1, loss=segmentation_loss()))
    message = str(caught.value)
    assert "Unable to allocate 1.00 EiB" in message
    assert "2 pictures of 32×40" in message
    assert "--batch-size" in message
    assert isinstance(caught.value.__cause__, OutOfMemoryError)


def test_out_of_memory_outside_of_training_names_the_layer_too(monkeypatch):
    """Prediction has no loop around it that knows the layers."""
    model, original = small_model(), ops.conv.Conv2d.forward

    def hungry(ctx, x, weight, *arguments, **options):
        if weight is model.conv4_2.weight.data:
            np.empty(2**60, np.uint8)
        return original(ctx, x, weight, *arguments, **options)

    monkeypatch.setattr(ops.conv.Conv2d, "forward", staticmethod(hungry))
    with pytest.raises(OutOfMemoryError, match=r"^conv4_2: Conv2d of \(1, \d+, .*\): out of memory \(Unable"):
        model(Tensor(np.zeros((1, 3, 32, 40), np.float32)))


# Signals


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_a_checkpoint_of_the_step_it_came_in(tmp_path, monkeypatch, number):
    """The work since the last checkpoint, up to a hundred steps, lost for closing a terminal."""
    before = signal.signal(getattr(signal, number), signal.SIG_DFL)  # these tests may run under nohup themselves
    at_step(monkeypatch, 3, lambda: signal.raise_signal(getattr(signal, number)))
    try:
        with pytest.raises(KeyboardInterrupt):
            start(tiny(steps=(9,), checkpoint_every=100), tmp_path / "run").run()
    finally:
        signal.signal(getattr(signal, number), before)
    assert read_progress(tmp_path / "run" / "checkpoint.safetensors").step == 3


def test_a_run_that_is_to_outlive_its_terminal_does(tmp_path, monkeypatch):
    """nohup has SIGHUP ignored, and that is what was asked for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGHUP, before)
        at_step(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGHUP))
        start(tiny(), tmp_path / "run").run()
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_weights_are_the_same_with_and_without_checkpoints(tmp_path):
    start(tiny(steps=(5,)), tmp_path / "often").run()
    start(tiny(steps=(5,), checkpoint_every=100), tmp_path / "seldom").run()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("often", "seldom"))
    for name in first:
        assert_array_equal(first[name], second[name])
