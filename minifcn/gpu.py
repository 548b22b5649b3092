"""CUDA through CuPy: is there a device, which one, and what do its errors mean to somebody who wants to train?

Everything here is a question to CuPy and an answer in words; what is computed on the device is the backend's.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from minifcn.errors import DeviceError, DeviceLostError, MinifcnError, OutOfMemoryError, UsageError

EXTRAS = "pip install 'minifcn[gpu-cuda12]' or 'minifcn[gpu-cuda13]'"
ELSE_CPU = "or leave out --device to use the CPU"
PRECISIONS = ("float32", "tf32")
SMALLEST_TF32 = 80  # compute capability 8.0: Ampere

# CUDA's numbers of errors: its driver, which launches kernels, and its runtime share them, under different names.
_OUT_OF_MEMORY, _STUB, _OLD_DRIVER, _NO_DEVICE = 2, 34, 35, 100
_OLD_WHEEL = (98, 200, 209)  # no code in it for this card
# What a device answers when it, or what runs on it, has broken: all later calls in the process fail as well.
# Unavailable, gone, uninitialised; faults of memory or of links; what a kernel does that ends all others; unknown.
_LOST = (46, _NO_DEVICE, 201, 214, 220, 226, 700, 702, 710, *range(714, 720), 999)
_COMPILER = ("CompileException", "NVRTCError")  # CuPy's classes
_HOST_ARRAY = ("Unsupported type <class 'numpy.ndarray'>", "Implicit conversion to a NumPy array")


def open_cupy(device: str) -> tuple[ModuleType, ModuleType]:
    """CuPy and its sparse matrices, once a kernel has run on the device; DeviceError, with the remedy, if none does.

    Importing succeeds on machines without any GPU, so it proves nothing.
    """
    try:
        import cupy
        import cupyx.scipy.sparse
    except ImportError as error:
        installed = not (isinstance(error, ModuleNotFoundError) and str(error.name).startswith("cupy"))
        remedy = "Remove every cupy package and install one" if installed else "Install it"
        raise DeviceError(
            f"--device {device}: CuPy cannot be imported ({_first_line(error)}). {remedy} for your CUDA version with "
            f"{EXTRAS}, {ELSE_CPU}."
        ) from error
    number = number_of(device)
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if number < count:
            cupy.cuda.Device(number).use()
            float((cupy.arange(1) + 1).sum())
    except Exception as error:  # CuPy raises many kinds, all meaning that the device does not work
        raise DeviceError(
            f"--device {device}: CuPy {cupy.__version__} is installed, but no CUDA device answers "
            f"({_first_line(error)}). {_why_none(cupy, error)}, {ELSE_CPU}."
        ) from error
    if count == 0:
        raise DeviceError(
            f"--device {device}: CuPy sees 0 CUDA device(s): there is no NVIDIA card in this machine, or "
            f"CUDA_VISIBLE_DEVICES hides it (nvidia-smi lists the cards). Use a machine with one, {ELSE_CPU}."
        )
    if number >= count:
        raise DeviceError(
            f"--device {device}: CuPy sees {count} CUDA device(s), numbered from 0; use a smaller number."
        )
    return cupy, cupyx.scipy.sparse


def number_of(device: str) -> int:
    """ "gpu:2" -> 2; "gpu" -> 0."""
    return int(device.partition(":")[2] or 0)


def _why_none(cupy: Any, error: Exception) -> str:
    """What the failed probe means, and the remedy, as the beginning of a sentence."""
    text, driver, runtime = str(error), _cuda_version(cupy, "driver"), _cuda_version(cupy, "runtime")
    if type(error).__name__ in _COMPILER:
        return f"NVRTC cannot compile for this device: install CuPy with the headers of its CUDA by {EXTRAS}"
    if "nvrtc" in text.lower():
        return f"CuPy's kernel compiler, NVRTC, is missing: install it with CuPy by {EXTRAS}"
    if _number(error) in _OLD_WHEEL:
        return "This CuPy was built for other cards than this one: install a newer CuPy and driver"
    if _number(error) == _OLD_DRIVER and driver:
        return (
            f"This CuPy wheel is for CUDA {runtime}, but the driver goes up to CUDA {driver}: install the wheel for "
            f"that ({EXTRAS}), or a newer driver"
        )
    if _number(error) in (_OLD_DRIVER, _STUB):
        return "There is no NVIDIA driver: install one (525 or newer for CUDA 12, 580 for CUDA 13)"
    if _number(error) == _NO_DEVICE:
        return "There is no NVIDIA card in this machine, or CUDA_VISIBLE_DEVICES hides it: use one that has a card"
    if isinstance(error, MemoryError) or _number(error) == _OUT_OF_MEMORY:
        return "Its memory is full: end what else computes on it (nvidia-smi lists it)"
    return "Install an NVIDIA driver that fits this CuPy, and see whether nvidia-smi lists the card"


def explain(cupy: Any, device: str, error: Exception, what: str, inputs: Sequence[int] = ()) -> None:
    """Raise what an exception of CuPy's means, in words that a user can act on; return if it means nothing known.

    what: the operation and the shapes that it was computing with. inputs: id() of each tensor that it was given.
    """
    text = _first_line(error)
    if isinstance(error, MinifcnError):
        return
    if isinstance(error, MemoryError) or _number(error) == _OUT_OF_MEMORY or "ALLOC_FAILED" in text:
        raise OutOfMemoryError(what, _why_full(cupy, device, text), inputs) from error
    if _number(error) in _LOST or "STATUS_EXECUTION_FAILED" in text:
        raise DeviceLostError(
            f"{what}: the device {device} was lost ({text}). Nothing more can be computed on it by this process; "
            "checkpoints saved before are kept. Go on with --resume; if it happens again, see what nvidia-smi and the "
            "system's log (Xid) say of the card."
        ) from error
    if type(error).__name__ in _COMPILER:
        raise DeviceError(
            f"{what}: a kernel could not be compiled for {device} ({text}). Install CuPy with the headers of its CUDA "
            f"by {EXTRAS}."
        ) from error
    if missing := re.search(r'Failure finding "(lib[a-zA-Z]+)', text):  # the words of what loads libraries for CuPy
        raise DeviceError(
            f"{what}: {missing[1]}, a library that CuPy computes with, is missing ({text}). Install CuPy with the "
            f"libraries of its CUDA by {EXTRAS}."
        ) from error
    if isinstance(error, TypeError) and any(words in str(error) for words in _HOST_ARRAY):
        raise DeviceError(
            f"{what}: a host array (numpy.ndarray) meets arrays on {device}; nothing is copied silently. Wrap it in "
            f"Tensor(array, device={device!r}), or bring it there with get_backend({device!r}).asarray(array)."
        ) from error


def _number(error: Exception) -> int:
    """CUDA's number of an error of its runtime or of its driver; 0 for any other error."""
    return int(getattr(error, "status", 0)) if type(error).__name__ in ("CUDARuntimeError", "CUDADriverError") else 0


def _why_full(cupy: Any, device: str, text: str) -> str:
    """How much was wanted, and how much is free, of the device's memory; what nobody uses is given back to it."""
    pool = cupy.get_default_memory_pool()
    wanted = re.search(r"allocating ([\d,]+) bytes", text)
    free, whole = cupy.cuda.runtime.memGetInfo()
    free += pool.total_bytes() - pool.used_bytes()  # kept by the pool, but in use by nobody
    if pool.get_limit():
        free, whole = min(free, pool.get_limit() - pool.used_bytes()), pool.get_limit()
    pool.free_all_blocks()
    asked = f"{int(wanted[1].replace(',', '')):,} bytes are wanted" if wanted else text
    limited = " that --gpu-memory-limit allows" if pool.get_limit() else ""
    goes_on = "this process can go on with less"
    return f"on {device} {asked}, {max(0, free):,} of {whole:,}{limited} are free; {goes_on}"


def describe(cupy: Any, device: str) -> dict[str, Any]:
    """What a report has to say of a device, for its figures to mean anything."""
    name = cupy.cuda.runtime.getDeviceProperties(number_of(device))["name"]
    limit = cupy.get_default_memory_pool().get_limit()
    return {
        "device": device,
        "name": name.decode() if isinstance(name, bytes) else name,
        "driver": _driver(),
        "cuda_of_driver": _cuda_version(cupy, "driver"),
        "cuda": _cuda_version(cupy, "runtime"),
        "cupy": cupy.__version__,
        "precision": precision(),
        "deterministic": is_deterministic(),
        "memory_limit": limit or None,
    }


def _cuda_version(cupy: Any, which: str) -> str | None:
    """ "13.0", of the driver (the newest it can serve) or of CuPy's runtime; None if there is none."""
    try:
        number = getattr(cupy.cuda.runtime, f"{which}GetVersion")()
    except Exception:  # no driver, no library
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _driver() -> str | None:
    """The version of the NVIDIA driver, where Linux tells it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Module\D*([\d.]+)", text)
    return found[1] if found else None


def set_precision(name: str) -> None:
    """How float32 matrix products are computed on a GPU: "float32", or "tf32", whose factors have 10 bits in place of
    23 and which are several times as fast. CuPy reads this at its first product, so it is to be set before.
    """
    if name not in PRECISIONS:
        raise UsageError(f"--precision {name}: choose one of {', '.join(PRECISIONS)}.")
    os.environ["CUPY_TF32"] = "1" if name == "tf32" else "0"


def precision() -> str:
    return "tf32" if os.environ.get("CUPY_TF32", "0") not in ("", "0") else "float32"


def check_precision(cupy: Any, device: str) -> None:
    """DeviceError if TF32 is asked of a card that has none: CuPy would go on in float32, with a warning."""
    if precision() == "tf32":
        capability = str(cupy.cuda.Device(number_of(device)).compute_capability)
        if int(capability) < SMALLEST_TF32:
            raise DeviceError(
                f"--precision tf32: {device} has compute capability {capability[:-1]}.{capability[-1]}, and TF32 needs "
                "8.0 (Ampere) or newer; use --precision float32."
            )


def set_deterministic() -> None:
    """Equal runs give equal weights, bit for bit: cuBLAS gets a workspace that is the same for each product.

    No kernel of this project adds with atomics, so that there is nothing else to set. Before the first product.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


def is_deterministic() -> bool:
    return os.environ.get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8")


def parse_bytes(text: str) -> int:
    """ "6GiB", "6G" -> 6·2³⁰; "500M" -> 500·2²⁰; a bare number is bytes. ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(found[1]) * 2 ** (10 * " kmgt".index(found[2] or " "))) if found else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size of memory; write 6G, 500M, or a number of bytes")
    return size


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
