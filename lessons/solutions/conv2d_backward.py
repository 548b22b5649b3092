from course.mine import col2im, im2col


def conv2d_backward(grad, x, weight, *, stride=1, padding=0):
    """(dL/dx, dL/dweight, dL/dbias) of conv2d, from grad = dL/dy (N, out, Ho, Wo)."""
    kernel_size = weight.shape[2:]
    columns = im2col(x, kernel_size, stride=stride, padding=padding)
    grad = grad.reshape(*grad.shape[:2], -1)  # (N, out, Ho, Wo) -> (N, out, Ho·Wo)
    matrix = weight.reshape(len(weight), -1)  # (out, C·kh·kw)
    grad_weight = (grad @ columns.swapaxes(1, 2)).sum(axis=0).reshape(weight.shape)
    grad_columns = matrix.T @ grad  # (C·kh·kw, out) @ (N, out, Ho·Wo) -> (N, C·kh·kw, Ho·Wo)
    grad_x = col2im(grad_columns, x.shape[2:], kernel_size, stride=stride, padding=padding)
    return grad_x, grad_weight, grad.sum(axis=(0, 2))
