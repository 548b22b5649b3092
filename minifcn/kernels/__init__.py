"""What CuPy's array language cannot say well: kernels in CUDA C (`source.py`), and their launches (`device.py`).

An operation is written in array expressions, which run everywhere. Where they would be many small steps for a GPU, or
a temporary array each, they stand in a function of their own, marked `@backend.with_kernel`: a device that has a kernel
of that function's name launches it instead. So the function is what the kernel means, to read and to test against.
"""

from minifcn.kernels.device import DeviceKernels
from minifcn.kernels.source import KERNELS

__all__ = ["KERNELS", "DeviceKernels"]
