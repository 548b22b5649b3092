"""What the commands share: how they end, and how they read sizes and lists. Nothing is computed here."""

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from minifcn.backend import choose_device, get_backend, keep_freed_memory
from minifcn.errors import MinifcnError, OutOfMemoryError, UsageError
from minifcn.gpu import PRECISIONS, parse_bytes, set_deterministic, set_precision
from minifcn.threads import set_threads

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
        device = "cpu, gpu, gpu:N, or auto: a GPU if one answers, and it says so; an absent GPU is an error "
        machine.add_argument("--device", default="cpu", help=f"{device}(default: cpu)")
        precision = "of matrix products on a GPU; tf32 is faster, with 10 bits in place of 23 (default: float32)"
        machine.add_argument("--precision", choices=PRECISIONS, default="float32", help=precision)
        limit = "use at most so much of a GPU's memory, such as 6G (default: all)"
        machine.add_argument("--gpu-memory-limit", type=parse_memory, metavar="SIZE", help=limit)
        repeatable = "equal runs on a GPU give equal weights, bit for bit; on the CPU they do anyway"
        machine.add_argument("--deterministic", action="store_true", help=repeatable)
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
    _set_up_device(arguments)
    keep_freed_memory()
    if arguments.threads is not None:
        set_threads(arguments.threads)


def _set_up_device(arguments: argparse.Namespace) -> None:
    """Open the device with the settings that CuPy reads at its start; say on stderr which it is, but for the CPU."""
    set_precision(arguments.precision)
    if arguments.deterministic:
        set_deterministic()
    asked = arguments.device
    arguments.device, why = choose_device(asked)
    if asked == "auto":
        print(f"--device auto: {arguments.device}. {why}", file=sys.stderr)
    backend = get_backend(arguments.device)
    if arguments.device == "cpu" and arguments.precision != "float32":
        option = f"--precision {arguments.precision}"
        raise UsageError(f"{option}: is for a GPU, but the device is the CPU; add --device gpu, or leave it out.")
    if arguments.gpu_memory_limit:
        backend.limit_memory(arguments.gpu_memory_limit)
    if arguments.device != "cpu":
        about = backend.describe()
        known = [about["name"], *(f"{key} {about[key]}" for key in ("driver", "cuda", "cupy") if about[key])]
        known += [about["precision"], *(["deterministic"] if about["deterministic"] else [])]
        print(f"device {arguments.device}: {', '.join(known)}", file=sys.stderr)


def run_command(main: Callable[[argparse.Namespace], int], parser: Parser) -> NoReturn:
    """Run a command and end the process: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted.

    A user's mistake is one message without a traceback; --debug shows where it was found.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console or a file name of another encoding stops nothing
    arguments = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # end in order, so that half-written files are removed; Windows has no SIGHUP
        number = getattr(signal, name, None)
        nohup = name == "SIGHUP" and number is not None and signal.getsignal(number) == signal.SIG_IGN
        if number is not None and not nohup:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        set_up_machine(arguments)
        code = _run_main(main, arguments)
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
        remedy = _smaller(arguments) if isinstance(error, OutOfMemoryError) else ""
        print(f"error: {error}{remedy}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:  # a full disk, a folder without permission
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


def _run_main(main: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """The command itself; what a device fails with outside of an operation is explained here."""
    try:
        return main(arguments)
    except Exception as error:
        get_backend(getattr(arguments, "device", "cpu")).explain(error, "the command")
        raise


def _smaller(arguments: argparse.Namespace) -> str:
    """What a command that ran out of memory can do with less, of its own options."""
    names = [name for name in ("batch_size", "tile", "crop", "size", "width") if name in arguments]
    options = ", ".join("--" + name.replace("_", "-") for name in names)
    return f" Lower {options}, or end other programs." if options else " End other programs, or read smaller files."


def _in_words(error: OSError) -> str:
    words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{words}; {remedy}" if remedy else words


def parse_memory(text: str) -> int:
    """ "6G" -> bytes."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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


def parse_names(text: str) -> tuple[str, ...]:
    """ "stages, skips" -> ("stages", "skips")."""
    return tuple(name.strip() for name in text.split(","))


def parse_numbers(text: str) -> tuple[float, ...]:
    """ "0.75,1" -> (0.75, 1.0)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number, nor numbers with commas between them, such as 0.5,1"
        ) from None
