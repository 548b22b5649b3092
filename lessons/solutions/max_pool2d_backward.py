import numpy as np

from course.mine import col2im, im2col


def max_pool2d_backward(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    """dL/dx of max_pool2d: each gradient goes to the place of its window's maximum, to the first of equal ones."""
    batch, channels, height, width = x.shape
    framed_size = [
        max(n + 2 * padding, (places - 1) * stride + kernel)
        for n, places, kernel in zip((height, width), grad.shape[2:], kernel_size, strict=True)
    ]
    inside = (..., slice(padding, padding + height), slice(padding, padding + width))
    framed = np.full((batch, channels, *framed_size), -np.inf, x.dtype)
    framed[inside] = x
    # (N, C·kh·kw, Ho·Wo) -> (N, C, kh·kw, Ho·Wo)
    windows = im2col(framed, kernel_size, stride=stride).reshape(batch, channels, kernel_size[0] * kernel_size[1], -1)
    winners = windows.argmax(axis=2, keepdims=True)  # (N, C, 1, Ho·Wo); argmax gives the first of equal ones
    routed = np.zeros(windows.shape, grad.dtype)
    np.put_along_axis(routed, winners, grad.reshape(winners.shape), axis=2)
    routed = routed.reshape(batch, -1, routed.shape[3])  # (N, C·kh·kw, Ho·Wo)
    return col2im(routed, framed_size, kernel_size, stride=stride)[inside]
