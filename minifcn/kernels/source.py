"""All kernels by name, in CUDA C, none of which adds with atomics.

Each result is gathered by the thread that owns it, in one fixed order, so that equal inputs give equal bits: col2im and
the backward pass of pooling look up who contributes to a pixel, in place of scattering to it. None uses shared memory
or waits for other threads. What they compute is said in NumPy by the functions that they stand in for (see device.py).
"""

from minifcn.kernels.channels import CHANNELS
from minifcn.kernels.elements import ELEMENTS
from minifcn.kernels.tiles import TILES
from minifcn.kernels.windows import WINDOWS

KERNELS = WINDOWS | TILES | CHANNELS | ELEMENTS
