"""Hostile files: every reader of files, sound files for it, ways to damage them, and what must hold whatever is read.

That is: nothing but the project's own error comes out, and it names the file; nothing is written outside the output
folder; no reader hangs or fills the memory.
"""

import io
import os
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from data_sets import make_camvid, make_voc, save_matlab_mask
from PIL import Image

from minifcn import models, nn, weights
from minifcn.data import VOC2012, CamVid, Picture, image_size, read_image, read_mask
from minifcn.data.archive import plain_files
from minifcn.data.classes import read_classes
from minifcn.data.images import readable_suffixes
from minifcn.data.listed import read_names
from minifcn.data.matlab import read_matlab_mask
from minifcn.data.unpack import unpack
from minifcn.errors import MinifcnError
from minifcn.training import SGD, Config, load_segmenter, restore_checkpoint, save_checkpoint
from minifcn.training.checkpoint import Progress, read_progress
from minifcn.training.config import read_values
from minifcn.weights import Preprocessing, save_weights

SECONDS = 30  # of the processor, not of the clock: what no file of these sizes needs, on any machine
MEMORY = 3 * 2**30  # bytes more than the process has: the largest picture that Pillow takes, twice, and room
INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WORDS = (b"../", b"/etc/passwd", b"\0", b"\xff\xfe", b"..\\", b"\n", b"=", b"[[", b'"', b"9" * 30, b"nan", b"-1", b"{}")


class Reader(NamedTuple):
    """read: takes a path, and a folder to write into. sound: files that it reads."""

    read: Callable[[Path, Path], object]
    sound: Callable[[Path], list[bytes]]
    suffix: str = ".bin"


# ---------------------------------------------------------------------------------------------------- damage


def damage(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """The content with up to four changes: cut, bits and bytes changed, numbers put in, parts moved or taken over."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        position = random.randint(0, len(changed))
        length = min(len(changed) - position, random.choice((1, 2, 4, 8, 64, 1000)))
        match random.randint(0, 7):
            case 0:
                del changed[position:]
            case 1 if length:
                changed[position] ^= 1 << random.randint(0, 7)
            case 2:
                changed[position : position + length] = random.randbytes(length)
            case 3:
                number = random.choice(INTERESTING).to_bytes(4, random.choice(("little", "big")))
                size = random.choice((1, 2, 4))
                changed[position : position + size] = number[:size]
            case 4:
                del changed[position : position + length]
            case 5:
                changed[position:position] = changed[position : position + length]
            case 6:
                changed[position:position] = random.choice(WORDS)
            case 7:
                other = random.choice(others)
                start = random.randint(0, len(other))
                changed[position : position + length] = other[start : start + length]
    return bytes(changed)


# ---------------------------------------------------------------------------------------------------- what must hold


class Hung(BaseException):
    """Not an Exception, which a reader of damaged files may catch."""


@contextmanager
def guarded() -> Iterator[None]:
    """An end to what hangs, and a limit to the memory, where the system has them (POSIX)."""
    import resource

    def stop(number: int, frame: Any) -> None:
        raise Hung(f"a reader needed more than {SECONDS} s of the processor")

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limits = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGPROF, stop)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def attack(reader: Reader, content: bytes, folder: Path) -> bool:
    """Read a file of this content in the folder, within `guarded`. Whether it was read; AssertionError for anything
    but that and an error of minifcn that names it.
    """
    path, out = folder / f"in/hostile{reader.suffix}", folder / "out"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path, out)
    except MinifcnError as error:
        if "hostile" not in str(error):
            raise AssertionError(f"the file is not named: {error}") from error
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return True


def listing(folder: Path) -> dict[str, bytes]:
    """All files below a folder but those in out/, to see that nothing else changes."""
    return {
        str(path): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not any(part == "out" or part.startswith("hostile") for part in path.relative_to(folder).parts)
    }


# ---------------------------------------------------------------------------------------------------- sound files


def _pictures(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {}) for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "I;16")),
        *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
        ("JPEG", "RGB", {"exif": exif, "progressive": True}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {}),
        *((name, "RGB", {}) for name in ("BMP", "GIF", "PPM", "TGA", "WEBP", "ICO", "PCX", "SGI", "JPEG2000")),
    ]
    contents = []
    for name, mode, options in kinds:
        if name not in Image.SAVE and f".{name.lower()}" not in readable_suffixes():
            continue  # this Pillow was built without it
        grey = picture.convert("L")
        image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
        file = io.BytesIO()
        image.save(file, name, **options)
        contents.append(file.getvalue())
    return contents


def _masks(folder: Path) -> list[bytes]:
    labels = np.random.default_rng(0).integers(0, 4, (9, 12), np.uint8)
    contents = []
    for mode in ("L", "P", "RGB", "1", "LA"):
        image = Image.fromarray(labels)
        if mode == "P":
            image.putpalette(list(range(256)) * 3)
        file = io.BytesIO()
        (image if mode == "P" else image.convert(mode)).save(file, "PNG")
        contents.append(file.getvalue())
    return contents


def _matlab(folder: Path) -> list[bytes]:
    contents = []
    for options in ({"do_compression": True}, {"do_compression": False}):
        save_matlab_mask(folder / "a.mat", np.arange(20, dtype=np.uint8).reshape(4, 5), **options)
        contents.append((folder / "a.mat").read_bytes())
    scipy.io.savemat(folder / "b.mat", {"other": np.eye(3)})
    return [*contents, (folder / "b.mat").read_bytes()]


CONFIG = Config(data="shapes", stages=("fcn8s",), steps=(2,), lr=(1e-3,), size=(32, 32), width=2)


def _tars(folder: Path) -> list[bytes]:
    """With names and links that lead out of the folder they are unpacked into."""
    contents = []
    for mode in ("w", "w:gz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for name, kind in (
                ("data/a.txt", tarfile.REGTYPE),
                ("data/../../escaped.txt", tarfile.REGTYPE),
                ("/escaped.txt", tarfile.REGTYPE),
                ("data/link", tarfile.SYMTYPE),
                ("data/link/escaped.txt", tarfile.REGTYPE),
                ("data/" + "long" * 40 + ".txt", tarfile.REGTYPE),
            ):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "../../.." if kind == tarfile.SYMTYPE else ""
                member.size = 5 if kind == tarfile.REGTYPE else 0
                archive.addfile(member, io.BytesIO(b"bytes") if member.size else None)
        contents.append(file.getvalue())
    return contents


def _unpack(path: Path, out: Path) -> None:
    for _ in plain_files(path, compressed=True):
        pass
    out.mkdir(exist_ok=True)
    target = out / "unpacked"
    unpack(path, target, re.compile(r"data/(?P<path>[\w./]+)"), limit=10**6)
    for unpacked in sorted(target.rglob("*"), reverse=True):
        unpacked.rmdir() if unpacked.is_dir() else unpacked.unlink()
    target.rmdir()


ARRAYS = {"conv1_1.weight": np.ones((2, 3, 3, 3), np.float32), "conv1_1.bias": np.arange(2, dtype=np.float16)}


def _containers(folder: Path) -> list[bytes]:
    """Weight files of every container whose library is there."""
    np.savez(folder / "a.npz", **ARRAYS)
    np.savez_compressed(folder / "b.npz", **ARRAYS)
    contents = [(folder / name).read_bytes() for name in ("a.npz", "b.npz")]
    try:
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
        for zipped in (True, False):
            torch.save(tensors, folder / "a.pth", _use_new_zipfile_serialization=zipped)
            contents.append((folder / "a.pth").read_bytes())
    except ImportError:
        pass
    try:
        from caffe_schema import CAFFE, add_blob

        network = CAFFE["NetParameter"](name="FCN")
        add_blob(network.layer.add(name="conv1_1", type="Convolution"), ARRAYS["conv1_1.weight"])
        add_blob(network.layers.add(name="conv1_2", type=4), ARRAYS["conv1_1.weight"], (2, 3, 3, 3))
        contents.append(network.SerializeToString())
    except ImportError:
        pass
    try:
        import h5py

        with h5py.File(folder / "a.h5", "w") as file:
            file["block1_conv1/kernel:0"] = ARRAYS["conv1_1.weight"]
        contents.append((folder / "a.h5").read_bytes())
    except ImportError:
        pass
    return contents


def _model() -> Any:
    return models.FCNBasic(2, width=1)


def _segmenters(folder: Path) -> list[bytes]:
    model, path = _model(), folder / "m.safetensors"
    record = {"classes": ["a", "b"], "size": [32, 32], "palette": [[0, 0, 0], [1, 2, 3]], "data": "shapes"}
    common = {"architecture": model.architecture, "preprocessing": Preprocessing(), "record": record}
    save_weights(path, model.state_dict(), **common)
    return [path.read_bytes()]


def _optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def _checkpoints(folder: Path) -> list[bytes]:
    model = _model()
    save_checkpoint(folder / "c.safetensors", model, _optimizer(model), Progress(step=3, config=CONFIG.to_toml()))
    return [(folder / "c.safetensors").read_bytes()]


def _resume(path: Path, out: Path) -> None:
    model = _model()
    read_progress(path)
    restore_checkpoint(path, model, _optimizer(model))


def _read_pictures(path: Path, out: Path) -> None:
    image_size(path)
    picture = Picture.read(path)
    picture[:5, 2:4]
    read_image(path)


def _read_masks(path: Path, out: Path) -> None:
    try:
        read_mask(path)
    except MinifcnError:
        read_mask(path, {(0, 0, 0): 0, (1, 1, 1): 1, (128, 0, 0): 2})


Read = Callable[[Path], object]


def _in_place_of(make: Read, name: str, read: Read) -> Callable[[Path, Path], None]:
    """Read a data set one of whose files is the hostile one."""

    def read_set(path: Path, out: Path) -> None:
        root = path.parent / "hostile-set"
        if not root.exists():
            make(root)
        (root / name).write_bytes(path.read_bytes())
        read(root)

    return read_set


def _texts(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [text.encode() for text in texts]


def _first_sample(kind: Any) -> Callable[[Path], object]:
    return lambda root: kind(root, "train")[0]


_LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"

READERS = {
    "picture": Reader(_read_pictures, _pictures),
    "mask": Reader(_read_masks, _masks, ".png"),
    "matlab": Reader(lambda path, out: read_matlab_mask(path), _matlab, ".mat"),
    "classes": Reader(
        lambda path, out: read_classes(path),
        _texts("# names\nbackground 0 0 0\ntraffic light 128 64 0\nvoid 224 224 192", "road\ncar\n"),
        ".txt",
    ),
    "names": Reader(
        lambda path, out: read_names(path), _texts("2007_000032\n2007_000039\n\n", "../../2007_000042"), ".txt"
    ),
    "voc list": Reader(
        _in_place_of(lambda root: make_voc(root, train=["2007_000001", "2007_000002"]), _LIST, _first_sample(VOC2012)),
        _texts("2007_000001\n2007_000002", "../2007_000001"),
        ".txt",
    ),
    "camvid list": Reader(
        _in_place_of(
            lambda root: make_camvid(root, train=["c00001", "c00002"]), "CamVid/train.txt", _first_sample(CamVid)
        ),
        _texts(
            "/SegNet/CamVid/train/c00001.png /SegNet/CamVid/trainannot/c00001.png",
            "../train/c00002.png ../../trainannot/c00002.png",
        ),
        ".txt",
    ),
    "config": Reader(
        lambda path, out: (read_values(path), Config.from_toml(path)),
        lambda folder: [CONFIG.to_toml().encode()],
        ".toml",
    ),
    "archive": Reader(_unpack, _tars, ".tar"),
    "weights": Reader(lambda path, out: weights.load(path), _containers),
    "segmenter": Reader(lambda path, out: load_segmenter(path), _segmenters, ".safetensors"),
    "checkpoint": Reader(_resume, _checkpoints, ".safetensors"),
}
