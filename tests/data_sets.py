"""Small data sets in the layouts of published ones: pictures of 4 × 6 pixels whose labels differ from name to name."""

import tarfile

import numpy as np
import scipy.io
from PIL import Image

from minifcn.data import voc_palette

SHAPE = (4, 6)


def labels_of(name, classes=21, source=0):
    """Labels by which a picture can be told: its number, and another label beside for each source; void at the rim."""
    labels = np.full(SHAPE, int(name[-5:]) % classes, np.uint8)
    labels[:, 0] = source
    labels[0] = 255
    return labels


def save_image(path, size=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), "gray").save(path)


def save_mask(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette(voc_palette().tobytes())
    mask.save(path)


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def make_voc(root, **lists):
    """root/VOCdevkit/VOC2012 with a list for each argument, and the images in them. Returns VOC2012."""
    tree = root / "VOCdevkit" / "VOC2012"
    (tree / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in lists.items():
        write_list(tree / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for name in names:
            save_image(tree / "JPEGImages" / f"{name}.jpg")
            save_mask(tree / "SegmentationClass" / f"{name}.png", labels_of(name, source=1))
    return tree


def make_sbd(root, **lists):
    """root/benchmark_RELEASE/dataset with a list for each argument, and the images in them. Returns the folder."""
    tree = root / "benchmark_RELEASE" / "dataset"
    for folder in ("img", "cls"):
        (tree / folder).mkdir(parents=True)
    for split, names in lists.items():
        write_list(tree / f"{split}.txt", names)
        for name in names:
            save_image(tree / "img" / f"{name}.jpg")
            save_matlab_mask(tree / "cls" / f"{name}.mat", labels_of(name, source=2) % 255)
    return tree


def save_matlab_mask(path, labels, **options):
    """As SBD's: GTcls.Segmentation among other fields."""
    fields = {"Boundaries": np.zeros((20, 1), object), "Segmentation": labels, "CategoriesPresent": np.array([[3, 7]])}
    structure = np.zeros((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        structure[name][0, 0] = value
    scipy.io.savemat(path, {"note": "before", "GTcls": structure}, **{"do_compression": True} | options)


def make_camvid(root, with_lists=True, **splits):
    """root/CamVid as in the SegNet tutorial; the labels are 0 to 11. Returns the folder CamVid."""
    tree = root / "CamVid"
    for split, names in splits.items():
        for name in names:
            save_image(tree / split / f"{name}.png")
            labels = np.minimum(labels_of(name, classes=11), 11)  # 11 where others have 255
            folder = tree / f"{split}annot"
            folder.mkdir(exist_ok=True)
            Image.fromarray(labels).save(folder / f"{name}.png")
        if with_lists:
            lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png" for name in names]
            write_list(tree / f"{split}.txt", lines)
    return tree


def pack(tar, folder, name="", mode="w", **options):
    """A tar of a folder, whose files are in it under `name`."""
    with tarfile.open(tar, mode, **options) as archive:
        archive.add(folder, name or folder.name)
    return tar
