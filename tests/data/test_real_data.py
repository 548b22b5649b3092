"""The readers on genuine data; skipped where there are none."""

import numpy as np
import pytest

from minifcn.data import VOC2012, Folder, image_size, open_dataset


@pytest.mark.parametrize(
    ("name", "counts", "num_classes", "size"),
    [("camvid", (367, 101), 11, (360, 480)), ("nuclei", (209, 42), 2, (256, 256))],
)
def test_folders(shared_data, name, counts, num_classes, size):
    for split, count in zip(("train", "val"), counts, strict=True):
        dataset = Folder(shared_data / name, split)
        assert len(dataset) == count
        assert len(dataset.classes) == num_classes
        sample = dataset[count // 2]
        assert sample.image.shape == (*size, 3)
        assert sample.labels.shape == size
        assert set(np.unique(sample.labels)) <= {*range(num_classes), 255}


def test_class_shares_of_camvid(shared_data):
    """The shares that the data's own description states: a shifted label or a lost void shows here."""
    dataset = Folder(shared_data / "camvid", "train")
    counts = np.zeros(256)
    for index in range(len(dataset)):
        counts += np.bincount(dataset[index].labels.ravel(), minlength=256)
    published = [0.1754, 0.2421, 0.0102, 0.3296, 0.0467, 0.1012, 0.0122, 0.0117, 0.0611, 0.0067, 0.0030]
    np.testing.assert_allclose(counts[:11] / counts[:11].sum(), published, rtol=0, atol=5e-5)  # given to 4 digits


def test_voc(shared_data):
    dataset = open_dataset(f"voc:{shared_data / 'voc'}", "trainval")
    assert len(dataset) == 24
    assert len(VOC2012(shared_data / "voc", "val")) == 8
    for index in range(0, 24, 5):
        sample = dataset[index]
        assert sample.labels.shape == sample.image.shape[:2]
        assert {0, 255} < set(np.unique(sample.labels))
        assert image_size(dataset.root / "JPEGImages" / f"{sample.name}.jpg") == sample.labels.shape
