"""Damaged and hostile files, by the thousand. For a million of them, run tests/fuzz.py by hand."""

import contextlib
import os
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("resource", reason="memory and time are limited the POSIX way")

import hostile
from hostile import READERS, Reader, attack, damage, guarded, listing

from minifcn.errors import DataError

KINDS = pytest.mark.parametrize("kind", READERS)
PATIENT = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def attacked(kind, folder, monkeypatch):
    """A function that attacks a reader, and the sound files it is attacked with."""
    (folder / "sound").mkdir()
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")  # where a name without a folder would be written
    reader = READERS[kind]
    return reader, reader.sound(folder / "sound")


@KINDS
def test_damaged_files_are_read_or_refused_and_nothing_else(kind, tmp_path, monkeypatch):
    """KeyError, struct.error, MemoryError … from a file that a disk, a download or an enemy has changed."""
    reader, sound = attacked(kind, tmp_path, monkeypatch)
    outcomes = []
    with guarded():
        outcomes += [attack(reader, content, tmp_path) for content in sound]
        assert any(outcomes)
        before = listing(tmp_path)

        @PATIENT.__class__(PATIENT, max_examples=250)
        @given(st.sampled_from(sound), st.randoms(use_true_random=False))
        def check(content, random):
            outcomes.append(attack(reader, damage(content, random, sound), tmp_path))

        check()
    assert listing(tmp_path) == before
    assert not all(outcomes)


@KINDS
def test_any_bytes_at_all_are_read_or_refused(kind, tmp_path, monkeypatch):
    """An empty file, one of zeros, and what only looks like the beginning of a sound one."""
    reader, sound = attacked(kind, tmp_path, monkeypatch)
    with guarded():
        beginnings = [one[:length] for one in sound for length in (1, 8, 60)]
        for content in (b"", bytes(1000), b"\xff" * 1000, b"../../x", *beginnings):
            attack(reader, content, tmp_path)

        @PATIENT.__class__(PATIENT, max_examples=60)
        @given(st.sampled_from(sound), st.integers(0, 20), st.binary(max_size=300))
        def check(content, length, rest):
            attack(reader, content[:length] + rest, tmp_path)

        check()


def test_real_pictures_are_damaged_too(shared_data, tmp_path, monkeypatch):
    """Those of cameras have EXIF data, thumbnails, restart markers, which small ones made by a test have not."""
    reader, _ = attacked("picture", tmp_path, monkeypatch)
    folders = ("voc/VOCdevkit/VOC2012/JPEGImages", "voc/VOCdevkit/VOC2012/SegmentationClass", "nuclei/val/images")
    sound = [path.read_bytes() for folder in folders for path in sorted((shared_data / folder).iterdir())[:2]]
    random = Random(0)
    with guarded():
        assert all(attack(reader, content, tmp_path) for content in sound)
        outcomes = [attack(reader, damage(random.choice(sound), random, sound), tmp_path) for _ in range(150)]
    assert not all(outcomes)


# The tests of the tests: each kind of harm is noticed.


def test_another_exception_is_noticed(tmp_path):
    """A fuzzer that takes every exception for a refusal."""
    with guarded():
        for wrong in (KeyError("x"), RecursionError(), MemoryError()):
            with pytest.raises(type(wrong)):
                attack(Reader(raising(wrong), lambda folder: []), b"", tmp_path)
        with pytest.raises(AssertionError, match="not named"):
            attack(Reader(raising(DataError("something is wrong")), lambda folder: []), b"", tmp_path)
        assert not attack(Reader(raising(DataError("hostile.bin: wrong")), lambda folder: []), b"", tmp_path)


def raising(error):
    def read(path, out):
        raise error

    return read


def test_a_reader_that_hangs_is_ended(tmp_path, monkeypatch):
    """Even one that catches every Exception, as readers of pictures must."""

    def hang(path, out):
        while True:
            with contextlib.suppress(Exception):
                zlib.crc32(b"x")

    monkeypatch.setattr(hostile, "SECONDS", 0.05)
    with guarded(), pytest.raises(hostile.Hung):
        attack(Reader(hang, lambda folder: []), b"", tmp_path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is known on Linux")
def test_a_reader_that_fills_the_memory_is_noticed(tmp_path):
    """The limit is not set, or far away."""
    with guarded(), pytest.raises(MemoryError):
        # More than the limit by far: the process may have freed memory left, which counts as its own already.
        attack(Reader(lambda path, out: bytearray(8 * hostile.MEMORY), lambda folder: []), b"", tmp_path)


def test_a_file_written_elsewhere_is_noticed(tmp_path):
    """A listing that passes over what it should find."""
    before = listing(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result").write_bytes(b"x")
    assert listing(tmp_path) == before
    os.mkdir(tmp_path / "sub")
    (tmp_path / "sub" / "escaped.txt").write_bytes(b"x")
    assert listing(tmp_path) != before
