"""What a configuration is made into."""

import pytest
from tiny_runs import few_pictures, tiny

from minifcn.training import assembly
from minifcn.weights import Preprocessing


@pytest.mark.parametrize(
    ("changes", "size"),
    [({}, (32, 32)), ({"scale": (0.5, 2.0)}, (32, 32)), ({"scale": (0.5, 2.0), "crop": (16, 24)}, (16, 24))],
)
def test_random_scales_come_back_to_the_size_asked_for(monkeypatch, changes, size):
    """Batches of another size each time: four times the pixels at a factor of 2."""
    few_pictures(monkeypatch)
    config = tiny(**changes)
    loader = assembly.segmentation_loader(config, assembly.open_split(config, "train"), Preprocessing())
    batches = list(loader.epoch(0))
    assert {batch.images.shape for batch in batches} == {(2, 3, *size)}
    assert {batch.labels.shape for batch in batches} == {(2, *size)}
