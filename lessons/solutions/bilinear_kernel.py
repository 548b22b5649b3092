import numpy as np


def bilinear_kernel(kernel_size):
    """The kernel (kernel_size, kernel_size) that interpolates bilinearly with a stride of kernel_size/2, rounded up."""
    stride = (kernel_size + 1) // 2
    middle = (kernel_size - 1) / 2  # of an even kernel, between two pixels
    tent = 1 - np.abs(np.arange(kernel_size) - middle) / stride
    return np.outer(tent, tent)
