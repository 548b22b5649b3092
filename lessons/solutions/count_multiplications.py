def count_multiplications(layers, size):
    """Multiplications of layers (kind, out_channels, kernel_size, stride) on an image (3, size, size), no padding."""
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1  # of this layer's output
        if kind == "conv":
            total += size**2 * out_channels * channels * kernel_size**2
        channels = out_channels
    return total
