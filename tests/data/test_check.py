"""What is found in a data set, and that all of it is found at once."""

import io

import numpy as np
import pytest
from PIL import Image

from minifcn.data import read_image
from minifcn.data.check import check_data
from minifcn.data.duplicates import near_duplicates, picture_digest, thumbnail
from minifcn.errors import DataError, UsageError

CLASSES = "soil\nplant\nstone\n"


SIZE = (96, 128)


def photo(seed, size=SIZE):
    """Smooth colours, as photographs have, of which no two are alike."""
    coarse = np.random.default_rng(seed).integers(60, 200, (3, 4, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def mask(*labels, size=SIZE):
    """Stripes of equal width, one for each label."""
    stripe = np.arange(size[1]) * len(labels) // size[1]
    return np.array(labels, np.uint8)[stripe][None].repeat(size[0], axis=0)


def add(root, split, name, image, labels, suffix=".png"):
    for kind, array, ending in (("images", image, suffix), ("masks", labels, ".png")):
        folder = root / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{name}{ending}")


@pytest.fixture
def root(tmp_path):
    """Two splits of four pictures in which nothing is wrong."""
    root = tmp_path / "set"
    for start, split in ((0, "train"), (100, "val")):
        for number in range(start, start + 4):
            add(root, split, f"{number:03d}", photo(number), mask(0, 1, 2, 255))
    (root / "classes.txt").write_text(CLASSES)
    return root


def one(messages, *words):
    """The one message that has all the words."""
    found = [message for message in messages if all(word in message for word in words)]
    assert len(found) == 1, messages
    return found[0]


# ---------------------------------------------------------------------------------------------------- figures


def test_nothing_wrong(root):
    report = check_data(str(root))
    assert (report.errors, report.warnings, report.notes) == ([], [], [])
    assert [(summary.split, len(summary.names)) for summary in report.splits] == [("train", 4), ("val", 4)]


def test_class_frequencies_by_hand(tmp_path):
    """Two pictures of 4 × 8: one half soil, half plant; one a quarter stone, a quarter void, half soil."""
    root = tmp_path / "set"
    for split in ("train", "val"):
        add(root, split, f"{split}_a", photo(len(split), (4, 8)), mask(0, 1, size=(4, 8)))
        add(root, split, f"{split}_b", photo(9 + len(split), (4, 8)), mask(0, 0, 2, 255, size=(4, 8)))
    (root / "classes.txt").write_text(CLASSES + "never\n")
    summary = check_data(str(root)).splits[0]
    rows = {row.pop("class"): row for row in summary.class_rows()}
    assert rows["soil"] == {"pixels": 32, "share": 32 / 56, "share_where_present": 32 / 56, "images": 2}
    assert rows["plant"] == {"pixels": 16, "share": 16 / 56, "share_where_present": 16 / 32, "images": 1}
    assert rows["stone"] == {"pixels": 8, "share": 8 / 56, "share_where_present": 8 / 24, "images": 1}
    assert rows["never"]["images"] == 0
    assert np.isnan(rows["never"]["share_where_present"])
    assert summary.void_share == 8 / 64


def test_sizes(root):
    """Area decides, not the height; and one size gets no note."""
    add(root, "train", "wide", photo(10, (80, 192)), mask(0, 1, 2, size=(80, 192)))
    add(root, "train", "small", photo(11, (120, 66)), mask(0, 1, 2, size=(120, 66)))
    report = check_data(str(root))
    assert report.splits[0].size_range() == {"smallest": (120, 66), "largest": (80, 192), "most_frequent": SIZE}
    assert "3 different sizes" in one(report.notes, "train")
    assert report.errors == []


def test_examples_are_spread_scaled_down_and_few(root):
    """The first ones of a video all show one scene; and a sheet of full-size pictures would fill the memory."""
    report = check_data(str(root), examples=4, example_size=32)
    assert [(split, sample.name) for split, sample in report.examples] == [
        ("train", "000"),
        ("train", "003"),
        ("val", "100"),
        ("val", "103"),
    ]
    assert {sample.image.shape for _, sample in report.examples} == {(24, 32, 3)}
    assert {sample.labels.shape for _, sample in report.examples} == {(24, 32)}
    assert len(check_data(str(root), examples=100).examples) == 8


def test_the_progress_bar_sees_every_picture(root):
    seen = {}

    def progress(indices, split):
        for index in indices:
            seen[split] = seen.get(split, 0) + 1
            yield index

    check_data(str(root), progress=progress)
    assert seen == {"train": 4, "val": 4}


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("named", [True, False])
def test_every_damaged_file_is_reported(root, named):
    """Reporting the first only, or one of each kind only. Without classes.txt the masks are read beforehand."""
    if not named:
        (root / "classes.txt").unlink()
    (root / "train" / "masks" / "000.png").unlink()
    (root / "train" / "images" / "001.png").write_bytes(b"")
    add(root, "val", "100", photo(100), mask(0, 1, size=(24, 32)))
    (root / "val" / "masks" / "101.png").write_bytes((root / "val" / "masks" / "102.png").read_bytes()[:60])
    (root / "val" / "masks" / "orphan.png").write_bytes((root / "val" / "masks" / "102.png").read_bytes())
    report = check_data(str(root))
    one(report.errors, "images/000.png", "has no mask")
    one(report.errors, "images/001.png", "empty")
    one(report.errors, "images/100.png", "96 × 128", "24 × 32")
    one(report.errors, "masks/101.png", "truncated")
    one(report.errors, "masks/orphan.png", "has no image")
    assert len(report.errors) == 5, report.errors
    assert [summary.names for summary in report.splits] == [["002", "003"], ["102", "103"]]


def test_labels_out_of_range_name_file_label_and_pixels(root):
    for number in (1, 2):
        labels = mask(0, 1, 2)
        labels[0, :number] = 7
        add(root, "train", f"{number:03d}", photo(number), labels)
    report = check_data(str(root))
    assert "label 7 in 1 pixels" in one(report.errors, "masks/001.png")
    assert "label 7 in 2 pixels" in one(report.errors, "masks/002.png")
    assert report.splits[0].labels[7] == 0


def test_masks_of_0_and_255_point_to_foreground(tmp_path):
    for split, start in (("train", 0), ("val", 5)):
        for number in range(start, start + 2):
            add(tmp_path, split, f"{number}", photo(number), mask(0, 255))
    report = check_data(str(tmp_path))
    assert len(report.errors) == 2  # one for each split
    assert all("--foreground 255" in message for message in report.errors)
    report = check_data(str(tmp_path), foreground=255)
    assert report.errors == []
    assert report.splits[0].classes == ("background", "foreground")


def test_one_class_in_train_is_an_error_and_in_val_is_not(root):
    for number in range(4):
        add(root, "val", f"{100 + number}", photo(100 + number), mask(0))
    assert check_data(str(root)).errors == []
    for number in range(4):
        add(root, "train", f"{number:03d}", photo(number), mask(0))
    one(check_data(str(root)).errors, "(train)", "label 0 in 49152 pixels", "at least 2")


def test_a_split_without_a_usable_picture(root):
    for path in (root / "val" / "masks").iterdir():
        path.write_bytes(b"")
    report = check_data(str(root))
    one(report.errors, "(val)", "no picture that can be used")
    assert len(report.errors) == 5


def test_a_missing_split_is_an_error_beside_the_others(root):
    """Training would stop at it."""
    for path in sorted((root / "val").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "train" / "masks" / "000.png").unlink()
    report = check_data(str(root))
    one(report.errors, "no images for val")
    one(report.errors, "000.png", "has no mask")
    assert len(check_data(str(root), ["train"]).errors) == 1


def test_a_class_list_at_fault_is_reported_once(root):
    (root / "classes.txt").write_text("soil\nsoil\n")
    assert len(check_data(str(root)).errors) == 1


def test_no_data_set_at_all(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        check_data(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="is not a data set"):
        check_data("nonsense")


# ---------------------------------------------------------------------------------------------------- twice


def test_one_picture_in_two_splits_under_other_names(root):
    """Content decides: the same pixels, in a file of another kind and name."""
    add(root, "val", "other", photo(2), mask(0, 1, 2), suffix=".bmp")
    report = check_data(str(root))
    one(report.errors, "train/002 and val/other", "pixel by pixel")
    assert len(report.errors) == 1
    assert report.warnings == []


def test_one_picture_in_two_splits_under_one_name(root):
    add(root, "val", "002", photo(2), mask(0, 1, 2))
    report = check_data(str(root))
    one(report.errors, "train/002 and val/002", "pixel by pixel")
    assert report.warnings == []


def test_one_picture_saved_again_under_one_name(root):
    add(root, "val", "002", photo(2), mask(0, 1, 2), suffix=".jpg")
    report = check_data(str(root))
    one(report.errors, "train/002 and val/002", "saved twice")
    assert report.warnings == []


def test_one_picture_scaled_under_another_name_is_for_the_user_to_judge(root):
    small = Image.fromarray(photo(2)).resize((64, 48), Image.Resampling.BICUBIC)
    add(root, "val", "other", np.array(small), mask(0, 1, 2, size=(48, 64)))
    report = check_data(str(root))
    assert report.errors == []
    one(report.warnings, "train/002 and val/other", "look alike")


def test_one_picture_twice_in_a_split_is_a_warning(root):
    add(root, "train", "copy", photo(2), mask(0, 1, 2))
    report = check_data(str(root))
    assert report.errors == []
    one(report.warnings, "train/002 and train/copy", "counts twice")
    assert len(report.warnings) == 1


def test_one_name_for_different_pictures_is_a_warning(root):
    """Numbering that starts anew in each split is common, and no error."""
    add(root, "val", "002", photo(50), mask(0, 1, 2))
    report = check_data(str(root))
    assert report.errors == []
    one(report.warnings, "train and val", "different pictures: 002")


def test_splits_that_only_measure_may_overlap(root):
    """A test list within val is odd, but nothing that was trained on is measured on."""
    add(root, "test", "100", photo(100), mask(0, 1, 2))
    report = check_data(str(root))
    assert report.errors == []
    one(report.warnings, "and val/100" if report.splits[0].split == "test" else "val/100 and", "part of the other")


def test_near_duplicates_by_hand():
    """The nearest of the earlier ones, once; not itself, not the later one, not what is merely close."""
    base = np.zeros(768, np.uint8)
    base[::2] = 100  # contrast 50
    far = base[::-1]
    assert near_duplicates([base, far, base + 1, base + 2, base + 4]) == [(0, 2), (2, 3)]
    assert near_duplicates([]) == []
    assert near_duplicates([base]) == []


def test_dim_pictures_are_not_alike():
    """A few cells on a dark ground: every thumbnail is close to every other."""
    rng = np.random.default_rng(0)
    assert near_duplicates(list(rng.integers(10, 13, (20, 768), np.uint8))) == []


def test_near_duplicates_across_blocks(monkeypatch):
    """Thumbnails are compared block by block; a pair may lie in two."""
    monkeypatch.setattr("minifcn.data.duplicates._BLOCK", 4)
    thumbnails = [thumbnail(photo(seed)) for seed in range(11)]
    thumbnails += [thumbnails[9], thumbnails[0], thumbnails[5]]
    assert near_duplicates(thumbnails) == [(9, 11), (0, 12), (5, 13)]


def test_frames_of_a_video_are_not_alike(shared_data):
    """Two of CamVid's frames a second apart resemble each other more than any other pictures."""
    frames = sorted((shared_data / "camvid" / "val" / "images").iterdir())
    assert near_duplicates([thumbnail(read_image(path)) for path in frames]) == []


@pytest.mark.parametrize("quality", [70, 90])
def test_saving_again_leaves_pictures_alike(quality):
    buffer = io.BytesIO()
    Image.fromarray(photo(1)).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as again:
        assert near_duplicates([thumbnail(photo(0)), thumbnail(photo(1)), thumbnail(np.array(again))]) == [(1, 2)]


def test_digests_tell_pixels_and_shapes():
    """The bytes of 2 × 3 and 3 × 2 pixels are the same; so are those of a view and its copy."""
    picture = photo(0)
    assert picture_digest(picture[:, ::-1]) == picture_digest(picture[:, ::-1].copy()) != picture_digest(picture)
    flat = np.zeros((2, 3, 3), np.uint8)
    assert picture_digest(flat) != picture_digest(flat.reshape(3, 2, 3))
    changed = picture.copy()
    changed[5, 5, 1] ^= 1
    assert picture_digest(changed) != picture_digest(picture)


# ---------------------------------------------------------------------------------------------------- classes


def test_classes_that_do_not_occur(root):
    """What only val has cannot be learned; what only train has cannot be measured."""
    (root / "classes.txt").write_text(CLASSES + "nowhere\n")
    for number in range(4):
        add(root, "train", f"{number:03d}", photo(number), mask(0, 1))
        add(root, "val", f"{100 + number}", photo(100 + number), mask(0, 2))
    report = check_data(str(root))
    assert "another split has stone." in one(report.warnings, "train: no pixel of stone, nowhere", "never sees")
    assert "another split has plant." in one(report.warnings, "val: no pixel of plant, nowhere", "IU")
    assert len(report.warnings) == 2


def test_splits_of_different_classes(root, monkeypatch):
    from minifcn.data import check, open_dataset

    def with_other_names(spec, split, **options):
        dataset = open_dataset(spec, split, **options)
        dataset.classes = dataset.classes if split == "train" else ("soil", "stone", "plant")
        return dataset

    monkeypatch.setattr(check, "open_dataset", with_other_names)
    one(check_data(str(root)).errors, "train has the classes soil, plant, stone, but val has soil, stone, plant")


def test_only_the_splits_that_are_named(root):
    (root / "val" / "masks" / "100.png").unlink()
    report = check_data(str(root), ["train", "train"])
    assert [summary.split for summary in report.splits] == ["train"]
    assert report.errors == []


def test_trainval_is_left_out_unless_asked_for(root):
    """All of its pictures are in train or val as well, as it should be."""
    for number in (0, 1, 100):
        add(root, "trainval", f"{number:03d}", photo(number), mask(0, 1, 2))
    report = check_data(str(root))
    assert [summary.split for summary in report.splits] == ["train", "val"]
    assert report.errors == []
    one(check_data(str(root), ["trainval", "val"]).errors, "trainval/100 and val/100")


def test_what_a_data_set_says_about_itself_is_a_note(root, monkeypatch):
    """Lists from which images were left out are shorter than published; the reason must not get lost."""
    from minifcn.data import Folder

    monkeypatch.setattr(Folder, "note", "7 images are left out.", raising=False)
    assert check_data(str(root)).notes == ["train: 7 images are left out.", "val: 7 images are left out."]


def test_drawn_pictures_are_sound(monkeypatch):
    monkeypatch.setattr("minifcn.data.shapes._LENGTHS", {"train": 12, "val": 4})
    report = check_data("shapes")
    assert report.errors == []
    assert [len(summary.names) for summary in report.splits] == [12, 4]
