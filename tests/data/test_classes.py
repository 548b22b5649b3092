"""classes.txt as people write it."""

import pytest

from minifcn.data.classes import read_classes
from minifcn.data.palette import voc_palette
from minifcn.errors import DataError


def read(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_classes(path)


def test_names_are_numbered_in_order(tmp_path):
    names, colors = read(tmp_path, "sky\ntraffic light\nroad\n")
    assert names == ("sky", "traffic light", "road")
    assert colors == {}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfsky\r\nroad\r\n", b"# CamVid\n\n  sky \n\n\troad", b"sky\rroad"])
def test_marks_blanks_and_comments_do_not_count(tmp_path, content):
    """A byte order mark in the first name, a carriage return at the end of each, an empty class."""
    assert read(tmp_path, content).names == ("sky", "road")


def test_colours_void_and_palette(tmp_path):
    """void counted as a class would shift all those after it."""
    classes = read(tmp_path, "sky 1 2 3\nvoid 0 0 0\ntraffic light\t4 5  6\n")
    assert classes.names == ("sky", "traffic light")
    assert classes.colors == {(1, 2, 3): 0, (0, 0, 0): 255, (4, 5, 6): 1}
    assert classes.palette()[[0, 1, 255]].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert (classes.palette()[2:255] == voc_palette()[2:255]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\na\n", r"line 3: the class 'a' stands in line 1"),
        ("a 1 2 3\nb 1 2 3\n", r"line 2: the colour \(1, 2, 3\) stands in line 1"),
        ("a 1 2 256\n", r"line 1: the colour .* 0–255"),
        ("a 1 2 3\nb\n", r"line 2 has no colour"),
        ("a\nvoid\n", r"line 2: void is not a class"),
        ("\n# nothing\n", r"no class is named"),
        ("", r"no class is named"),
        ("\n".join(f"c{i}" for i in range(256)), r"more than 255 classes"),
        (b"\xff\xfe\x00", r"UTF-8"),
        (b"x" * 2_000_000, r"longer than a class list"),
    ],
)
def test_lists_that_mean_nothing_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"classes\.txt.*{message}"):
        read(tmp_path, content)


def test_255_classes_and_void_fit(tmp_path):
    """An off-by-one in the limit."""
    lines = [f"c{i} {i} 0 0" for i in range(255)] + ["void 0 0 9"]
    classes = read(tmp_path, "\n".join(lines))
    assert len(classes.names) == 255
    assert classes.colors[0, 0, 9] == 255
    assert classes.colors[254, 0, 0] == 254
