def receptive_field(layers):
    """(size, step) of a stack of (kernel_size, stride) along one axis, in pixels of the picture."""
    size, step = 1, 1
    for kernel_size, stride in layers:
        size += (kernel_size - 1) * step  # from its first to its last number it is (kernel_size − 1) steps
        step *= stride
    return size, step
