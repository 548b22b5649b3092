from course.engine import conv_transpose2d, crop


def decoder(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    """The scores of FCN-8s for each pixel of the image, (N, classes, *image_size), from the scores of three layers."""
    scores = score_fr
    for step, skip in enumerate((score_pool4, score_pool3)):
        scores = conv_transpose2d(scores, filters[step], stride=2, padding=paddings[step])
        start = crops[step]
        height = min(scores.shape[2], skip.shape[2] - start)
        width = min(scores.shape[3], skip.shape[3] - start)
        scores = crop(scores, 0, (height, width)) + crop(skip, start, (height, width))
    scores = conv_transpose2d(scores, filters[2], stride=8, padding=paddings[2])
    return crop(scores, crops[2], image_size)
