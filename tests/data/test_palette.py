import hashlib

from minifcn.data import voc_palette


def test_palette_is_the_published_table():
    """Bits dealt in another order still give 256 colours, but not VOC's."""
    palette = voc_palette()
    assert palette[[0, 1, 2, 20, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 64, 128], [224, 224, 192]]
    digest = hashlib.sha256(palette.tobytes()).hexdigest()
    assert digest == "ec76f86cfddd0f4c0768796cda862d8f5099af416b298a406db7e84b55136fc9"


def test_palette_can_be_changed_without_changing_the_next_one():
    """A shared table would let one caller recolour everybody's pictures."""
    voc_palette()[0] = 9
    assert voc_palette()[0].tolist() == [0, 0, 0]
