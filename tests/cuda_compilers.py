"""NVIDIA's compilers, where they are: NVRTC, by which CuPy compiles kernels, and nvcc. Neither needs a GPU.

`pip install nvidia-cuda-nvrtc-cu12` brings NVRTC alone. Each compiler takes a text and an architecture, such as "90",
and gives the PTX; AssertionError with what it says of an error or of a warning.
"""

import ctypes
import ctypes.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Compile = Callable[[str, str], str]


def find_nvrtc() -> Compile | None:
    """NVRTC of one of NVIDIA's wheels, or of the system; None if there is none."""
    wheels = (path for folder in sys.path for path in sorted(Path(folder).glob("nvidia/**/libnvrtc.so.*")))
    library = next(map(str, wheels), None) or ctypes.util.find_library("nvrtc")
    return None if library is None else lambda text, architecture: _by_nvrtc(library, text, architecture)


def _by_nvrtc(library: str, text: str, architecture: str) -> str:
    nvrtc, program = ctypes.CDLL(library), ctypes.c_void_p()

    def said(what: str) -> str:
        """The log, or the PTX: first its size is asked for, then it."""
        size = ctypes.c_size_t()
        assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        memory = ctypes.create_string_buffer(size.value)
        assert getattr(nvrtc, f"nvrtcGet{what}")(program, memory) == 0
        return memory.value.decode()

    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture=compute_{architecture}".encode())
        failed, log = nvrtc.nvrtcCompileProgram(program, len(options), options), said("ProgramLog")
        assert not failed, log
        assert not log.strip(), log
        return said("PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def find_nvcc() -> Compile | None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return None if nvcc is None else lambda text, architecture: _by_nvcc(nvcc, text, architecture)


def _by_nvcc(nvcc: str, text: str, architecture: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, ptx = Path(folder, "kernels.cu"), Path(folder, "kernels.ptx")
        source.write_text(text, encoding="utf-8")
        options = ["-ptx", f"-arch=compute_{architecture}", "--Werror", "all-warnings", "-o", str(ptx)]
        result = subprocess.run([nvcc, *options, str(source)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return ptx.read_text()


FINDERS = {"NVRTC": find_nvrtc, "nvcc": find_nvcc}
