"""`predict` on many pictures and on large ones: what is taken, what is left behind, what happens to bad ones."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from tiny_runs import call

from minifcn import models, predict
from minifcn.data import voc_palette
from minifcn.errors import OutOfMemoryError, UsageError, WeightsError
from minifcn.weights import Preprocessing, save_weights

CLASSES = ["background", "sheep", "wolf"]


def save_model(path, classes=CLASSES, **record):
    """An FCN-Basic two channels wide, which sees a little of everything."""
    model, rng = models.FCNBasic(3, width=2), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    save_weights(
        path,
        model.state_dict(),
        architecture=model.architecture,
        preprocessing=Preprocessing(),
        record={"classes": classes, **record},
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(autouse=True)
def _limit_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the command sets for its process


def save_noise(path, size=(20, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def mask_of(path):
    with Image.open(path) as mask:
        return np.asarray(mask)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folders_and_patterns_stand_for_their_pictures(model, tmp_path, capsys):
    """A folder opened as a picture, its notes too, a hidden file, a picture twice, or patterns left to the shell."""
    for name in ("a.png", "b.JPG", ".hidden.png", "sub/c.png", "sub/deeper/d.bmp"):
        save_noise(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    arguments = (tmp_path / "in", tmp_path / "in" / "a.png", tmp_path / "in" / "sub" / "**" / "*.*")
    assert call(predict, model, *arguments, "--out", tmp_path / "out") == 0
    assert files(tmp_path / "out") == sorted(f"{name}{end}.png" for name in "abcd" for end in ("", "-overlay"))
    assert "4 pictures in" in capsys.readouterr().out


def test_a_picture_whose_name_looks_like_a_pattern_is_taken(model, tmp_path):
    """`x[1].png` is a name that browsers give."""
    save_noise(tmp_path / "x[1].png")
    assert call(predict, model, tmp_path / "x[1].png", "--out", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["x[1]-overlay.png", "x[1].png"]


@pytest.mark.parametrize("what", ["empty", "*.jpeg"])
def test_what_stands_for_no_picture_is_wrong_usage(model, tmp_path, what):
    """Nothing done, and exit code 0: a mistyped pattern goes unnoticed."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture"):
        call(predict, model, tmp_path / what, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_name_are_refused_before_anything_is_done(model, tmp_path):
    """In two folders, or with two endings: the second mask would silently replace the first."""
    for other in ("b/x.png", "a/x.jpg", "a/x-overlay.png"):
        first, second = save_noise(tmp_path / "a" / "x.png"), save_noise(tmp_path / other)
        with pytest.raises(UsageError, match="would both be written to x"):
            call(predict, model, first, second, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_pictures_among_many_are_told_at_the_end_and_the_others_are_done(model, tmp_path, capsys):
    """The first bad one ends the run; or its message is lost among a thousand lines; or the exit code is 0."""
    folder = tmp_path / "in"
    for number in range(12):
        save_noise(folder / f"{number:02}.png", seed=number)
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "07.png").write_bytes(b"")
    assert call(predict, model, folder, "--out", tmp_path / "out") == 1
    output = capsys.readouterr()
    assert "10 pictures in" in output.out
    summary, *messages = output.err.strip().splitlines()
    assert summary == "2 of 12 pictures failed, the others are done:"
    assert messages[0].startswith(f"error: {folder / '03.png'}: this picture cannot be read")
    assert messages[1].startswith(f"error: {folder / '07.png'}: this file is empty")
    assert len(files(tmp_path / "out")) == 20


@pytest.mark.slow
def test_one_bad_picture_in_a_thousand(model, tmp_path, capsys):
    """The sentence of the interface, word by word."""
    folder = tmp_path / "in"
    for number in range(1000):
        save_noise(folder / f"{number:04}.png", (8, 9), seed=number)
    (folder / "0500.png").write_bytes(b"not a picture")
    assert call(predict, model, folder, "--out", tmp_path / "out") == 1
    assert "1 of 1000 pictures failed" in capsys.readouterr().err
    assert len(files(tmp_path / "out")) == 2 * 999


def test_a_picture_without_memory_is_one_that_failed(model, tmp_path, capsys, monkeypatch):
    """The largest of many ends the run for all that come after it."""
    paths = [save_noise(tmp_path / "large.png", (64, 64)), save_noise(tmp_path / "small.png")]
    label_pixels = predict.label_pixels

    def short_of_memory(*arguments, image, **options):
        if image.shape[0] == 64:
            raise OutOfMemoryError(f"Conv2d of {image.shape}", "no more")
        return label_pixels(*arguments, image, **options)

    monkeypatch.setattr(predict, "label_pixels", short_of_memory)
    assert call(predict, model, *paths, "--out", tmp_path / "out", "--probabilities") == 1
    said = capsys.readouterr().err
    assert "large.png: Conv2d of (64, 64, 3): out of memory (no more). Try a smaller --tile" in said
    assert files(tmp_path / "out") == ["small-overlay.png", "small.npz", "small.png"]


def test_probabilities_are_stored_with_the_names_of_the_classes(model, tmp_path):
    """In another order than (classes, height, width), or others than those the mask was made of."""
    path = save_noise(tmp_path / "x.png", (50, 70))
    options = ("--probabilities", "--flip", "--scales", "0.5,1", "--tile", "32", "--overlap", "32")
    assert call(predict, model, path, "--out", tmp_path / "out", *options) == 0
    with np.load(tmp_path / "out" / "x.npz") as stored:
        assert stored["classes"].tolist() == CLASSES
        probabilities = stored["probabilities"]
    assert (probabilities.shape, probabilities.dtype) == ((3, 50, 70), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert_array_equal(mask_of(tmp_path / "out" / "x.png"), probabilities.argmax(axis=0))


def test_alpha_is_the_share_of_colour(model, tmp_path):
    """Exchanged shares, an overlay of another band of the picture, or background coloured too."""
    path = save_noise(tmp_path / "x.png", (40, 30))
    for alpha in ("0", "0.5", "1"):
        assert call(predict, model, path, "--out", tmp_path / alpha, "--alpha", alpha) == 0
    image, mask = mask_of(path), mask_of(tmp_path / "0" / "x.png")
    colours = np.where((mask == 0)[:, :, None], image, voc_palette()[mask])
    assert len(np.unique(mask)) > 1
    overlays = {alpha: mask_of(tmp_path / alpha / "x-overlay.png")[:40, :30] for alpha in ("0", "0.5", "1")}
    assert_array_equal(overlays["0"], image)
    assert_array_equal(overlays["1"], colours)
    assert np.abs(overlays["0.5"] - (image / 2 + colours / 2)).max() <= 0.5
    for alpha in ("-0.1", "1.5", "nan"):
        with pytest.raises(UsageError, match="--alpha"):
            call(predict, model, path, "--out", tmp_path / "other", "--alpha", alpha)


def test_a_limit_on_pixels_can_be_lifted(model, tmp_path, capsys):
    """A satellite's picture is refused, with a remedy that only a programmer could follow."""
    path = save_noise(tmp_path / "x.png", (40, 50))
    assert call(predict, model, path, "--out", tmp_path / "out", "--max-pixels", "1999") == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert call(predict, model, path, "--out", tmp_path / "out", "--max-pixels", "2_000") == 0
    with pytest.raises(UsageError, match="--max-pixels 0"):
        call(predict, model, path, "--out", tmp_path / "out", "--max-pixels", "0")


def test_a_picture_is_looked_at_in_the_size_of_training_or_in_its_own(tmp_path):
    """A network for small pictures scales a large one down, and nothing can stop it."""
    trained, path = save_model(tmp_path / "m.safetensors", size=[16, 16]), save_noise(tmp_path / "x.png", (50, 70))
    for name, options in (("own", ["--size", "own"]), ("scaled", []), ("asked", ["--size", "16"])):
        assert call(predict, trained, path, "--out", tmp_path / name, *options) == 0
    own, scaled, asked = (mask_of(tmp_path / name / "x.png") for name in ("own", "scaled", "asked"))
    assert_array_equal(scaled, asked)
    assert not np.array_equal(scaled, own)


@pytest.mark.parametrize("option", [("--scales", "1,big"), ("--scales", "0"), ("--tile", "8"), ("--overlap", "-1")])
def test_impossible_options_are_wrong_usage(model, tmp_path, option):
    """Found at the first picture, when the folder has been made, or at none."""
    path = save_noise(tmp_path / "x.png")
    command = [sys.executable, "-m", "minifcn.predict", model, path, "--out", tmp_path / "out", *option]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert option[0] in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [["one"], [1, 2, 3], 7])
def test_a_record_with_other_classes_than_the_network_is_damaged(tmp_path, classes):
    """An IndexError at the first picture."""
    path, damaged = save_noise(tmp_path / "x.png"), save_model(tmp_path / "m.safetensors", classes)
    with pytest.raises(WeightsError, match=r"m\.safetensors: its record is damaged"):
        call(predict, damaged, path, "--out", tmp_path / "out")


MEMORY = """
import resource, sys
from minifcn import predict
from minifcn.backend import keep_freed_memory
keep_freed_memory()
predict.main(predict.make_parser().parse_args(sys.argv[1:]))
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_memory_beyond_the_decoded_picture_and_its_mask_does_not_grow(model, tmp_path, ending):
    """Of the whole process. Pillow holds a colour picture in 4 bytes a pixel, and the mask takes 1."""
    pytest.importorskip("resource", reason="the memory of a process is asked for the POSIX way")
    peaks = []
    for side in (3000, 5000):
        small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        small.resize((side, side)).save(tmp_path / f"{side}.{ending}")
        command = [model, tmp_path / f"{side}.{ending}", "--out", tmp_path / "out", "--tile", "512", "--overlap", "0"]
        process = subprocess.run(
            [sys.executable, "-c", MEMORY, *map(str, command)], capture_output=True, text=True, check=True
        )
        peaks.append(int(process.stdout.splitlines()[-1]))
    assert (peaks[1] - peaks[0]) / (5000**2 - 3000**2) < 5.5
