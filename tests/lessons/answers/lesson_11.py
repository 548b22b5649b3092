"""Answers to the exercises of lesson 11 as learners might write them."""

import numpy as np

from course.engine import Tensor, conv_transpose2d, crop


def right_from_the_end(path):
    scale, offset = 1.0, 0.0
    for layer_scale, layer_offset in path[::-1]:
        scale, offset = layer_scale * scale, layer_scale * offset + layer_offset
    return scale, offset


def right_as_matrices(path):
    whole = np.eye(2)
    for scale, offset in path:
        whole = whole @ np.array([[float(scale), float(offset)], [0, 1]])
    return [whole[0, 0], whole[0, 1]]


def right_two_points(path):
    def place(i):
        for scale, offset in reversed(list(path)):
            i = scale * i + offset
        return i

    return place(1) - place(0), place(0)


def adds_offsets(path):
    scale, offset = 1, 0
    for s, o in path:
        scale *= s
        offset += o
    return scale, offset


def wrong_order(path):
    scale, offset = 1, 0
    for s, o in path:
        scale, offset = scale * s, s * offset + o
    return scale, offset


def scale_first(path):
    scale, offset = 1, 0
    for s, o in path:
        scale *= s
        offset += scale * o
    return scale, offset


def starts_at_zero(path):
    scale, offset = 0, 0
    for s, o in path:
        offset += scale * o
        scale *= s
    return scale, offset


def adds_scales(path):
    scale, offset = 1, 0
    for number, (s, o) in enumerate(path):
        offset += np.prod([float(one) for one, _ in path[:number]]) * o
        scale = scale + s if number else s
    return scale, float(offset)


def exchanged(path):
    scale, offset = right_from_the_end(path)
    return offset, scale


def only_the_offset(path):
    return right_from_the_end(path)[1]


def forgets_the_last(path):
    return right_from_the_end(path[:-1])


def only_the_last_scale(path):
    return path[-1][0] if path else 1, right_from_the_end(path)[1]


def eats_the_path(path):
    scale, offset = 1, 0
    while path:
        s, o = path.pop(0)
        scale, offset = scale * s, scale * o + offset
    return scale, offset


def _folded(path, add, start=(1, 0)):
    scale, offset = start
    for s, o in path:
        offset, scale = add(scale, offset, o), scale * s
    return scale, offset


def only_the_last_offset(path):
    return _folded(path, lambda scale, offset, o: scale * o)


def scales_the_old_offset_again(path):
    return _folded(path, lambda scale, offset, o: scale * (offset + o))


def scales_the_old_offset(path):
    return _folded(path, lambda scale, offset, o: scale * offset + o)


def rounds(path):
    return _folded(path, lambda scale, offset, o: round(scale * o + offset))


def whole_numbers(path):
    return _folded(path, lambda scale, offset, o: int(scale * o + offset))


def begins_at_offset_one(path):
    return _folded(path, lambda scale, offset, o: scale * o + offset, start=(1, 1))


def adds_scales_to_one(path):
    return 1 + sum(s for s, _ in path), right_from_the_end(path)[1]


def first_and_last(path):
    return right_from_the_end([path[0], path[-1]])


def right_step_by_step(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    a, b, c = crops
    up = conv_transpose2d(score_fr, filters[0], stride=2, padding=paddings[0])
    h, w = min(up.shape[2], score_pool4.shape[2] - a), min(up.shape[3], score_pool4.shape[3] - a)
    up = crop(up, 0, (h, w)) + crop(score_pool4, a, (h, w))
    up = conv_transpose2d(up, filters[1], stride=2, padding=paddings[1])
    h, w = min(up.shape[2], score_pool3.shape[2] - b), min(up.shape[3], score_pool3.shape[3] - b)
    up = crop(up, 0, (h, w)) + crop(score_pool3, b, (h, w))
    return crop(conv_transpose2d(up, filters[2], stride=8, padding=paddings[2]), c, image_size)


def right_with_a_helper(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    def fuse(coarse, fine, weight, start, padding):
        coarse = conv_transpose2d(coarse, weight, stride=2, padding=padding)
        fine = crop(fine, start, fine.shape[2:])  # to its end
        size = np.minimum(coarse.shape[2:], fine.shape[2:])
        return crop(fine, 0, size) + crop(coarse, 0, size)

    x = fuse(score_fr, score_pool4, filters[0], crops[0], paddings[0])
    x = fuse(x, score_pool3, filters[1], crops[1], paddings[1])
    x = conv_transpose2d(x, filters[2], stride=8, padding=paddings[2])
    return crop(x, crops[2], image_size)


def _varied(score_fr, skips, filters, image_size, crops, paddings, *, add=lambda a, b: a + b, starts=None):
    x = score_fr
    for number, skip in enumerate(skips):
        x = conv_transpose2d(x, filters[number], stride=2, padding=paddings[number])
        start = crops[number] if starts is None else starts(skip, x)
        size = [min(skip.shape[axis] - start, x.shape[axis]) for axis in (2, 3)]
        x = add(crop(x, 0, size), crop(skip, start, size))
    return conv_transpose2d(x, filters[2], stride=8, padding=paddings[2])


def without_skips(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    x = conv_transpose2d(score_fr, filters[0], stride=2, padding=paddings[0])
    x = conv_transpose2d(x, filters[1], stride=2, padding=paddings[1])
    return crop(conv_transpose2d(x, filters[2], stride=8, padding=paddings[2]), crops[2], image_size)


def only_pool4(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    x = conv_transpose2d(score_fr, filters[0], stride=2, padding=paddings[0])
    size = [min(score_pool4.shape[axis] - crops[0], x.shape[axis]) for axis in (2, 3)]
    x = crop(x, 0, size) + crop(score_pool4, crops[0], size)
    x = conv_transpose2d(x, filters[1], stride=2, padding=paddings[1])
    size = [min(score_pool3.shape[axis] - crops[1], x.shape[axis]) for axis in (2, 3)]
    x = crop(x, 0, size)
    return crop(conv_transpose2d(x, filters[2], stride=8, padding=paddings[2]), crops[2], image_size)


def skips_from_zero(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = (score_pool4, score_pool3)
    x = _varied(score_fr, skips, filters, image_size, crops, paddings, starts=lambda skip, x: 0)
    return crop(x, crops[2], image_size)


def middle_of_the_skips(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    x = score_fr
    for number, skip in enumerate((score_pool4, score_pool3)):
        x = conv_transpose2d(x, filters[number], stride=2, padding=paddings[number])
        top, left = [max(0, (skip.shape[axis] - x.shape[axis]) // 2) for axis in (2, 3)]
        skip = Tensor(skip.data[:, :, top:, left:])
        size = [min(skip.shape[axis], x.shape[axis]) for axis in (2, 3)]
        x = crop(x, 0, size) + crop(skip, 0, size)
    x = conv_transpose2d(x, filters[2], stride=8, padding=paddings[2])
    top, left = [max(0, (x.shape[axis + 2] - image_size[axis]) // 2) for axis in (0, 1)]
    return Tensor(x.data[:, :, top : top + image_size[0], left : left + image_size[1]])


def image_from_zero(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = (score_pool4, score_pool3)
    return crop(_varied(score_fr, skips, filters, image_size, crops, paddings), 0, image_size)


def width_before_height(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    skips = (score_pool4, score_pool3)
    return crop(_varied(score_fr, skips, filters, image_size, crops, paddings), crops[2], image_size[::-1])


def never_cropped_to_the_image(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    return _varied(score_fr, (score_pool4, score_pool3), filters, image_size, crops, paddings)


def without_paddings(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = (score_pool4, score_pool3)
    return crop(_varied(score_fr, skips, filters, image_size, crops, (0, 0, 0)), crops[2], image_size)


def on_arrays(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = (score_pool4, score_pool3)
    return crop(_varied(score_fr, skips, filters, image_size, crops, paddings), crops[2], image_size).data


def wrapped_anew(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = [Tensor(skip.data) for skip in (score_pool4, score_pool3)]
    return crop(_varied(score_fr, skips, filters, image_size, crops, paddings), crops[2], image_size)


def trusts_the_sizes(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    x = score_fr
    for number, skip in enumerate((score_pool4, score_pool3)):
        x = conv_transpose2d(x, filters[number], stride=2, padding=paddings[number])
        x = x + crop(skip, crops[number], x.shape[2:])
    return crop(conv_transpose2d(x, filters[2], stride=8, padding=paddings[2]), crops[2], image_size)


def multiplies(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    skips = (score_pool4, score_pool3)
    x = _varied(score_fr, skips, filters, image_size, crops, paddings, add=lambda a, b: a * b)
    return crop(x, crops[2], image_size)


def _steps(scores, filters, image_size, crops, paddings, *, strides=(2, 2, 8), add=lambda up, skip: up + skip, less=1):
    up, *skips = scores
    for skip, weight, start, stride, padding in zip(skips, filters, crops, strides, paddings, strict=False):
        up = conv_transpose2d(up, weight, stride=stride, padding=padding)
        size = [min(u, s - less * start) for u, s in zip(up.shape[2:], skip.shape[2:], strict=True)]
        up = add(crop(up, 0, size), crop(skip, start, size))
    return crop(conv_transpose2d(up, filters[2], stride=strides[2], padding=paddings[2]), crops[2], image_size)


def whole_size_of_the_skips(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    return _steps((score_fr, score_pool4, score_pool3), filters, image_size, crops, paddings, less=0)


def one_padding_for_both(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    scores, both = (score_fr, score_pool4, score_pool3), (paddings[0], paddings[0], paddings[2])
    return _steps(scores, filters, image_size, crops, both)


def unpadded_at_first(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    return _steps((score_fr, score_pool4, score_pool3), filters, image_size, crops, (0, *paddings[1:]))


def last_filter_first(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    scores, mixed = (score_fr, score_pool4, score_pool3), [filters[2], filters[1], filters[2]]
    return _steps(scores, mixed, image_size, crops, paddings)


def four_times_at_first(
    score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)
):
    return _steps((score_fr, score_pool4, score_pool3), filters, image_size, crops, paddings, strides=(4, 2, 8))


def twice_at_last(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    return _steps((score_fr, score_pool4, score_pool3), filters, image_size, crops, paddings, strides=(2, 2, 2))


def skips_alone(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    scores, ups = (score_fr, score_pool4, score_pool3), []
    return _steps(scores, filters, image_size, crops, paddings, add=lambda up, skip: ups.append(up) or skip)


def filters_as_arrays(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    scores = (score_fr, score_pool4, score_pool3)
    return _steps(scores, [one.data for one in filters], image_size, crops, paddings)


CORRECT = {
    "compose": [right_from_the_end, right_as_matrices, right_two_points],
    "decoder": [right_step_by_step, right_with_a_helper],
}
WRONG = {
    "compose": [
        (adds_offsets, "the offsets are only added up"),
        (wrong_order, "from the last to the first"),
        (scale_first, "multiplied before the offset is used"),
        (starts_at_zero, "its scale is 1, not 0"),
        (adds_scales, "the scales are added"),
        (exchanged, "offset before scale"),
        (only_the_offset, "two numbers are expected"),
        (forgets_the_last, "layer is left out"),
        (only_the_last_scale, "scales of layers in a row multiply"),
        (eats_the_path, "has changed the path"),
        (only_the_last_offset, "only the offset of the last layer"),
        (scales_the_old_offset_again, "multiplied by the scale once more"),
        (scales_the_old_offset, "it is the new layer's offset that must be"),
        (rounds, "must not be made ones"),
        (whole_numbers, "must not be made ones"),
        (begins_at_offset_one, "its offset is 0"),
        (adds_scales_to_one, "the scales are added to 1"),
        (first_and_last, "only the first and the last"),
    ],
    "decoder": [
        (without_skips, "no skip is added"),
        (only_pool4, "the scores of pool3 are not added"),
        (skips_from_zero, "the skips begin at 0"),
        (middle_of_the_skips, "centred"),
        (image_from_zero, "the last map begins at 0"),
        (width_before_height, "it is (height, width)"),
        (never_cropped_to_the_image, "not cropped to the image's size"),
        (without_paddings, "the paddings have no effect"),
        (on_arrays, "ndarray came back"),
        (wrapped_anew, "no gradient comes back to score_pool4"),
        (trusts_the_sizes, "the part that both cover"),
        (multiplies, "to be added"),
        (whole_size_of_the_skips, "the part that both cover"),
        (one_padding_for_both, "paddings[0] is used for the first two"),
        (unpadded_at_first, "the padding of the first upsampling"),
        (last_filter_first, "filters[2] is used for the first"),
        (four_times_at_first, "another stride than 2"),
        (twice_at_last, "another stride than 8"),
        (skips_alone, "replaced by the skip"),
        (filters_as_arrays, "an array has come in"),
    ],
}
