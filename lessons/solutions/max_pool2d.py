import numpy as np

from course.mine import im2col


def max_pool2d(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    """The maximum of each window: (N, C, H, W) -> (N, C, Ho, Wo)."""
    batch, channels, height, width = x.shape
    output_size, framed_size = [], []
    for n, kernel in zip((height, width), kernel_size, strict=True):
        room = n + 2 * padding - kernel
        places = (-(-room // stride) if ceil_mode else room // stride) + 1  # −⌊−a⌋ is ⌈a⌉
        if (places - 1) * stride >= n + padding:  # the last window would begin in the padding behind the picture
            places -= 1
        output_size.append(places)
        framed_size.append(max(n + 2 * padding, (places - 1) * stride + kernel))
    framed = np.full((batch, channels, *framed_size), -np.inf, x.dtype)
    framed[:, :, padding : padding + height, padding : padding + width] = x
    windows = im2col(framed, kernel_size, stride=stride)
    # (N, C·kh·kw, Ho·Wo) -> (N, C, kh·kw, Ho, Wo)
    return windows.reshape(batch, channels, kernel_size[0] * kernel_size[1], *output_size).max(axis=2)
