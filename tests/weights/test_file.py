"""Weight files: what goes in comes out, damaged ones are refused by name, and none is ever left half-written."""

import hashlib
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from minifcn import files, weights
from minifcn.errors import WeightsError
from minifcn.weights import Preprocessing
from minifcn.weights.formats import safetensors

ARCHITECTURE = {"name": "fcn8s", "num_classes": 3, "width": 2, "geometry": "same", "dropout": 0.5}
ARRAYS = {
    "0-d": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64": np.array([1e-300, -0.0, np.inf, np.nan]),
    "int64": np.array([2**62, -1]),
    "uint8": np.arange(3, dtype=np.uint8),
    "bool": np.array([True, False]),
    "big-endian": np.array([1.5, 2.5], ">f4"),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    "strided": np.arange(20, dtype=np.float32)[::3],
    "reversed": np.arange(5, dtype=np.float32)[::-1],
    "broadcast": np.broadcast_to(np.float32(7), (2, 2)),
    "axes moved": np.moveaxis(np.arange(24, dtype=np.float32).reshape(2, 3, 4), 0, 1),
    "weight.with.dots/ü": np.ones(1, np.float32),
}


def save(path, tensors=None, **arguments):
    arguments = {"architecture": ARCHITECTURE, "preprocessing": Preprocessing()} | arguments
    weights.save_weights(path, {"a": np.arange(6.0)} if tensors is None else tensors, **arguments)
    return path


def write_raw(path, header, data=b""):
    """A safetensors file from its parts: 8 bytes of length, JSON, data."""
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def test_every_kind_of_array_comes_back_as_it_was(tmp_path):
    """0-d arrays that come back as (1,); arrays that are not contiguous written in memory's order; dtypes converted."""
    loaded = weights.load(save(tmp_path / "a.safetensors", ARRAYS)).tensors
    assert set(loaded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded[name].shape == array.shape, name
        assert loaded[name].dtype == array.dtype.newbyteorder("="), name
        assert_array_equal(loaded[name], array, err_msg=name)


def test_an_array_is_the_same_in_pieces_of_any_size(tmp_path, monkeypatch):
    """Rows larger than a piece cut wrongly, or pieces out of order."""
    for size in (1, 7, 16, 40):
        monkeypatch.setattr(safetensors, "_PIECE", size)
        loaded = load_file(save(tmp_path / f"{size}.safetensors", ARRAYS))
        for name, array in ARRAYS.items():
            assert_array_equal(loaded[name], array, err_msg=f"{name} in pieces of {size} bytes")


def test_other_programs_read_the_same_numbers(tmp_path):
    """A round trip in which two mistakes of ours cancel out."""
    theirs = load_file(save(tmp_path / "a.safetensors", ARRAYS))
    for name, array in ARRAYS.items():
        assert_array_equal(theirs[name], array, err_msg=name)


def test_the_loaded_arrays_are_the_callers_own(tmp_path):
    """Read-only arrays, or ones that keep the file open and change with it."""
    path = save(tmp_path / "a.safetensors")
    array = weights.load(path).tensors["a"]
    save(path, {"a": np.zeros(6)})
    array += 1
    assert_array_equal(array, [1, 2, 3, 4, 5, 6])


def test_the_record_comes_back_too(tmp_path):
    """Class names lost or in another encoding; the default preprocessing instead of the saved one."""
    preprocessing = Preprocessing("BGR", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
    record = {"classes": ["Straße", "木"], "palette": [[0, 0, 0], [128, 0, 0]], "size": [96, None]}
    file = weights.load(save(tmp_path / "ä b.safetensors", preprocessing=preprocessing, record=record))
    assert (file.architecture, file.preprocessing, file.record) == (ARCHITECTURE, preprocessing, record)
    assert weights.load(str(save(tmp_path / "b"))).record == {}


def test_no_tensors_at_all_is_a_file_too(tmp_path):
    """An empty header that the reader mistakes for damage."""
    assert weights.load(save(tmp_path / "a", {})).tensors == {}


def test_a_file_of_another_program_has_tensors_and_only_its_source_for_a_record(tmp_path):
    """KeyError for the record that only our files have; the hash of something else than the file's bytes."""
    save_file({"features.0.weight": np.ones((2, 2), np.float32)}, tmp_path / "a.safetensors", {"format": "pt"})
    file = weights.load(tmp_path / "a.safetensors")
    assert list(file.tensors) == ["features.0.weight"]
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    source = {"name": "a.safetensors", "sha256": digest, "container": "safetensors"}
    assert (file.architecture, file.preprocessing, file.record) == ({}, Preprocessing(), {"source": source})


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_writing_and_reading_take_no_second_copy(tmp_path, layout):
    """A file put together in memory before it is written (twice its size), or read whole and then cut up."""
    array = np.ones((1000, 25_000), np.float32)  # 100 MB, of which no other may be made
    tracemalloc.start()
    try:
        save(tmp_path / "a.safetensors", {"fc6.weight": array if layout == "contiguous" else array.T})
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        weights.load(tmp_path / "a.safetensors")
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert writing < 0.4 * array.nbytes
    assert reading < 1.1 * array.nbytes


def test_a_name_that_stands_twice_is_refused(tmp_path):
    """The last one winning in silence."""
    entry = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    header = b"{" + entry + b"," + entry + b"}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    with pytest.raises(WeightsError, match="a name stands in it twice"):
        weights.load(path)


def refused(path):
    """The message with which a file is refused; anything but a WeightsError that names the file fails."""
    with pytest.raises(WeightsError) as caught:
        weights.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path):
    """A length for which the reader raises something else, or fills the rest with zeros."""
    whole = save(tmp_path / "whole", {"a": np.arange(6.0), "b": np.ones(3, np.float32)}).read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        message = refused(path)
        assert ("damaged or cut off" if length > 8 else "no weight file that minifcn knows") in message
    path.write_bytes(whole + b"\0")  # and one byte too many
    refused(path)
    path.write_bytes(whole)
    assert set(weights.load(path).tensors) == {"a", "b"}


def test_a_damaged_header_is_read_or_refused_but_never_worse(tmp_path):
    """A byte changed in the header or in our record: KeyError, AttributeError, UnicodeDecodeError … from inside.

    (safetensors has no checksum, so a byte changed in the numbers cannot be seen.)"""
    whole = bytearray(save(tmp_path / "whole", record={"classes": ["a", "b"]}).read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    path, outcomes = tmp_path / "damaged.safetensors", {"read": 0, "refused": 0}
    for position in range(header):
        damaged = whole.copy()
        damaged[position] ^= (0x01, 0x10, 0x80)[position % 3]
        path.write_bytes(damaged)
        try:
            weights.load(path)
        except WeightsError as error:
            message = str(error)
        else:
            message = None
        assert message is None or str(path) in message, position
        outcomes["read" if message is None else "refused"] += 1
    assert min(outcomes.values()) > 50, outcomes


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\0" * 100,
        b"\xff" * 100,
        b"# Weights\nThese are not weights at all, but a text.\n" * 10,
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.",  # a pickle
        b"PK\x03\x04" + b"\0" * 60,  # a zip, as torch writes
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xfe",
    ],
)
def test_files_that_are_something_else_are_refused_by_name(tmp_path, content):
    """An exception of the parser's, which knows neither the file nor what was expected of it."""
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    assert "safetensors" in refused(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    """FileNotFoundError, IsADirectoryError."""
    assert "there is no such weight file" in refused(tmp_path / "missing.safetensors")
    assert "is a folder; name the weight file in it" in refused(tmp_path)


def test_numbers_that_numpy_does_not_have_are_refused_by_name(tmp_path):
    """TypeError: data type 'float8' not understood."""
    header = {"score_fr.weight": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
    message = refused(write_raw(tmp_path / "a.safetensors", header, bytes(8)))
    assert "score_fr.weight has the element type F8_E4M3" in message


def test_bfloat16_becomes_float32_exactly(tmp_path):
    """TypeError: data type 'bfloat16' not understood; the wrong half of the bits."""
    bits = struct.pack("<4H", 0x3F80, 0xC040, 0x7F80, 0x0001)  # 1, −3, ∞, the smallest subnormal: 2⁻¹³³
    header = {"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    array = weights.load(write_raw(tmp_path / "a.safetensors", header, bits)).tensors["a"]
    assert array.dtype == np.float32
    assert_array_equal(array, [[1, -3], [np.inf, 2.0**-133]])


@pytest.mark.parametrize(
    "about",
    [
        *("", "{", "nonsense", "[]", "3", "null", '"text"', "[" * 100_000),
        '{"format": 1, "architecture": 5}',
        '{"format": 1, "architecture": null}',
        '{"format": 1, "preprocessing": null}',
        '{"format": 1, "preprocessing": {"scale": 1' + "0" * 400 + "}}",
        '{"format": 1, "preprocessing": {"std": [0, 0, 0]}}',
        '{"format": 1, "preprocessing": {"gamma": 1}}',
        '{"format": 1, "record": []}',
    ],
)
def test_a_record_that_makes_no_sense_is_refused_by_name(tmp_path, about):
    """AttributeError: 'list' object has no attribute 'get' — the file is damaged, and should be called by its name."""
    assert "record" in refused(write_raw(tmp_path / "a.safetensors", {"__metadata__": {"minifcn": about}}))


def test_a_file_of_a_newer_format_says_so(tmp_path):
    """Numbers of tomorrow read in today's way."""
    path = write_raw(tmp_path / "a.safetensors", {"__metadata__": {"minifcn": '{"format": 2}'}})
    assert "has format 2, this version reads format 1; update minifcn" in refused(path)


@pytest.mark.parametrize("point", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, point, interruption):
    """A file opened for writing in place; a temporary file left behind when the disk is full or Ctrl-C comes."""
    path = save(tmp_path / "model.safetensors", {"old": np.ones(3)})
    old = path.read_bytes()

    def interrupted(*_, **__):
        raise interruption

    if point == "write":

        class FullDisk:
            def __init__(self, *arguments):
                self.file = open(*arguments)  # noqa: SIM115 (closed below)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, content):
                self.file.write(content[:10])
                interrupted()

        monkeypatch.setattr(files, "open", FullDisk, raising=False)
    elif point == "open":
        monkeypatch.setattr(files, "open", interrupted, raising=False)
    else:
        monkeypatch.setattr(os, point, interrupted)
    with pytest.raises(type(interruption)):
        save(path, {"new": np.zeros(1000)})
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model.safetensors"]
    save(path, {"new": np.zeros(1000)})
    assert list(weights.load(path).tensors) == ["new"]
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_the_disk_has_the_new_file_before_the_old_one_goes(tmp_path, monkeypatch):
    """rename before fsync: after a power cut the name may stand for an empty file; and no fsync of the folder after."""
    calls = []
    for name in ("fsync", "replace"):
        genuine = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, genuine=genuine: calls.append(name) or genuine(*a))
    save(tmp_path / "model.safetensors")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_run_s_checkpoint_is_told_from_a_network(tmp_path):
    """Tensors called model.conv1_1.weight, in which nobody recognises a network."""
    save_file({"model.a": np.ones(2, np.float32)}, tmp_path / "checkpoint.safetensors", {"minifcn-checkpoint": "{}"})
    assert "model.safetensors beside it" in refused(tmp_path / "checkpoint.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    """open() of a named pipe waits for a writer, for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_what_is_no_path_is_refused(path):
    """ValueError: embedded null byte; OSError: File name too long."""
    with pytest.raises(WeightsError):
        weights.load(path)


@pytest.mark.parametrize("entry", ["../../evil.npy", "/etc/evil.npy", "..\\evil.npy", "C:evil.npy", "a/../b/data.pkl"])
def test_an_archive_whose_names_lead_out_of_it_is_refused(tmp_path, entry):
    """Names that overwrite other files for whoever unpacks them."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(entry, b"")
    assert "points out of the archive" in refused(tmp_path / "a.npz")


def test_an_archive_whose_names_have_colons_is_read(tmp_path):
    """Chainer's snapshots: updater/model:main/…"""
    np.savez(tmp_path / "a.npz", **{"updater/model:main/conv1_1/W": np.ones(2, np.float32)})
    assert list(weights.load(tmp_path / "a.npz").tensors) == ["updater/model:main/conv1_1/W"]
