import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from data_sets import SHAPE, labels_of, make_voc, pack, save_image, write_list
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.data import VOC2012, archive
from minifcn.errors import DataError

TAR = "VOCtrainval_11-May-2012.tar"
A, B, C = "2007_000001", "2007_000002", "2007_000003"


@pytest.fixture
def tree(tmp_path):
    """A VOCdevkit of two images."""
    return make_voc(tmp_path, train=[B, A])


def everything(dataset):
    samples = [dataset[index] for index in range(len(dataset))]
    return [(sample.name, sample.image.tobytes(), sample.labels.tobytes()) for sample in samples]


def test_the_root_may_be_any_of_three_folders(tree):
    for root in (tree, tree.parent, tree.parent.parent):
        dataset = VOC2012(root, "train")
        assert dataset.name == f"voc:{root}"
        assert dataset.names == [dataset[i].name for i in range(len(dataset))] == [B, A]
        assert dataset.note == ""


def test_samples_hold_labels_not_colours(tree):
    sample = VOC2012(tree, "train")[0]
    assert_array_equal(sample.labels, labels_of(B, source=1))
    assert sample.image.shape == (*SHAPE, 3)
    assert sample.image.dtype == sample.labels.dtype == np.uint8


def test_a_mask_in_colour_gets_advice_that_helps(tree):
    """The advice for folders, a classes.txt, does nothing here: VOC's classes are fixed."""
    path = tree / "SegmentationClass" / f"{B}.png"
    with Image.open(path) as mask:
        mask.convert("RGB").save(path)
    with pytest.raises(DataError, match=r"in colour, but .* hold class numbers. Save it as a palette") as caught:
        VOC2012(tree, "train")[0]
    assert "classes.txt" not in str(caught.value)


def test_twenty_classes_and_background():
    assert len(VOC2012.classes) == 21
    assert (VOC2012.classes[0], VOC2012.classes[15], VOC2012.classes[20]) == ("background", "person", "tvmonitor")


def test_what_is_missing_is_named(tree, tmp_path):
    with pytest.raises(DataError, match=r"no VOC2012 here: looked for ImageSets/Segmentation.*--download"):
        VOC2012(tmp_path / "gone", "train")
    with pytest.raises(DataError, match=r"no list of images called 'val'. Lists found: train"):
        VOC2012(tree, "val")
    (tree / "SegmentationClass" / f"{A}.png").unlink()
    with pytest.raises(DataError, match=rf"{A}\.png: missing.*1 files of 4"):
        VOC2012(tree, "train")


def test_what_is_missing_is_collected_if_asked_for(tree):
    """A check of a data set that ends at the first missing file; an image kept whose mask is gone."""
    (tree / "SegmentationClass" / f"{A}.png").unlink()
    problems = ["before"]
    dataset = VOC2012(tree, "train", problems=problems)
    assert dataset.names == [B]
    assert dataset[0].name == B
    assert len(problems) == 2
    assert f"{A}.png: missing" in problems[1]
    assert "\n" not in problems[1]


@pytest.mark.parametrize("content", ["../../secret\n", "a.jpg\n", "/etc/passwd", "", "\n", "a\x00b"])
def test_lists_of_anything_but_names_are_refused(tree, content):
    """`../` in a list reads files outside the data set."""
    (tree / "ImageSets" / "Segmentation" / "odd.txt").write_text(content)
    with pytest.raises(DataError, match=r"odd\.txt"):
        VOC2012(tree, "odd")


def test_lists_outside_their_folder_are_refused(tree):
    with pytest.raises(DataError, match="no list of images"):
        VOC2012(tree, "../Segmentation/train")


def test_any_list_is_a_split(tree):
    """--split seg11valid; a list that a user adds."""
    write_list(tree / "ImageSets" / "Segmentation" / "mine.txt", [A])
    assert VOC2012(tree, "mine").names == [A]


def test_images_of_the_other_split_are_left_out(tree):
    """Training on trainval and validating on val, which is in it."""
    make_more(tree, "val", [A, C])
    make_more(tree, "trainval", [A, B, C])
    dataset = VOC2012(tree, "trainval", without="val")
    assert dataset.names == [B]
    assert dataset.note == "2 of the 3 images of trainval are in val too and are left out."
    with pytest.raises(DataError, match="every image is in trainval too"):
        VOC2012(tree, "val", without="trainval")


def make_more(tree, split, names):
    write_list(tree / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    for name in names:
        save_image(tree / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(labels_of(name)).save(tree / "SegmentationClass" / f"{name}.png")


def test_splits_are_the_published_lists(tree):
    """A user's own part of train, compared with train as if no image might be in both."""
    assert VOC2012.splits(tree) == ("train",)
    for name in ("seg11valid", "trainval", "mine", "val"):
        write_list(tree / "ImageSets" / "Segmentation" / f"{name}.txt", [A])
    assert VOC2012.splits(tree) == ("train", "val", "trainval")


def test_sizes_and_labels_are_checked_when_read(tree):
    dataset = VOC2012(tree, "train")
    Image.fromarray(np.full(SHAPE, 21, dtype=np.uint8)).save(tree / "SegmentationClass" / f"{B}.png")
    with pytest.raises(DataError, match=rf"{B}\.png: label 21 in 24 pixels, but the data set has 21 classes"):
        dataset[0]
    Image.fromarray(np.zeros(SHAPE[::-1], dtype=np.uint8)).save(tree / "SegmentationClass" / f"{B}.png")
    with pytest.raises(DataError, match=rf"{B}\.jpg is 4 × 6 pixels .*{B}\.png is 6 × 4"):
        dataset[0]


# The tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("beginning", ["VOCdevkit", "./VOCdevkit", "deep/VOCdevkit"])
def test_the_tar_gives_what_the_tree_gives(tree, tmp_path, form, beginning):
    """Offsets that are off by a header; a name with ./ before it, as some write them."""
    tar = tmp_path / "packed" / TAR
    tar.parent.mkdir()
    pack(tar, tree.parent, beginning, format=form)
    expected = everything(VOC2012(tree, "train"))
    for root in (tar, tar.parent):
        dataset = VOC2012(root, "train")
        assert dataset.name == f"voc:{root}"
        assert everything(dataset) == expected
    assert VOC2012.splits(tar) == ("train",)


@pytest.fixture
def packed(tree, tmp_path):
    """The tar of the tree, alone in a folder."""
    (tmp_path / "packed").mkdir()
    return pack(tmp_path / "packed" / TAR, tree.parent)


def test_a_list_beside_the_tar_is_found(packed):
    """seg11valid is not in the tar, and nothing can be put into it."""
    write_list(packed.parent / "seg11valid.txt", [A])
    assert VOC2012(packed, "seg11valid").names == [A]


def test_nothing_is_unpacked(packed):
    everything(VOC2012(packed, "train"))
    assert list(packed.parent.iterdir()) == [packed]


def test_the_tar_is_indexed_once(packed, monkeypatch):
    """Seconds for 40,000 members, at every split that is opened; but another tar of the same name is another."""
    genuine, opened = archive.plain_files, []
    monkeypatch.setattr(archive, "plain_files", lambda *args: opened.append(args) or genuine(*args))
    for _ in range(3):
        VOC2012(packed, "train")
    assert len(opened) == 1
    with tarfile.open(packed, "a") as more:
        more.addfile(tarfile.TarInfo("VOCdevkit/VOC2012/ImageSets/Segmentation/new.txt"))
    with pytest.raises(DataError, match="the list is empty"):
        VOC2012(packed, "new")
    assert len(opened) == 2


def test_threads_read_the_tar_at_once(packed):
    """One position in the file, moved by two readers: the loader reads in threads."""
    dataset = VOC2012(packed, "train")
    expected = [dataset[i % 2].labels.tobytes() for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert [sample.labels.tobytes() for sample in pool.map(lambda i: dataset[i % 2], range(64))] == expected


def test_what_is_missing_in_the_tar_is_named(tree, tmp_path):
    (tree / "JPEGImages" / f"{A}.jpg").unlink()
    tar = pack(tmp_path / "x.tar", tree.parent)
    with pytest.raises(DataError, match=rf"x\.tar/VOCdevkit/VOC2012/JPEGImages/{A}\.jpg: missing"):
        VOC2012(tar, "train")
    problems = []
    assert VOC2012(tar, "train", problems=problems).names == [B]
    assert len(problems) == 1


def test_a_damaged_picture_in_the_tar_is_named(tree, tmp_path):
    (tree / "JPEGImages" / f"{A}.jpg").write_bytes(b"")
    (tree / "SegmentationClass" / f"{B}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    dataset = VOC2012(pack(tmp_path / "x.tar", tree.parent), "train")
    with pytest.raises(DataError, match=rf"x\.tar/VOCdevkit/VOC2012/JPEGImages/{A}\.jpg: .*is empty"):
        dataset[1]
    with pytest.raises(DataError, match=rf"x\.tar/VOCdevkit/VOC2012/SegmentationClass/{B}\.png"):
        dataset[0]


def test_a_tar_cut_anywhere_is_damaged(packed):
    """A copy that was interrupted: tarfile takes a cut between two members for the end."""
    whole = packed.read_bytes()
    end = max(position for position in range(0, len(whole), 512) if any(whole[position : position + 512])) + 512
    for length in [0, 1, 511, 512, 513, *range(1024, end, 1024), end - 512, end]:
        packed.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{TAR}: this tar is damaged or cut off"):
            VOC2012(packed, "train")


def test_a_tar_that_is_cut_later_is_noticed(packed):
    """An index that was made before, and a picture that ends in the middle."""
    dataset = VOC2012(packed, "train")
    packed.write_bytes(packed.read_bytes()[:1500])
    with pytest.raises(DataError, match=rf"{TAR}: this tar is damaged or cut off"):
        dataset[0]
    packed.unlink()
    with pytest.raises(DataError, match=rf"{TAR}: cannot be read"):
        dataset[0]


def test_damaged_headers_are_noticed(packed):
    """tarfile takes a header whose checksum is wrong for the end, and the rest of the images are "missing"."""
    whole = bytearray(packed.read_bytes())
    headers = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"]
    for header in headers:
        damaged = whole.copy()
        damaged[header + 5] ^= 1
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=TAR):
            VOC2012(packed, "train")


def header(name="VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", size=0, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type = abs(size), kind
    for field, value in fields.items():
        setattr(info, field, value)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        block[124:136] = b"\xff" * 4 + struct.pack(">q", size)  # base 256, two's complement
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(block)


HOSTILE = {
    "a size beyond the end": header(size=10**12),
    "a negative size": header(size=-1024) * 3,
    "a size that leads back to its own header": header() + header(size=-512) * 2,
    "a name of a gigabyte": header("long", 2**30, tarfile.GNUTYPE_LONGNAME),
    "a header of negative length": header("x", -512, tarfile.XHDTYPE) * 2,
    "a name of a negative length": header("x", -1, tarfile.GNUTYPE_LONGNAME) * 2,
    "headers of headers": header("x", 0, tarfile.XHDTYPE) * 5000,
    "a pax header that is none": header("x", 100, tarfile.XHDTYPE) + b"9" * 512,
    "a pax size that is none": header("x", 20, tarfile.XHDTYPE) + b"20 size=-9999999999\n".ljust(512, b"\0") + header(),
    "text": b"no tar at all" * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused(tmp_path, name):
    """A reader that hangs, fills the memory, or ends in an error of a library."""
    tar = tmp_path / TAR
    tar.write_bytes(HOSTILE[name] + (bytes(1024) if HOSTILE[name] else b""))
    with pytest.raises(DataError, match=TAR):
        VOC2012(tar, "train")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a negative size", "its members do not follow one another"),
        ("a size that leads back to its own header", "its members do not follow one another"),
        ("a name of a gigabyte", f"a header of {2**30} bytes"),
    ],
)
def test_hostile_tars_are_refused_at_once(tmp_path, name, reason):
    """A circle that is left after 200,000 turns; a gigabyte that is read before it turns out to be no name."""
    tar = tmp_path / TAR
    tar.write_bytes(HOSTILE[name] + bytes(1024))
    with pytest.raises(DataError, match=reason):
        VOC2012(tar, "train")


def test_links_and_devices_in_a_tar_are_no_files(tmp_path):
    """A link to /etc/passwd, read as a list."""
    tar, name = tmp_path / TAR, "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("VOCdevkit/VOC2012/ImageSets/Segmentation/other.txt"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with pytest.raises(DataError, match=r"no list of images called 'train'\. Lists found: other"):
        VOC2012(tar, "train")


def test_too_many_members_are_refused(packed, monkeypatch):
    """Gigabytes of empty headers, each of which takes memory."""
    monkeypatch.setattr(archive, "MOST_MEMBERS", 5)
    with pytest.raises(DataError, match="more than 5 members"):
        VOC2012(packed, "train")


def test_a_file_in_the_tar_that_no_image_can_be_is_not_read(packed, monkeypatch):
    dataset = VOC2012(packed, "train")
    monkeypatch.setattr(archive, "_LARGEST_FILE", 10)
    with pytest.raises(DataError, match="bytes are more than an image"):
        dataset[0]


def test_a_compressed_tar_is_refused_with_the_remedy(tree, tmp_path):
    """Every picture would need everything before it to be decompressed."""
    tar = pack(tmp_path / "voc.tar.gz", tree.parent, mode="w:gz")
    with pytest.raises(DataError, match=r"voc\.tar\.gz: is compressed.*Unpack it first"):
        VOC2012(tar, "train")


def test_another_tar_is_named(tmp_path):
    save_image(tmp_path / "pictures" / "a.jpg")
    with pytest.raises(DataError, match=r"x\.tar: this tar holds no folder ImageSets/Segmentation"):
        VOC2012(pack(tmp_path / "x.tar", tmp_path / "pictures"), "train")


def test_of_several_years_the_latest_is_taken(tree, tmp_path):
    older = tree.with_name("VOC2007")
    write_list(older / "ImageSets" / "Segmentation" / "old.txt", [A])
    assert VOC2012(pack(tmp_path / "x.tar", tree.parent), "train").names == [B, A]


def test_random_damage_ends_in_a_dataerror_or_in_pictures(packed):
    """An exception of tarfile's that was not thought of."""
    whole, rng = packed.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[512 * int(rng.integers(len(whole) // 512)) + int(rng.integers(512))] = int(rng.integers(256))
        packed.write_bytes(damaged)
        try:
            everything(VOC2012(packed, "train"))
        except DataError as error:
            assert TAR in str(error)  # noqa: PT017


def test_a_list_that_is_no_text_is_refused(tree, monkeypatch):
    path = tree / "ImageSets" / "Segmentation" / "odd.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"odd\.txt: this list is not a text file"):
        VOC2012(tree, "odd")
    monkeypatch.setattr(archive, "_LARGEST_LIST", 10)
    with pytest.raises(DataError, match=r"train\.txt: longer than"):
        VOC2012(tree, "train")


def test_a_byte_order_mark_is_no_part_of_a_name(tree):
    (tree / "ImageSets" / "Segmentation" / "odd.txt").write_bytes(b"\xef\xbb\xbf" + A.encode() + b"\r\n")
    assert VOC2012(tree, "odd").names == [A]


def test_real_pictures_from_a_tar(shared_data, tmp_path):
    """JPEG and PNG files as they are published, read by position."""
    devkit = shared_data / "voc" / "VOCdevkit"
    tar = pack(tmp_path / TAR, devkit)
    expected = everything(VOC2012(devkit, "val"))
    assert len(expected) == 8
    assert everything(VOC2012(tar, "val")) == expected
