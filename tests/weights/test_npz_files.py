"""npz files: NumPy's own come back as they were; damaged and dishonest ones are refused by name, none is unpickled."""

import io
import struct
import tracemalloc
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
import readers
from hypothesis import given
from hypothesis import strategies as st
from readers import assert_same_bits

from minifcn.weights.formats import npz

refused, read_or_refused = partial(readers.refused, npz.read), partial(readers.read_or_refused, npz.read)

ARRAYS = {
    "conv1_1/W": np.array([[[[1.5, -0.0]], [[np.inf, 1e-40]], [[3, 4]]]], np.float32),
    "conv1_1/b": np.array([0.1], np.float32),
    "updater/model:main/predictor/fc6/W": np.arange(6, dtype=np.float64).reshape(2, 3),
    "updater/iteration": np.array(100_000),
    "0-d": np.array(3.5, np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "no name's array": np.zeros((2, 0), np.uint8),
    "ü.npy": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "strided": np.arange(20, dtype=np.int16)[::3],
    "big-endian": np.array([[1.5, 2.5, -3]], ">f4"),
    "big-endian fortran": np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
    "big-endian 0-d": np.array(7, ">u2"),
    "complex": np.array([1 + 2j, -1j], np.complex64),
}


def npy(array=None, *, header=None, version=(1, 0), data=b""):
    """The bytes of an .npy: NumPy's own, or with a header of one's choice."""
    if header is None:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
        return file.getvalue()
    text = header.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def header(descr="'<f4'", shape="(2,)", fortran_order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n"


def archive(path, *entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def patch(path, offset, layout, *values, record=b"PK\1\2"):
    """Overwrite fields of a record of the zip archive; here, of its directory's first entry."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, content.index(record) + offset, *values)
    path.write_bytes(content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_kind_of_array_comes_back_bit_for_bit(tmp_path, save):
    """Rows and columns of Fortran order exchanged, bytes left swapped, 0-d arrays that become (1,), names cut."""
    save(tmp_path / "a.npz", **ARRAYS)
    assert_same_bits(npz.read(tmp_path / "a.npz"), ARRAYS)
    assert npz.read(tmp_path / "a.npz")["fortran"].flags.f_contiguous


def test_an_array_longer_than_a_piece_is_read_whole(tmp_path):
    """The first piece repeated; the last, shorter one forgotten."""
    array = np.arange(3 * 2**18 + 5, dtype=np.int32)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    assert_same_bits(npz.read(tmp_path / "a.npz"), {"a": array})


def test_an_archive_of_no_arrays_is_a_file_too(tmp_path):
    """An empty archive, which is 22 bytes of zip, taken for damage."""
    np.savez(tmp_path / "a.npz")
    assert npz.read(tmp_path / "a.npz") == {}


def test_headers_of_version_2_and_of_python_2_are_read(tmp_path):
    """Numbers such as 2L, as Python 2 wrote them, refused, or remarked on by NumPy for every array."""
    data = np.array([1, 2], "<f4")
    two = npy(header=header(), version=(2, 0), data=data.tobytes())
    old = npy(header=header(shape="(2L,)"), data=data.tobytes())
    path = archive(tmp_path / "a.npz", ("two.npy", two), ("old.npy", old))
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        assert_same_bits(npz.read(path), {"two": data, "old": data})
    assert not remarks


def test_texts_beside_the_weights_are_left_out(tmp_path):
    """The log of training in a Chainer snapshot, which makes the snapshot unreadable, or is taken for weights."""
    np.savez_compressed(tmp_path / "a.npz", _log=np.array('[{"loss": 1.0}]'), W=np.ones(2), names=np.array([b"a"]))
    assert_same_bits(npz.read(tmp_path / "a.npz"), {"W": np.ones(2)})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reading_takes_the_memory_of_the_arrays_alone(tmp_path, save):
    """An array unpacked as bytes first and copied then: twice the memory."""
    array = np.ones(2**21)  # 16 MiB
    save(tmp_path / "a.npz", a=array, b=array)
    tracemalloc.start()
    arrays = npz.read(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * sum(one.nbytes for one in arrays.values())


class Bomb:
    """What a pickle can do: here, only raise."""

    def __reduce__(self):
        return exec, ("raise AssertionError('unpickled')",)


@pytest.mark.parametrize("value", [None, Bomb(), {"a": 1}])
def test_python_objects_are_refused_by_name_and_never_unpickled(tmp_path, value):
    """allow_pickle=True: a program in the file runs. (Chainer writes None for a parameter without a shape.)"""
    np.savez(tmp_path / "a.npz", **{"conv/W": np.ones(1), "conv/b": np.array(value, object)})
    assert "'conv/b' holds Python objects" in refused(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("reason", "content"),
    [
        ("not one of single numbers", npy(np.zeros(2, [("a", "<f4"), ("b", "<i4")]))),
        ("not one of single numbers", npy(header=header("'|V2'"), data=b"....")),  # bfloat16 of ml_dtypes
        ("holds Python objects", npy(header=header("[('a', '|O')]"))),
        ("not as many bytes", npy(header=header(), data=b"." * 7)),
        ("not as many bytes", npy(header=header(), data=b"." * 9)),
        ("not as many bytes", npy(header=header(), data=b"")),
        ("not as many bytes", npy(header=header(shape="(-2,)"), data=b"")),
        ("not as many bytes", npy(header=header(shape="(-1, -2)"), data=b"." * 8)),
        ("not as many bytes", npy(header=header(shape=f"({2**62}, 4)"), data=b"")),
        ("not as many bytes", npy(header=header(shape=f"({2**40},)"), data=b"")),
        ("", npy(header=header(shape=f"(0, {2**62}, {2**62})"))),
        ("", npy(header=header(shape=f"(0, {10**30})"))),
        ("", npy(header=header(shape="(" + "1, " * 70 + ")"), data=b"....")),
        ("no array that NumPy wrote", npy(header=header("'<f99'"))),
        ("no array that NumPy wrote", npy(header=header("()"))),
        ("no array that NumPy wrote", npy(header=header("5"))),
        ("no array that NumPy wrote", npy(header=header("('<f4', -1)"))),
        ("no array that NumPy wrote", npy(header=header("[('a',)]"))),
        ("no array that NumPy wrote", npy(header=header(shape="2"))),
        ("no array that NumPy wrote", npy(header=header(shape="(1.5,)"))),
        ("no array that NumPy wrote", npy(header=header(fortran_order="1"))),
        ("no array that NumPy wrote", npy(header="{1: 2, 'a': 3}")),
        ("no array that NumPy wrote", npy(header="{[]: 2}")),
        ("no array that NumPy wrote", npy(header="[" * 9_000)),
        ("no array that NumPy wrote", npy(header="-" * 9_000 + "1")),
        ("no array that NumPy wrote", npy(header="1" + "+1" * 4_000)),
        ("no array that NumPy wrote", npy(header="1" * 9_000)),
        ("no array that NumPy wrote", npy(header="(\n  '''")),
        ("no array that NumPy wrote", npy(header="  a\n b\n")),
        ("no array that NumPy wrote", npy(header="\0")),
        ("no array that NumPy wrote", npy(header="__import__('os').abort()")),
        ("no array that NumPy wrote", npy(header=header() + " " * 20_000)),  # more than NumPy lets Python parse
        ("version (3, 0)", npy(header=header(), version=(3, 0), data=b"." * 8)),
        ("no array that NumPy wrote", npy(header=header(), version=(9, 9))),
        ("no array that NumPy wrote", b"\x93NUMPY\2\0\xff\xff\xff\xff{"),
        ("no array that NumPy wrote", npy(np.ones(2))[:60]),
        ("no array that NumPy wrote", b"PK\3\4 something else"),
        ("no array that NumPy wrote", b""),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_with_the_reason(tmp_path, reason, content):
    """Memory taken for what a header claims; SyntaxError, RecursionError, IndexError … for what is no header."""
    message = refused(archive(tmp_path / "a.npz", ("conv/W.npy", content)))
    assert reason in message
    assert "conv/W" in message or not reason


def test_entries_that_numpy_would_not_write_are_refused_by_name(tmp_path):
    """NotImplementedError, RuntimeError (a password is needed), and one array instead of two of the same name."""
    good = npy(np.ones(2))
    assert "'data.pkl' is no .npy" in refused(archive(tmp_path / "a", ("a.npy", good), ("data.pkl", b"")))
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(tmp_path / "b", ("a.npy", good), ("a.npy", good))
    assert "'a' stands in it twice" in refused(tmp_path / "b")
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        message = refused(archive(tmp_path / "c", ("a.npy", good), compression=compression))
        assert "packed otherwise than NumPy does" in message
    for flag in (1, 0x20, 0x40):  # encrypted, a patch, strongly encrypted
        patch(archive(tmp_path / "d", ("a.npy", good)), 8, "<H", flag)
        refused(tmp_path / "d")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A thousandfold of the file's size unpacked, since the header says so, truly."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{str(index): np.zeros(2**23, np.uint8) for index in range(9)})  # 72 MiB in 70 kB
    tracemalloc.start()
    assert "claims to hold" in refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("more", [-4, 4])
def test_the_size_in_the_directory_is_the_arrays_size(tmp_path, more):
    """An array without its end, or memory overrun."""
    path = archive(tmp_path / "a.npz", ("a.npy", npy(np.ones(2, np.float32))))
    patch(path, 24, "<I", len(npy(np.ones(2, np.float32))) + more)
    refused(path)


def test_numbers_that_are_not_in_the_archive_are_missed(tmp_path):
    """Directory and header agree, and the checksum fits: an array whose end is whatever was in the memory before."""
    content = npy(header=header(shape="(4,)"), data=b"." * 8)
    path = archive(tmp_path / "a.npz", ("a.npy", content))
    patch(path, 24, "<I", len(content) + 8)
    assert "ends too early" in refused(path)


def test_an_entry_that_goes_on_behind_the_end_of_the_file_is_refused(tmp_path):
    """EOFError."""
    content = npy(header=header(shape="(1000000,)"), data=b"." * 8)
    path = archive(tmp_path / "a.npz", ("a.npy", content), compression=zipfile.ZIP_STORED)
    patch(path, 20, "<II", *[len(content) - 8 + 4_000_000] * 2)
    refused(path)


def test_an_entry_at_a_position_that_no_file_has_is_refused(tmp_path):
    """ValueError: such a number does not fit."""
    path = archive(tmp_path / "a.npz", ("a.npy", npy(np.ones(2))))
    content = path.read_bytes()
    end = content.index(b"PK\5\6")
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)  # zip64: the position in eight bytes
    size = struct.unpack_from("<I", content, end + 12)[0]
    path.write_bytes(content[:end] + extra + content[end:])
    patch(path, 30, "<H", len(extra))
    patch(path, 42, "<I", 2**32 - 1)
    patch(path, 12, "<I", size + len(extra), record=b"PK\5\6")
    refused(path)


def test_a_text_is_left_out_only_if_it_is_whole(tmp_path):
    """Weights whose dtype was damaged to that of a text, and which go unnoticed."""
    path = tmp_path / "a.npz"
    np.savez(path, _log=np.array("a log" * 10_000 + "the end"))
    path.write_bytes(path.read_bytes().replace("the end".encode("utf-32-le"), "The end".encode("utf-32-le")))
    assert "Bad CRC-32" in refused(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4" + bytes(100), b"PK\5\6" + b"\xff" * 18, b"<html>"])
def test_files_that_are_something_else_are_refused_by_name(tmp_path, content):
    """zipfile's exceptions, which do not know the file."""
    assert read_or_refused(tmp_path / "other.npz", content) is None
    assert "cannot be read as an .npz file" in refused(tmp_path / "other.npz")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    """FileNotFoundError, IsADirectoryError."""
    refused(tmp_path / "missing.npz")
    refused(tmp_path)


SMALL = {"conv/W": np.arange(6, dtype=np.float32).reshape(2, 3), "conv/b": np.array(2.5), "_log": np.array("text")}


def small(path, save):
    save(path, **SMALL)
    return path.read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, save):
    """A length at which zipfile raises something else."""
    whole = small(tmp_path / "whole.npz", save)
    for length in range(len(whole)):
        assert read_or_refused(tmp_path / "cut.npz", whole[:length]) is None


@given(
    st.sampled_from([np.savez, np.savez_compressed]),
    st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=4),
)
def test_flipped_bits_leave_the_numbers_as_they_were_or_are_refused(tmp_path_factory, save, flips):
    """An entry not read to its end, where its checksum is compared; struct.error, OverflowError … from inside."""
    folder = tmp_path_factory.getbasetemp()
    damaged = bytearray(small(folder / "flip.npz", save))
    for position, bit in flips:
        damaged[position % len(damaged)] ^= 1 << bit
    arrays = read_or_refused(folder / "flipped.npz", damaged)
    assert arrays is not None or flips
    if arrays is not None:
        # The checksums cover the numbers, but not the list of entries: names, and how many, may be others.
        numbers = [array.tobytes() for array in SMALL.values()]
        assert all(array.tobytes() in numbers for array in arrays.values())
