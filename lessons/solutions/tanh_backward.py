def tanh_backward(grad, y):
    """dL/dx from grad = dL/dy and y = tanh(x)."""
    return grad * (1 - y * y)
