"""Pictures that are in a data set twice, found without keeping or comparing whole pictures."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

_SIDE = 16  # pixels of a thumbnail's side
# How far thumbnails of one picture may lie apart, as root mean square over their values of 0 to 255. A picture that is
# scaled to half its size or saved again as JPEG of quality 50 to 90 moves by 0.4 to 1.4 (CamVid, nuclei, VOC); of
# different pictures the nearest are consecutive frames of a video, 2.1 apart, and cells on a dark ground, 4.4 apart.
_ALIKE = 1.5
_ALIKE_CONTRAST = 0.1  # nor may it be more than this part of the thumbnail's own contrast: dim pictures are all close
_BLOCK = 2048  # thumbnails compared at a time, so that the matrix of distances stays at 16 MB


def picture_digest(image: np.ndarray) -> bytes:
    """16 bytes that stand for all pixels of uint8 (H, W, 3): equal for equal pictures, whatever their files are."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (768,): the mean colours of 16 × 16 parts, hardly changed by scaling and compression."""
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small).ravel()


def near_duplicates(thumbnails: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of pictures that look alike, as if one had been made from the other by saving it again.

    thumbnails: N of uint8 (768,), see `thumbnail`. Of several earlier pictures that are alike only the nearest is
    named, so there are at most N − 1 pairs. 10,000 thumbnails take seconds.
    """
    count = len(thumbnails)
    pixels = np.array(thumbnails, dtype=np.uint8).reshape(count, 3 * _SIDE**2)
    nearest, squares = np.zeros(count, np.int64), np.full(count, np.inf, np.float32)  # squared distance to nearest
    for begin in range(0, count, _BLOCK):
        later = pixels[begin : begin + _BLOCK].astype(np.float32)  # (b, 768)
        own = np.s_[begin : begin + len(later)]
        for start in range(0, begin + 1, _BLOCK):
            earlier = pixels[start : start + _BLOCK].astype(np.float32)  # (a, 768)
            # |x − y|² = |x|² + |y|² − 2 x·y, as one matrix product: (b, 1) + (a,) − (b, a)
            distance = (later**2).sum(axis=1, keepdims=True) + (earlier**2).sum(axis=1) - 2 * later @ earlier.T
            if start == begin:
                distance[np.triu_indices(len(later))] = np.inf  # a picture is alike itself, and pairs count once
            best = distance.argmin(axis=1)
            found = distance[np.arange(len(later)), best]
            closer = found < squares[own]
            nearest[own] = np.where(closer, start + best, nearest[own])
            squares[own] = np.where(closer, found, squares[own])
    limit = np.minimum(_ALIKE, _ALIKE_CONTRAST * pixels.std(axis=1, dtype=np.float32))
    rms = np.sqrt(np.maximum(squares, 0) / pixels.shape[1])  # rounding may leave a little less than 0
    return [(int(nearest[later]), int(later)) for later in np.flatnonzero(rms <= limit)]
