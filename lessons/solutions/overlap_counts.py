def overlap_counts():
    """In how many 3×3 patches (stride 1, no padding) does each pixel of a 4×4 image lie?"""
    # Along an axis, the pixels lie in 1, 2, 2 and 1 of the two places; down and across multiply.
    return [
        [1, 2, 2, 1],
        [2, 4, 4, 2],
        [2, 4, 4, 2],
        [1, 2, 2, 1],
    ]
