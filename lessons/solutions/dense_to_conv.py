def dense_to_conv(weight, in_channels, kernel_size):
    """The weight (out, in_channels·kh·kw) of a dense layer as that of a convolution, (out, in_channels, kh, kw)."""
    kernel_height, kernel_width = kernel_size
    return weight.reshape(len(weight), in_channels, kernel_height, kernel_width)
