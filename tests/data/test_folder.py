"""Folders as people have them: the layouts, and every mistake that must stop before training."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageFilter

from minifcn.data import Folder, voc_palette
from minifcn.data.masks import is_soft
from minifcn.errors import DataError, UsageError

STEMS = ("a", "b", "c", "d", "e")


def halves(value, size=(12, 16), other=0):
    """A mask whose right half is `value`."""
    mask = np.full(size, other, dtype=np.uint8)
    mask[:, size[1] // 2 :] = value
    return mask


def write(folder, name, array, **options):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(folder / name, **options)


def write_set(images, masks, mask=None, stems=STEMS):
    for number, stem in enumerate(stems):
        write(images, f"{stem}.jpg", np.full((12, 16, 3), number, dtype=np.uint8))
        write(masks, f"{stem}.png", halves(1) if mask is None else mask)


def build(root, layout="split first", mask=None):
    for split in ("train", "val"):
        if layout == "split first":
            write_set(root / split / "images", root / split / "masks", mask)
        elif layout == "split last":
            write_set(root / "images" / split, root / "masks" / split, mask)
    if layout == "one set":
        write_set(root / "images", root / "masks", mask)
    return root


# ---------------------------------------------------------------------------------------------------- what works


@pytest.mark.parametrize("layout", ["split first", "split last"])
def test_folders_of_splits(tmp_path, layout):
    root = build(tmp_path, layout)
    write(root.joinpath(*(("val", "masks") if layout == "split first" else ("masks", "val"))), "a.png", halves(2))
    train, val = Folder(root, "train"), Folder(str(root), "val")
    assert len(train) == len(val) == 5
    assert [sample.name for sample in (train[i] for i in range(5))] == list(STEMS)
    assert_array_equal(val[0].labels, halves(2))
    assert_array_equal(train[0].labels, halves(1))
    assert train[1].image.shape == (12, 16, 3)
    assert train.name == f"folder:{root}"


def test_classes_without_a_list_are_those_of_all_splits(tmp_path):
    """A network with as many classes as train has would meet a label in val that it cannot give."""
    root = build(tmp_path)
    write(root / "val" / "masks", "a.png", halves(2))
    for split in ("train", "val"):
        assert Folder(root, split).classes == ("class_0", "class_1", "class_2")


def test_one_set_is_split_by_seed(tmp_path):
    """An image in both splits makes the validation worthless."""
    root = build(tmp_path, "one set")
    train, val = (Folder(root, split, val_share=0.4) for split in ("train", "val"))
    names = [[pair.image.stem for pair in dataset.pairs] for dataset in (train, val)]
    assert len(names[1]) == 2
    assert sorted(names[0] + names[1]) == list(STEMS)
    choices = {tuple(p.image.stem for p in Folder(root, "val", seed=seed, val_share=0.4).pairs) for seed in range(8)}
    assert len(choices) > 1


def test_the_split_does_not_depend_on_the_order_of_listing(tmp_path, monkeypatch):
    """File systems list in any order; a shuffle of the listing would differ between machines."""
    root = build(tmp_path, "one set")
    before = [pair.image.name for pair in Folder(root, "val").pairs]
    iterdir = type(root).iterdir
    monkeypatch.setattr(type(root), "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    assert [pair.image.name for pair in Folder(root, "val").pairs] == before


def test_a_new_image_does_not_reshuffle_the_others(tmp_path):
    """With a list that is shuffled, one more file moves old validation images into train."""
    root = tmp_path
    stems = [f"{i:03d}" for i in range(40)]
    write_set(root / "images", root / "masks", stems=stems)
    before = {pair.image.stem for pair in Folder(root, "val").pairs}
    write_set(root / "images", root / "masks", stems=["new"])
    after = {pair.image.stem for pair in Folder(root, "val").pairs}
    assert len(before) == 8
    assert len(before & after) >= 7


def test_named_classes_and_colours(tmp_path):
    root = build(tmp_path)
    (root / "classes.txt").write_text("soil 0 0 0\nplant 0 200 0\nvoid 9 9 9\n")
    rgb = np.zeros((12, 16, 3), dtype=np.uint8)
    rgb[:, 8:] = 0, 200, 0
    rgb[0] = 9
    for stem in STEMS:
        write(root / "train" / "masks", f"{stem}.png", rgb)
    train = Folder(root, "train")
    expected = halves(1)
    expected[0] = 255
    assert_array_equal(train[2].labels, expected)
    assert train.classes == ("soil", "plant")
    assert train.palette[[0, 1, 255]].tolist() == [[0, 0, 0], [0, 200, 0], [9, 9, 9]]


def test_without_colours_the_palette_is_voc_s(tmp_path):
    assert_array_equal(Folder(build(tmp_path), "train").palette, voc_palette())


def test_other_files_are_passed_over(tmp_path):
    """What operating systems and editors leave behind is no image without a mask."""
    root = build(tmp_path)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", "labels.json", "README", "._a.jpg", ".hidden.png"):
        (root / "train" / "images" / name).write_text("x")
    (root / "train" / "masks" / "old").mkdir()
    assert len(Folder(root, "train")) == 5


def test_endings_may_differ_and_be_capital(tmp_path):
    root = build(tmp_path)
    write(root / "train" / "images", "f.PNG", np.zeros((12, 16, 3), dtype=np.uint8))
    write(root / "train" / "masks", "f.TIF", halves(1))
    assert len(Folder(root, "train")) == 6


def test_rotated_images_fit_upright_masks(tmp_path):
    """Sizes taken from the file's header without its EXIF data do not."""
    root = build(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "train" / "images", "f.jpg", np.zeros((16, 12, 3), dtype=np.uint8), exif=exif)
    write(root / "train" / "masks", "f.png", halves(1))
    assert Folder(root, "train")[5].image.shape == (12, 16, 3)


def test_foreground_makes_255_a_class(tmp_path):
    root = build(tmp_path, mask=halves(255))
    train = Folder(root, "train", foreground=255)
    assert train.classes == ("background", "foreground")
    assert_array_equal(train[0].labels, halves(1))
    (root / "classes.txt").write_text("soil\nplant\n")
    assert Folder(root, "train", foreground=255).classes == ("soil", "plant")


def test_another_foreground_keeps_void(tmp_path):
    mask = halves(128)
    mask[0] = 255
    train = Folder(build(tmp_path, mask=mask), "train", foreground=128)
    assert sorted(np.unique(train[0].labels)) == [0, 1, 255]


# ---------------------------------------------------------------------------------------------------- what must not


def refused(root, message, split="train", **options):
    with pytest.raises(DataError, match=message):
        Folder(root, split, **options)


def test_missing_folders_say_what_was_looked_for(tmp_path):
    refused(tmp_path / "gone", r"gone: there is no such folder(.|\n)*ROOT/train/images")
    (tmp_path / "pictures").mkdir()
    refused(tmp_path, r"no images for train: looked for .*found pictures/")


def test_missing_val_and_missing_masks(tmp_path):
    """Falling back to train for val reports a score on the pictures that were learned."""
    write_set(tmp_path / "train" / "images", tmp_path / "train" / "masks")
    refused(tmp_path, r"no images for val: looked for .*val.*found train/", split="val")
    (tmp_path / "val" / "images").mkdir(parents=True)
    refused(tmp_path, r"masks: missing, though", split="val")
    (tmp_path / "val" / "masks").mkdir()
    refused(tmp_path, r"no image in this folder. It holds nothing", split="val")


@pytest.mark.parametrize("split", ["../train", "", "a/b", "images"])
def test_splits_are_names(tmp_path, split):
    """A split that is a path leads out of the data set."""
    refused(build(tmp_path, "one set"), "cannot be the name of a split", split=split)


def test_image_without_mask_is_named(tmp_path):
    root = build(tmp_path)
    (root / "train" / "masks" / "c.png").unlink()
    refused(root, r"images without a mask in .*masks: c\.jpg")
    write(root / "train" / "masks", "c_mask.png", halves(1))
    refused(root, r"c\.jpg; masks without an image: .*c_mask\.png.*Rename")


def test_mask_without_image_is_named(tmp_path):
    root = build(tmp_path)
    (root / "train" / "images" / "c.jpg").unlink()
    refused(root, r"masks without an image: .*c\.png")


def test_many_missing_masks_are_counted(tmp_path):
    """A message of ten thousand names."""
    stems = [f"{i:03d}" for i in range(25)]
    write_set(tmp_path / "train" / "images", tmp_path / "elsewhere", stems=stems)
    (tmp_path / "train" / "masks").mkdir()
    refused(tmp_path, r"009\.jpg and 15 more")


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_name_are_refused(tmp_path, kind):
    """Either could be meant; the last one listed would win silently."""
    root = build(tmp_path)
    write(root / "train" / kind, "c.bmp", halves(1))
    refused(root, r"c\.bmp and c\.(jpg|png) have the same name")


def test_sizes_that_differ_are_named(tmp_path):
    root = build(tmp_path)
    write(root / "train" / "masks", "c.png", halves(1, size=(16, 12)))
    refused(root, r"c\.jpg is 12 × 16 pixels .* c?.*c\.png is 16 × 12")


def test_label_beyond_the_classes_is_named_and_counted(tmp_path):
    root = build(tmp_path)
    (root / "classes.txt").write_text("soil\nplant\n")
    mask = halves(1)
    mask[0, :3] = 7
    mask[1, 0] = 255
    write(root / "train" / "masks", "c.png", mask)
    refused(
        root, r"c\.png: label 7 in 3 pixels, but the data set has 2 classes \(0–1\) and 255 for void. Add the class"
    )


@pytest.mark.parametrize("with_list", [False, True])
def test_masks_of_0_and_255_point_to_foreground(tmp_path, with_list):
    """Void taken for a class by the user: the loss is 0 from the first step, or background is all there is."""
    root = build(tmp_path, mask=halves(255))
    if with_list:
        (root / "classes.txt").write_text("soil\nplant\n")
    refused(root, r"label 0 in 480 pixels, label 255 in 480 pixels.*--foreground 255")


def test_masks_of_0_and_255_as_rgb_point_to_foreground(tmp_path):
    root = build(tmp_path, mask=np.stack([halves(255)] * 3, axis=-1))
    refused(root, r"--foreground 255")
    assert_array_equal(Folder(root, "train", foreground=255)[0].labels, halves(1))


def test_foreground_with_another_value_is_refused(tmp_path):
    """A value 1 that was there before would become foreground too, and 7 a class that is not there."""
    for value in (1, 7):
        root = build(tmp_path, mask=halves(255, other=value))
        refused(root, rf"a\.png: value {value} in 96 pixels, but with --foreground 255", foreground=255)


def test_foreground_that_does_not_occur_is_refused(tmp_path):
    refused(build(tmp_path, mask=halves(255)), r"value|label", foreground=128)


def test_foreground_with_three_names_is_refused(tmp_path):
    root = build(tmp_path, mask=halves(255))
    (root / "classes.txt").write_text("a\nb\nc\n")
    refused(root, r"classes\.txt: 3 classes, but with --foreground there are two", foreground=255)


@pytest.mark.parametrize("foreground", [0, 256, -1])
def test_foreground_is_a_mask_value(tmp_path, foreground):
    with pytest.raises(UsageError, match="1 to 255"):
        Folder(build(tmp_path), "train", foreground=foreground)


def test_val_share_is_a_share(tmp_path):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Folder(build(tmp_path, "one set"), "train", val_share=20)


def test_fewer_than_two_classes_are_refused(tmp_path):
    """Nothing can be learned, and every metric is perfect."""
    for mask in (halves(0), halves(255, other=255), halves(1, other=255)):
        root = build(tmp_path, mask=mask)
        refused(root, r"the masks hold only label \d+ in \d+ pixels")
        (root / "classes.txt").write_text("soil\nplant\n")
        refused(root, r"the masks hold only label \d+ in \d+ pixels")
        (root / "classes.txt").unlink()


def test_jpeg_masks_are_refused(tmp_path):
    root = build(tmp_path)
    (root / "train" / "masks" / "c.png").unlink()
    write(root / "train" / "masks", "c.jpg", halves(1))
    refused(root, r"c\.jpg: this mask is a JPEG")


def disc(value, soften):
    rows, columns = np.ogrid[:64, :64]
    mask = Image.fromarray(np.where((rows - 31) ** 2 + (columns - 31) ** 2 < 400, value, 0).astype(np.uint8))
    return soften(mask)


def blurred(mask):
    return np.array(mask.filter(ImageFilter.GaussianBlur(1)))


def shrunk(mask):
    """What a drawing program does along the edges."""
    return np.array(mask.resize((21, 21), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BICUBIC))


def compressed(mask):
    """JPEG, saved as PNG afterwards: the format no longer tells."""
    import io

    buffer = io.BytesIO()
    mask.save(buffer, format="JPEG", quality=80)
    return np.array(Image.open(buffer))


@pytest.mark.parametrize("soften", [blurred, shrunk, compressed])
@pytest.mark.parametrize("known", ["nothing", "classes", "foreground"])
def test_softened_masks_are_refused_with_the_reason(tmp_path, soften, known):
    """Mixed values along edges would each become a class, or be reported as a riddle."""
    root = tmp_path
    for stem in STEMS:
        write(root / "train" / "images", f"{stem}.png", np.zeros((64, 64, 3), dtype=np.uint8))
        write(root / "train" / "masks", f"{stem}.png", disc(255, soften))
    if known == "classes":
        (root / "classes.txt").write_text("soil\nplant\n")
    foreground = 255 if known == "foreground" else None
    refused(root, r"a\.png.* only along edges.*anti-aliased", foreground=foreground)


def test_masks_of_many_small_regions_are_not_called_soft(tmp_path):
    """The check above must let through what merely has many classes."""
    mask = np.repeat(np.repeat(np.arange(100, dtype=np.uint8).reshape(10, 10), 4, axis=0), 4, axis=1)
    root = tmp_path
    write(root / "train" / "images", "a.png", np.zeros((40, 40, 3), dtype=np.uint8))
    write(root / "train" / "masks", "a.png", mask)
    assert len(Folder(root, "train").classes) == 100


def test_a_few_specks_do_not_make_a_mask_soft():
    """Rare thin classes beside many large ones are genuine."""
    mask = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3), 6, axis=0), 6, axis=1)
    mask[[2, 2, 8, 8], [2, 8, 2, 8]] = 40, 50, 60, 70
    assert not is_soft(mask)
    assert is_soft(np.add.outer(np.arange(6), np.arange(6)).astype(np.uint8))  # a gradient


def test_grey_levels_are_not_taken_for_class_numbers(tmp_path):
    """{0, 128} would make a network of 129 classes."""
    refused(build(tmp_path, mask=halves(128)), r"label 0 in 960 pixels, label 128 in 960 pixels.*classes\.txt")


def test_a_set_of_one_image_cannot_be_split(tmp_path):
    write_set(tmp_path / "images", tmp_path / "masks", stems=["only"])
    refused(tmp_path, "one image cannot be split")


def test_files_that_change_under_way_are_noticed(tmp_path):
    """Hours after the first check."""
    root = build(tmp_path)
    train = Folder(root, "train")
    write(root / "train" / "masks", "a.png", halves(9))
    with pytest.raises(DataError, match=r"a\.png: label 9"):
        train[0]
    write(root / "train" / "images", "b.jpg", np.zeros((3, 3, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"b\.jpg is 3 × 3"):
        train[1]
    (root / "train" / "images" / "c.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"c\.jpg.*zero bytes"):
        train[2]


# ---------------------------------------------------------------------------------------------------- all at once


def test_problems_with_single_files_are_collected(tmp_path):
    """Repairing a thousand files, one error message a run."""
    root = build(tmp_path)
    (root / "classes.txt").write_text("soil\nplant\n")
    (root / "train" / "masks" / "b.png").unlink()
    (root / "train" / "images" / "c.jpg").unlink()
    write(root / "train" / "images", "d.bmp", halves(1))
    write(root / "train" / "masks", "e.png", halves(7))
    problems = []
    train = Folder(root, "train", problems=problems)
    assert train.names == ["a", "d", "e"]
    assert len(problems) == 3
    for name, words in (("b.jpg", "has no mask"), ("c.png", "has no image"), ("d.jpg", "have the same name")):
        assert sum(name in line and words in line for line in problems) == 1, problems
    with pytest.raises(DataError, match=r"e\.png: label 7"):  # found by whoever reads it, not by reading it twice
        train[2]


def test_problems_of_masks_are_collected_where_they_tell_the_classes(tmp_path):
    """A single damaged mask must not hide the others, nor take part in finding the classes."""
    root = build(tmp_path)
    (root / "train" / "masks" / "b.png").write_bytes(b"")
    (root / "val" / "masks" / "c.png").write_bytes(b"no picture")
    write(root / "train" / "masks", "d.png", halves(200, size=(3, 3)))
    problems = []
    train = Folder(root, "train", problems=problems)
    assert [sample.name for sample in (train[i] for i in range(len(train)))] == ["a", "c", "e"]
    assert train.classes == ("class_0", "class_1")
    assert len(problems) == 3
    for name in ("b.png", "c.png", "d.png"):
        assert sum(name in line for line in problems) == 1, problems


def test_gaps_in_the_numbering_are_collected_too(tmp_path):
    problems = []
    Folder(build(tmp_path, mask=halves(128)), "train", problems=problems)
    assert len(problems) == 1
    assert "so many gaps" in problems[0]


def test_a_folder_in_which_nothing_fits_is_empty(tmp_path):
    """With names like x_mask.png no image has a mask: the list of them all is what helps."""
    write_set(tmp_path / "images", tmp_path / "elsewhere")
    write_set(tmp_path / "others", tmp_path / "masks", stems=[f"{stem}_mask" for stem in STEMS])
    problems = []
    assert len(Folder(tmp_path, "train", problems=problems)) == 0
    assert len(set(problems)) == 10


def test_without_problems_nothing_is_collected(tmp_path):
    problems = []
    assert len(Folder(build(tmp_path), "train", problems=problems)) == 5
    assert problems == []


def test_names_are_those_of_the_samples(tmp_path):
    train = Folder(build(tmp_path), "train")
    assert train.names == [train[i].name for i in range(5)]
