"""check_data as a user calls it: what it prints and writes, and how it ends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SIZE = (32, 48)


def check(*arguments, cwd):
    """The finished process of `python -m minifcn.check_data …`."""
    command = [sys.executable, "-m", "minifcn.check_data", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def add(root, split, name, labels=None, seed=0):
    rng = np.random.default_rng([seed, *name.encode()])
    image = np.array(Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(SIZE[::-1]))
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 8 % 2 if labels is None else labels
    for kind, array in (("images", image), ("masks", labels.astype(np.uint8))):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / split / kind / f"{name}.png")


@pytest.fixture
def here(tmp_path):
    """A folder that holds the data set `my pictures`, in which nothing is wrong."""
    for split, numbers in (("train", range(12)), ("val", range(20, 24))):
        for number in numbers:
            add(tmp_path / "my pictures", split, f"{number:03d}")
    (tmp_path / "my pictures" / "classes.txt").write_text("background\nplant\n")
    return tmp_path


def test_a_sound_data_set(here):
    process = check("my pictures", cwd=here)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""  # no progress bar where nobody looks
    for words in ("plant", "32 × 48", "No errors, 0 warnings", "minifcn.train --data 'my pictures'"):
        assert words in process.stdout
    assert "ERRORS" not in process.stdout
    assert [path.name for path in here.glob("*.png")] == ["check-my-pictures.png"]


def test_the_sheet_shows_masks_over_images(tmp_path):
    """Half of each colour where class 1 is (VOC's dark red), and the picture as it is where background is."""
    for split, grey in (("train", 100), ("val", 60)):
        add(tmp_path / "set", split, "a")
        Image.new("RGB", SIZE[::-1], (grey, grey, grey)).save(tmp_path / "set" / split / "images" / "a.png")
    (tmp_path / "set" / "classes.txt").write_text("background\nplant\n")
    process = check("set", "--sheet", "sheet.png", cwd=tmp_path)
    assert "sheet.png" in process.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        counts = {color: count for count, color in sheet.getcolors(100_000)}
    half = 32 * 24 * 5 * 5  # pixels, enlarged five times
    assert counts[114, 50, 50] == counts[94, 30, 30] == half
    assert 0 <= counts[100, 100, 100] - half < 100  # letters have greys too
    assert 0 <= counts[60, 60, 60] - half < 100


def test_every_error_is_printed_with_its_remedy_and_ends_in_1(here):
    root = here / "my pictures"
    (root / "train" / "masks" / "000.png").unlink()
    (root / "val" / "images" / "020.png").write_bytes(b"")
    for number in range(1, 10):
        add(root, "train", f"{number:03d}", labels=np.full(SIZE, 7))
    process = check("my pictures", "--json", "all.json", cwd=here)
    assert process.returncode == 1
    assert "11 errors, 0 warnings" in process.stdout
    for words in ("000.png: this image has no mask", "is empty", "label 7 in 1536 pixels", "… and 4 more"):
        assert process.stdout.count(words) >= 1, process.stdout
    assert process.stdout.count("label 7 in 1536 pixels") == 5
    for remedy in ("Give both one name", "Replace it or take it out", "Add the class to classes.txt"):
        assert process.stdout.count(remedy) == 1, process.stdout
    written = json.loads((here / "all.json").read_text())
    assert len(written["errors"]) == 11
    assert sum("label 7 in 1536 pixels" in message for message in written["errors"]) == 9


def test_warnings_do_not_stop_anybody(here):
    path = here / "my pictures" / "train"
    for kind in ("images", "masks"):
        (path / kind / "copy.png").write_bytes((path / kind / "000.png").read_bytes())
    process = check("my pictures", cwd=here)
    assert process.returncode == 0
    assert "train/000 and train/copy are the same picture" in process.stdout
    assert "No errors, 1 warning:" in process.stdout


def test_json_alone_on_standard_output(here):
    process = check("my pictures", "--json", "-", "--split", "val", cwd=here)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert list(result["splits"]) == ["val"]
    assert result["splits"]["val"]["pictures"] == 4
    assert result["splits"]["val"]["sizes"] == {
        "smallest": [32, 48],
        "largest": [32, 48],
        "most_frequent": [32, 48],
        "different": 1,
    }
    assert result["splits"]["val"]["classes"][1] == {
        "class": "plant",
        "pixels": 4 * 32 * 24,
        "share": 0.5,
        "share_where_present": 0.5,
        "images": 4,
    }


def test_foreground(here):
    root = here / "blobs"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        add(root, split, name, labels=np.eye(*SIZE) * 255)
    process = check(root, cwd=here)
    assert process.returncode == 1
    assert "--foreground 255" in process.stdout
    process = check("blobs", "--foreground", 255, cwd=here)
    assert process.returncode == 0, process.stdout
    assert "--data blobs --foreground 255" in process.stdout


def test_a_data_set_without_a_usable_picture_has_no_sheet(here):
    for path in (here / "my pictures").rglob("*/masks/*.png"):
        path.unlink()
    process = check("my pictures", cwd=here)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "16 errors" not in process.stdout  # and one for each split
    assert "18 errors" in process.stdout
    assert list(here.glob("*.png")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "is not a data set"),
        (["gone/set"], 1, "gone/set: there is no such folder"),
        (["my pictures", "--sheet", "sheet.jpg"], 2, "let the name end in .png"),
        (["my pictures", "--download"], 2, "cannot be downloaded"),
    ],
)
def test_wrong_usage(here, arguments, code, words):
    process = check(*arguments, cwd=here)
    assert process.returncode == code, process.stderr
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_names_of_any_alphabet(here):
    """File names come from anywhere, and consoles know few encodings."""
    add(here / "my pictures", "train", "花-ü")
    add(here / "my pictures", "val", "花-ü", labels=np.full(SIZE, 9))
    process = check("my pictures", cwd=here)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr


def test_published_folders(shared_data, tmp_path):
    """Genuine data pass without an error; dim pictures of cells are not taken for duplicates."""
    process = check(shared_data / "nuclei", cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    assert "No errors, 0 warnings" in process.stdout
    process = check(f"voc:{shared_data / 'voc'}", "--json", "-", cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    result = json.loads(process.stdout)
    assert {name: split["pictures"] for name, split in result["splits"].items()} == {"train": 16, "val": 8}
    assert result["errors"] == []
