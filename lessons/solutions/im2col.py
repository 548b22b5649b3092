import numpy as np


def im2col(x, kernel_size, *, stride=1, padding=0):
    """All patches of x as columns: (N, C, H, W) -> (N, C·kh·kw, Ho·Wo); rows ordered (C, kh, kw)."""
    kernel_height, kernel_width = kernel_size
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, channels, height, width = x.shape
    rows = (height - kernel_height) // stride + 1
    columns = (width - kernel_width) // stride + 1
    patches = np.empty((batch, channels, kernel_height, kernel_width, rows, columns), x.dtype)
    for row in range(kernel_height):
        for column in range(kernel_width):
            down = slice(row, row + rows * stride, stride)
            across = slice(column, column + columns * stride, stride)
            patches[:, :, row, column] = x[:, :, down, across]
    # (N, C, kh, kw, Ho, Wo) -> (N, C·kh·kw, Ho·Wo)
    return patches.reshape(batch, channels * kernel_height * kernel_width, rows * columns)
