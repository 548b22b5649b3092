import numpy as np

from course.mine import conv2d, im2col


def conv_transpose2d_backward(grad, y, weight, *, stride=1, padding=0):
    """(dL/dy, dL/dweight) of conv_transpose2d, from grad = dL/dx (N, out, Ho, Wo)."""
    batch, in_channels, height, width = y.shape
    grad_y = conv2d(grad, weight, np.zeros(in_channels, grad.dtype), stride=stride, padding=padding)
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)  # G grad: (N, out·kh·kw, H·W)
    values = y.reshape(batch, in_channels, height * width)
    # (N, in, H·W) @ (N, H·W, out·kh·kw) -> (N, in, out·kh·kw), summed over the batch
    grad_weight = (values @ patches.swapaxes(1, 2)).sum(axis=0)
    return grad_y, grad_weight.reshape(weight.shape)
