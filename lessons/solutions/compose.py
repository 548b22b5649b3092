def compose(path):
    """The map (scale, offset) of a whole path of layers from their maps, the first layer first."""
    scale, offset = 1, 0  # of a path without layers: every pixel lies where it lies
    for layer_scale, layer_offset in path:
        offset = scale * layer_offset + offset  # what was whole pixels of this layer's input is `scale` pixels each
        scale = scale * layer_scale
    return scale, offset
