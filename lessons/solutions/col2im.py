import numpy as np


def col2im(columns, input_size, kernel_size, *, stride=1, padding=0):
    """Columns added back into images: (N, C·kh·kw, Ho·Wo) -> (N, C, *input_size); the adjoint of im2col."""
    (height, width), (kernel_height, kernel_width) = input_size, kernel_size
    rows = (height + 2 * padding - kernel_height) // stride + 1
    places = (width + 2 * padding - kernel_width) // stride + 1  # in a row
    # (N, C·kh·kw, Ho·Wo) -> (N, C, kh, kw, Ho, Wo)
    patches = columns.reshape(len(columns), -1, kernel_height, kernel_width, rows, places)
    x = np.zeros((*patches.shape[:2], height + 2 * padding, width + 2 * padding), columns.dtype)
    for row in range(kernel_height):
        for column in range(kernel_width):
            down = slice(row, row + rows * stride, stride)
            across = slice(column, column + places * stride, stride)
            x[:, :, down, across] += patches[:, :, row, column]
    return x[:, :, padding : padding + height, padding : padding + width]
