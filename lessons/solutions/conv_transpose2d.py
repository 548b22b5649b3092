from course.mine import col2im


def conv_transpose2d(y, weight, *, stride=1, padding=0):
    """y (N, in, H, W), weight (in, out, kh, kw) -> (N, out, (H−1)·stride + kh − 2·padding, and likewise the width)."""
    batch, in_channels, height, width = y.shape
    _, _, kernel_height, kernel_width = weight.shape
    rows = (height - 1) * stride + kernel_height - 2 * padding
    columns = (width - 1) * stride + kernel_width - 2 * padding
    # Wᵀ y: (out·kh·kw, in) @ (N, in, H·W) -> (N, out·kh·kw, H·W), a stamp for each place; Gᵀ adds them up
    stamps = weight.reshape(in_channels, -1).T @ y.reshape(batch, in_channels, height * width)
    return col2im(stamps, (rows, columns), (kernel_height, kernel_width), stride=stride, padding=padding)
