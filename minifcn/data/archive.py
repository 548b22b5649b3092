"""The files of a published data set: in a folder, or packed in its tar, out of which single ones are read.

Nobody vouches for a tar. Whatever is wrong with one (cut off, damaged, made to hang a reader or to fill the memory)
ends in a DataError that names it; and as nothing is unpacked, no name in it can point at another place of the disk.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from gzip import GzipFile
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minifcn.errors import DataError

MOST_MEMBERS = 200_000  # the tar of VOC 2012 has 40,000
_LARGEST_HEADER = 2**20  # bytes; tarfile reads long names and the like in one piece, however long they claim to be
_LARGEST_FILE = 2**28  # bytes of a file that is read whole
_LARGEST_LIST = 10**7  # bytes
_BLOCK = 512  # bytes; a tar consists of such blocks
_GZIP = b"\x1f\x8b"
_REFUSALS = (tarfile.TarError, EOFError, OSError, OverflowError, RecursionError, ValueError, zlib.error)


class Packed(NamedTuple):
    """A file inside a tar. `str` gives the tar and the name in it, for messages."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self) -> BytesIO:
        """The content. Every call opens the tar anew, so that threads do not share a position in it."""
        if self.size > _LARGEST_FILE:
            raise DataError(
                f"{self}: {self.size:,} bytes are more than an image or a list can have. Download the archive again."
            )
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(
                f"{self.archive}: cannot be read ({error.strerror or error}). Has it been moved while it was in use?"
            ) from error
        if len(content) < self.size:
            raise _damaged(self.archive, f"{self.name} ends too early")
        return BytesIO(content)


File = Path | Packed
"""A file on the disk or in a tar: `str` names it for messages."""


class FolderTree:
    """FolderTree(root).find("JPEGImages/2007_000032.jpg") -> its path, or None. `str` is the folder, for messages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def find(self, name: str) -> Path | None:
        path = self.root / name
        return path if path.is_file() else None

    def stems(self, folder: str, suffix: str) -> list[str]:
        """The names without ending of the files in a folder that end so, sorted."""
        return sorted(p.stem for p in (self.root / folder).glob(f"*{suffix}") if not p.name.startswith("."))


class TarTree:
    """TarTree(tar, marker).find("JPEGImages/2007_000032.jpg") -> the Packed file, or None; as in a FolderTree.

    marker: a folder of the tree, such as "ImageSets/Segmentation": what stands before it in the tar's names, such as
    VOCdevkit/VOC2012, is where the tree begins.  root: the tar.

    Raises DataError if the tar cannot be read, is compressed, or holds no such tree.
    """

    def __init__(self, tar: Path, marker: str) -> None:
        self.root = tar
        try:
            state = tar.stat()
        except OSError as error:
            raise DataError(
                f"{tar}: cannot be read ({error.strerror or error}). Give the path of the archive, or of its unpacked "
                "folder."
            ) from error
        self._index = _index(tar, state.st_mtime_ns, state.st_size)
        beginnings = {name.partition(f"{marker}/")[0] for name in self._index if f"/{marker}/" in f"/{name}"}
        if not beginnings:
            raise DataError(
                f"{tar}: this tar holds no folder {marker}, so it is another archive than expected. "
                "Give that of the data set as it was published."
            )
        self._beginning = max(beginnings)  # the latest, if it holds VOC of several years

    def __str__(self) -> str:
        return f"{self.root}/{self._beginning}".rstrip("/")

    def find(self, name: str) -> Packed | None:
        return self._index.get(self._beginning + name)

    def stems(self, folder: str, suffix: str) -> list[str]:
        start = f"{self._beginning}{folder}/"
        inside = (name.removeprefix(start) for name in self._index if name.startswith(start))
        return sorted(name.removesuffix(suffix) for name in inside if name.endswith(suffix) and "/" not in name)


Tree = FolderTree | TarTree


@lru_cache(maxsize=4)
def _index(tar: Path, modified: int, size: int) -> dict[str, Packed]:
    """Every plain file of an uncompressed tar by its name; the last of a name, as when it is unpacked.

    modified, size: of the tar, so that another one of the same name is not mistaken for it.
    """
    return {file.name: Packed(tar, file.name, file.offset_data, file.size) for _, file in plain_files(tar)}


# ---------------------------------------------------------------------------------------------------- tar


def plain_files(path: Path, *, compressed: bool = False) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The open tar and each plain file in it, in order; links, devices and folders are passed over.

    compressed: whether it may be compressed with gzip. Raises DataError for whatever is wrong with the tar.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if packed and not compressed:
                raise DataError(f"{path}: is compressed, so that single files cannot be read from it. Unpack it first.")
            guarded = _Guarded(GzipFile(fileobj=file) if packed else file)
            with tarfile.open(fileobj=guarded, mode="r:") as archive:  # type: ignore[call-overload]
                end = -1
                for number, member in enumerate(archive):
                    if number == MOST_MEMBERS:
                        raise ValueError(f"more than {MOST_MEMBERS:,} members")
                    if member.size < 0 or member.offset <= end:  # would be read for ever
                        raise ValueError("its members do not follow one another")
                    end = member.offset
                    if member.isreg() and not member.issparse():
                        yield archive, member
                if guarded.last != bytes(_BLOCK):  # tarfile takes a header that makes no sense for the end
                    raise ValueError("its end is missing")
                if packed:
                    guarded.read(_LARGEST_HEADER)  # what fills up the last record, and then gzip's checksum
    except _REFUSALS as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, str(error)) from error


def content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    """The bytes of a member of an open tar, in pieces. Raises DataError as `plain_files` does."""
    try:
        with archive.extractfile(member) as file:  # type: ignore[union-attr] # None only for what is no plain file
            while piece := file.read(2**16):
                yield piece
    except _REFUSALS as error:
        raise _damaged(path, f"{member.name}: {error}") from error


class _Guarded:
    """A file out of which tarfile reads no more at once than a header can have."""

    def __init__(self, file: BinaryIO | GzipFile) -> None:
        self.file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes")
        self.last = self.file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: this tar is damaged or cut off ({reason}). Copy or download it again.")


# ---------------------------------------------------------------------------------------------------- lists


def read_list(file: File) -> list[list[str]]:
    """The lines of a text file of names, each split at blanks; empty ones are passed over.

    Raises DataError if it cannot be read, is no text, or is longer than a list of images can be.
    """
    try:
        with file.open("rb") if isinstance(file, Path) else file.open() as opened:
            text = opened.read(_LARGEST_LIST + 1)
        if len(text) > _LARGEST_LIST:
            raise DataError(f"{file}: longer than a list of images can be. Expected one name a line.")
        lines = text.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{file}: this list cannot be read ({error.strerror or error}). Expected a text, one name a line."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: this list is not a text file ({error}). Save it as UTF-8, one name a line."
        ) from error
    return [words for line in lines if (words := line.split())]
