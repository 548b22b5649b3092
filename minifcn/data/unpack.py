"""Unpacking what was downloaded: the files that are wanted, all of them or none, and no more than there should be."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from minifcn.data.archive import content, plain_files
from minifcn.errors import DataError

LARGEST = 8 * 10**9  # bytes of all files together; SBD, the largest of them, has 1.5


def unpack(archive: Path, target: Path, wanted: re.Pattern[str], *, digest: str = "", limit: int = LARGEST) -> None:
    """Unpack the files of a tar, compressed or not, whose names match `wanted` into the new folder `target`.

    wanted: its group `path` is where a file comes below the target. Names that do not match it are passed over, and so
    is all that is no plain file: so no name leads out of the target, and no link anywhere.
    digest: what `tree_digest` of the target must be; "" if that is not known.

    The files are written into a hidden folder beside the target, which takes its name at the end: what stands at
    `target` is complete. Raises DataError if the archive is damaged, larger than `limit` bytes, or another than
    expected, and if nothing can be written there.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        _unpack_into(temporary, archive, wanted, limit)
        if digest and tree_digest(temporary) != digest:
            raise DataError(f"{archive}: what is in it is not what was published. Download it again.")
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be unpacked there ({error.strerror or error}). Make room, take away what stands there, "
            f"or name another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(folder: Path, archive: Path, wanted: re.Pattern[str], limit: int) -> None:
    room = limit
    folder.mkdir(parents=True)
    for tar, member in plain_files(archive, compressed=True):
        match = wanted.fullmatch(member.name.removeprefix("./"))
        if not match:
            continue
        room -= member.size
        if room < 0:
            raise DataError(
                f"{archive}: more than {limit:,} bytes when unpacked, more than this data set has. Download it again."
            )
        path = folder / match["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for piece in content(archive, tar, member):
                file.write(piece)
    if room == limit:
        raise DataError(
            f"{archive}: holds none of the files that are looked for. Give the archive as it was "
            "published, or its unpacked folder."
        )


def tree_digest(folder: Path) -> str:
    """SHA-256 of all files below a folder: of the lines `SHA-256 of the file, two blanks, its path`, sorted by path.

    It tells whether files are the published ones when an archive is packed anew for each download, as on GitHub.
    """
    digest = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()
