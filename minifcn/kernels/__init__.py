"""What CuPy's array language cannot say well: kernels in CUDA C, and their launches.

An operation is written in array expressions, which run everywhere. Where they would be many small steps for a GPU, or
a temporary array each, they stand in a function of their own, marked `@backend.with_kernel`: on a device the method of
that name in `DeviceKernels` is called instead. So the function says what the kernel computes, to read and to test
against. The modules, in the order in which to read them:

    kernel.py      what a kernel is, and how its text is made whole
    elements.py    the simplest kernels: ReLU's gradient, cross entropy, the optimisers' steps
    channels.py    sums over images and positions; batch normalisation
    windows.py     im2col and col2im; pooling
    tiles.py       Winograd's tiles, each in the registers of one thread
    source.py      all kernels by name, and what they have in common
    device.py      their launches: one method for each function that is marked
"""

from minifcn.kernels.device import DeviceKernels
from minifcn.kernels.source import KERNELS

__all__ = ["KERNELS", "DeviceKernels"]
