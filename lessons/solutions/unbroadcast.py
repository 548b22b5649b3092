def unbroadcast(grad, shape):
    """`grad` summed over the axes along which an array of `shape` was repeated; the result has that shape."""
    new_axes = range(grad.ndim - len(shape))  # those that broadcasting has put in front
    grad = grad.sum(axis=tuple(new_axes))
    long_axes = [axis for axis, length in enumerate(shape) if length == 1]  # those that may have become longer
    return grad.sum(axis=tuple(long_axes), keepdims=True)
