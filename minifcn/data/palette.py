"""The colours in which label maps are shown: those of PASCAL VOC."""

import numpy as np


def voc_palette() -> np.ndarray:
    """The colour table of PASCAL VOC: uint8 (256, 3), row = label, columns = red, green, blue.

    The bits of the label are dealt out to red, green and blue in turn, the lowest three to the highest bit of each
    channel, the next three to the second highest, and so on. So neighbouring labels get colours far apart; label 0
    is black and void, 255, is (224, 224, 192). Source: `VOClabelcolormap.m` of the VOC development kit.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (labels >> (3 * step + channel)) & 1
            palette[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return palette
