from course.mine import im2col


def conv2d(x, weight, bias, *, stride=1, padding=0):
    """x (N, C, H, W), weight (out, C, kh, kw), bias (out,) -> (N, out, Ho, Wo)."""
    out_channels, _, kernel_height, kernel_width = weight.shape
    rows = (x.shape[2] + 2 * padding - kernel_height) // stride + 1
    columns = (x.shape[3] + 2 * padding - kernel_width) // stride + 1
    patches = im2col(x, (kernel_height, kernel_width), stride=stride, padding=padding)
    y = weight.reshape(out_channels, -1) @ patches + bias[:, None]  # (out, C·kh·kw) @ (N, C·kh·kw, L) -> (N, out, L)
    return y.reshape(len(x), out_channels, rows, columns)
