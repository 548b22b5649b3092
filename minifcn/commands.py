"""What the commands share: how they end, and how they read sizes. Nothing is computed here."""

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from minifcn.backend import get_backend, keep_freed_memory, set_threads
from minifcn.errors import MinifcnError, UsageError

# What --data takes, in the help of every command.
ACCEPTED_DATA = "a folder of images and masks, voc:ROOT, sbd:ROOT, voc+sbd:ROOT, camvid:ROOT, or shapes"
INTERRUPTED = 130  # what shells report for Ctrl-C


class Parser(argparse.ArgumentParser):
    """argparse with the examples kept as typed, no abbreviated options, and mistakes that point to --help."""

    def __init__(self, name: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python -m minifcn.{name}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"error: {message}\nSee {self.prog} --help.\n")

    def add_machine_options(self) -> None:
        """The options that choose what computes; the same for every command."""
        machine = self.add_argument_group("machine")
        machine.add_argument(
            "--device", default="cpu", help="cpu, gpu or gpu:N; an absent GPU is an error (default: cpu)"
        )
        machine.add_argument(
            "--threads", type=int, help="threads to compute with (default: all cores, or OMP_NUM_THREADS)"
        )
        self.add_debug_option(machine)

    def add_debug_option(self, group: Any = None) -> None:
        (group or self).add_argument("--debug", action="store_true", help="show the whole traceback of an error")


def set_up_machine(arguments: argparse.Namespace) -> None:
    """Make sure that the device answers, and set the number of threads, before anything else is done."""
    if "device" not in arguments:  # a command that computes nothing
        return
    get_backend(arguments.device)
    keep_freed_memory()
    if arguments.threads is not None:
        set_threads(arguments.threads)


def run_command(main: Callable[[argparse.Namespace], int], parser: Parser) -> NoReturn:
    """Run a command and end the process: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted.

    A user's mistake is one message without a traceback; --debug shows where it was found.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console or a file name of another encoding stops nothing
    arguments = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # end in order, so that half-written files are removed; Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    try:
        set_up_machine(arguments)
        code = main(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # who read the output wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MinifcnError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except (OSError, MemoryError) as error:  # a full disk, a folder without permission, too large a picture
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {_in_words(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or write elsewhere"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place where you may read and write"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a folder is expected there; name another one, or move the file"),
    errno.EISDIR: "a file is expected there; name another one",
    errno.ENOENT: "check the name, and make its folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "close other programs, or raise the limit of open files (ulimit -n)",
}


def _in_words(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        smaller = "--size, --tile, --batch-size or --width"
        return f"{str(error) or 'out of memory'}; where pictures are computed, use a smaller {smaller}"
    words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{words}; {remedy}" if remedy else words


def parse_size(text: str) -> tuple[int, int]:
    """ "180x240" -> (180, 240), height first; "96" -> (96, 96)."""
    parts = text.lower().replace("×", "x").split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write HEIGHTxWIDTH (180x240) or one number (96)")
    return numbers[0], numbers[-1]
