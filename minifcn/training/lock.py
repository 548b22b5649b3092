"""A lock on a run's folder: of two processes that would write into it, the second is refused.

The operating system holds the lock for the process, and lets go of it when the process ends, in whatever way. So there
is no lock left over that somebody would have to remove by hand.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from minifcn.errors import UsageError

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class FolderLock:
    """Held from construction until `release()`, or until nobody refers to it any more.

    The file .lock stays: to remove it would let a third process lock a new one while a second still has the old.
    Raises UsageError if another process, or another run of this one, holds it; OSError if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        holder = ""
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        self.release = weakref.finalize(self, os.close, descriptor)
        try:
            if _try_lock(descriptor, folder):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()}".encode())
                return
            with suppress(OSError):  # on Windows, what is locked cannot be read
                holder = os.read(descriptor, 100).decode(errors="replace")
        except BaseException:
            self.release()
            raise
        self.release()
        raise UsageError(
            f"--out {folder}: another run is writing into it ({holder or 'its process is not known'}). Wait for its "
            "end, or stop it, or name another folder."
        )


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, folder: Path) -> bool:
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return True
        return False

elif sys.platform == "emscripten":  # a browser, where there is one process

    def _try_lock(descriptor: int, folder: Path) -> bool:
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, folder: Path) -> bool:
        """Whether the lock is ours now. On a file system without locks (some network ones) we go on, and say so."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: --out {folder}: its file system has no locks ({error.strerror}); see to it yourself that no "
                "other run writes into this folder.",
                file=sys.stderr,
            )
        return True
