"""Keras files: made by h5py in the forms of all Keras versions; damaged ones are refused, no other file is opened."""

import builtins
import tracemalloc
from functools import partial

import numpy as np
import pytest
import readers
from hypothesis import given
from hypothesis import strategies as st
from readers import assert_same_bits

from minifcn.weights.formats import keras

refused, read_or_refused = partial(readers.refused, keras.read), partial(readers.read_or_refused, keras.read)

h5py = pytest.importorskip("h5py")

KERNEL = np.arange(36, dtype=np.float32).reshape(3, 2, 2, 3) + np.float32(0.1)
BIAS = np.array([-0.0, np.inf, 1e-40], np.float32)


def write(path, datasets, **arguments):
    """A file of datasets by name; each is an array."""
    with h5py.File(path, "w", **arguments) as file:
        for name, array in datasets.items():
            file[name] = array
    return path


@pytest.mark.parametrize("library", ["earliest", "latest"])
@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ("block1_conv1/block1_conv1_W_1:0", "block1_conv1/block1_conv1_b_1:0"),  # Keras 1, as the published VGG
        ("block1_conv1/block1_conv1/kernel:0", "block1_conv1/block1_conv1/bias:0"),  # tf.keras
        ("layers/conv2d/vars/0", "layers/conv2d/vars/1"),  # Keras 3
        ("layers/functional/layers/conv2d/vars/0", "ü/ Weights 木"),
    ],
)
def test_weights_are_named_by_their_paths(tmp_path, kernel, bias, library):
    """Only groups of one depth looked into; the layout of convolutions (kh, kw, in, out) exchanged here already."""
    path = write(tmp_path / "a.h5", {kernel: KERNEL, bias: BIAS}, libver=library)
    with h5py.File(path, "a") as file:
        file.create_group("activation_1")  # layers without weights have empty groups
        file.attrs["layer_names"] = [b"block1_conv1", b"activation_1"]
        file[kernel].parent.attrs["weight_names"] = [kernel.encode(), bias.encode()]
    assert_same_bits(keras.read(path), {kernel: KERNEL, bias: BIAS})


def test_the_weights_of_a_whole_model_are_told_from_what_the_optimizer_keeps(tmp_path):
    """`model_weights` left in the names; the optimizer's moments, twice the weights' size, read for nothing."""
    arrays = {"conv/conv/kernel:0": KERNEL, "optimizer_of_pride/w:0": BIAS}
    moments = {"optimizer_weights/Adam/conv/kernel/m:0": KERNEL, "optimizer_weights/Adam/iter:0": np.array(3)}
    whole = {f"model_weights/{name}": array for name, array in arrays.items()}
    assert_same_bits(keras.read(write(tmp_path / "a.h5", whole | moments | {"other": BIAS})), arrays)
    moments = {"optimizer/vars/0": np.array(3), "optimizer/vars/1": KERNEL}  # Keras 3
    assert_same_bits(keras.read(write(tmp_path / "b.weights.h5", arrays | moments)), arrays)


def test_every_kind_of_number_comes_back_bit_for_bit(tmp_path):
    """0-d arrays that become numbers of Python, empty ones that are lost, bytes left swapped."""
    kinds = ("f2", "f4", "f8", ">f4", ">f8", "i1", "u1", ">i2", "u4", "i8", "?", "c8")
    arrays = {kind: np.array([0, 1, 2, 3]).astype(kind) for kind in kinds}
    arrays |= {"0-d": np.array(3.5, np.float32), "big 0-d": np.array(3, ">i4"), "empty": np.zeros((0, 3), np.float32)}
    assert_same_bits(keras.read(write(tmp_path / "a.h5", arrays)), arrays)


def test_bfloat16_becomes_float32(tmp_path):
    """A type that NumPy lacks: TypeError, or its bits read as those of a float16."""
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)  # where sign, exponent and mantissa begin, and the sizes of the last two
    bfloat16.set_size(2)
    values = np.array([1.0, -2.5, 3e38], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = h5py.h5d.create(file.id, b"a", bfloat16, h5py.h5s.create_simple((3,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=bfloat16)
    assert_same_bits(keras.read(tmp_path / "a.h5"), {"a": (bits.astype(np.uint32) << 16).view(np.float32)})


@pytest.mark.parametrize("kind", ["time", "float32 of other exponents"])
def test_numbers_that_numpy_does_not_have_are_refused(tmp_path, kind):
    """TypeError, ValueError: h5py finds no dtype for them."""
    kinds = {"time": h5py.h5t.UNIX_D32LE, "float32 of other exponents": h5py.h5t.IEEE_F32LE.copy()}
    if kind != "time":
        kinds[kind].set_ebias(2**20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"a", kinds[kind], h5py.h5s.create_simple((3,)))
    assert "cannot be read as an HDF5 file" in refused(tmp_path / "a.h5")


def test_names_that_are_no_text_are_refused(tmp_path):
    """h5py gives them as bytes, which fit no names of layers: TypeError, or a dictionary of two kinds of keys."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[b"conv/\xff"] = BIAS
    assert "not UTF-8" in refused(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (2, 2, 1, 3)},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"chunks": (3, 2, 2, 3), "maxshape": (None, 2, 2, 3)},
    ],
)
def test_chunks_and_compression_are_refused_by_name(tmp_path, storage):
    """HDF5 decompresses damaged chunks: a segmentation fault, which ends the program."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("conv/kernel", data=KERNEL, **storage)
    assert "'conv/kernel' is compressed, in chunks" in refused(tmp_path / "a.h5")


def test_what_is_no_array_of_numbers_is_left_out(tmp_path):
    """Texts beside the weights (versions, configurations) that make the file unreadable, or references followed."""
    with h5py.File(write(tmp_path / "a.h5", {"w": BIAS}), "a") as file:
        file["text"] = "version"
        file["texts"] = np.array([b"a", b"b"])
        file["compound"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["subarrays"] = np.zeros(2, [("a", "f4", (3,))])
        file["nothing"] = h5py.Empty("f4")
        file["type"] = np.dtype("f4")
        file["opaque"] = np.void(b"ab")
        file.create_dataset("reference", data=file["w"].ref)
        file.create_dataset("region", data=file["w"].regionref[:2], dtype=h5py.regionref_dtype)
        file.create_dataset("lists", (2,), dtype=h5py.vlen_dtype("f4"))
    assert_same_bits(keras.read(tmp_path / "a.h5"), {"w": BIAS})


def test_groups_within_themselves_do_not_hang(tmp_path):
    """A walk that has no end, since a group is its own member."""
    with h5py.File(write(tmp_path / "a.h5", {"conv/w": BIAS}), "a") as file:
        file["conv/self"] = file["conv"]
        file["conv/top"] = file["/"]
    assert_same_bits(keras.read(tmp_path / "a.h5"), {"conv/w": BIAS})


def test_groups_that_are_very_deep_are_refused(tmp_path):
    """HDF5's own walk calls itself for every level: the process dies."""
    with h5py.File(write(tmp_path / "a.h5", {"conv/w": BIAS}), "a") as file:
        group = file
        for _ in range(300):
            group = group.create_group("a")
    assert "more than 16 deep" in refused(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["linked", "model_weights", "conv/deep/linked"])
@pytest.mark.parametrize("kind", ["soft", "dangling", "external"])
def test_links_to_other_places_are_refused_by_name(tmp_path, kind, name):
    """A file that makes its reader open other files."""
    write(tmp_path / "other.h5", {"secret": BIAS, "conv/w": BIAS})
    links = {
        "soft": h5py.SoftLink("/conv/w"),
        "dangling": h5py.SoftLink("/nowhere"),
        "external": h5py.ExternalLink("other.h5", "/"),
    }
    with h5py.File(write(tmp_path / "a.h5", {"conv/w": BIAS}), "a") as file:
        file[name] = links[kind]
    assert f"{name!r} is a link to another place" in refused(tmp_path / "a.h5")


def test_numbers_kept_in_other_files_are_refused_by_name(tmp_path):
    """A password file, say, read as if it were weights."""
    (tmp_path / "numbers").write_bytes(bytes(100))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (3,), "f4", external=[(str(tmp_path / "numbers"), 0, 12)])
    assert "'w' is compressed, in chunks or in another file" in refused(tmp_path / "a.h5")
    write(tmp_path / "other.h5", {"secret": BIAS})
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "secret", shape=(3,))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("w", layout)
    assert "'w' is compressed, in chunks or in another file" in refused(tmp_path / "b.h5")


@pytest.mark.parametrize(("size", "reason"), [(100, "the numbers of 'w' are missing"), (2**45, "claims to hold")])
def test_numbers_that_were_never_written_are_missed(tmp_path, size, reason):
    """HDF5 fills what is not in the file: a network of zeros, and nobody is told; and memory without end."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (size,), "f4")
    assert reason in refused(tmp_path / "a.h5")


def test_reading_takes_the_memory_of_the_arrays_alone(tmp_path):
    """Arrays copied once more, or all held twice."""
    array = np.ones(2**20, np.float32)
    write(tmp_path / "a.h5", {"a": array, "b": array, "big-endian": array.astype(">f4")})
    tracemalloc.start()
    arrays = keras.read(tmp_path / "a.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * sum(one.nbytes for one in arrays.values())


def test_the_file_is_closed_and_its_arrays_stay(tmp_path):
    """Arrays that are read later, or change with the file."""
    path = write(tmp_path / "a.h5", {"w": BIAS})
    arrays = keras.read(path)
    write(path, {"w": np.zeros(3)})
    assert_same_bits(arrays, {"w": BIAS})


def test_without_h5py_the_remedy_is_named(tmp_path, monkeypatch):
    """ModuleNotFoundError, from an extra that was not installed."""
    genuine = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "h5py":
            raise ImportError(name)
        return genuine(name, *arguments, **keywords)

    path = write(tmp_path / "a.h5", {"w": BIAS})
    monkeypatch.setattr(builtins, "__import__", without)
    assert 'pip install "minifcn[weights]"' in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(600), b"<html>", b"PK\3\4"]
)
def test_files_that_are_something_else_are_refused_by_name(tmp_path, content):
    """OSError, which says nothing of what was expected."""
    assert read_or_refused(tmp_path / "other.h5", content) is None
    assert "cannot be read as an HDF5 file" in refused(tmp_path / "other.h5")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    """FileNotFoundError, IsADirectoryError."""
    refused(tmp_path / "missing.h5")
    refused(tmp_path)


SMALL = {"conv/kernel:0": KERNEL, "conv/bias:0": BIAS}


@pytest.mark.parametrize("library", ["earliest", "latest"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, library):
    """Numbers made up for the missing ones."""
    whole = write(tmp_path / "whole.h5", SMALL, libver=library).read_bytes()
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        assert read_or_refused(tmp_path / "cut.h5", whole[:length]) is None


def test_a_changed_byte_is_read_or_refused_but_never_worse(tmp_path):
    """RuntimeError, KeyError, ValueError … from inside. (Most bytes of an HDF5 file have no checksum.)"""
    whole = write(tmp_path / "whole.h5", SMALL).read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for position in np.flatnonzero(np.frombuffer(whole, np.uint8)):
        damaged = bytearray(whole)
        damaged[position] ^= (0x01, 0x10, 0x80)[position % 3]
        outcomes["read" if read_or_refused(tmp_path / "a.h5", damaged) else "refused"] += 1
    assert min(outcomes.values()) > 50, outcomes


@given(st.sampled_from(["earliest", "latest"]), st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=4))
def test_flipped_bits_are_read_or_refused_but_never_worse(tmp_path_factory, library, flips):
    """Arrays of something else than numbers; names with line breaks in a message."""
    folder = tmp_path_factory.getbasetemp()
    if not (folder / library).exists():
        write(folder / library, SMALL, libver=library)
    damaged = bytearray((folder / library).read_bytes())
    for position, bit in flips:
        damaged[position % len(damaged)] ^= 1 << bit
    arrays = read_or_refused(folder / "flipped.h5", damaged)
    if arrays is None:
        assert flips
    else:
        assert all(type(array) is np.ndarray and array.dtype.kind in "biufc" for array in arrays.values())
