"""The exercises, in the order of the lessons, and the part of FCN-8s that each one builds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Exercise:
    """One function that the learner writes.

    name: of the function, of its file in mine/ and in solutions/, and of its check `check_<name>`.
    part: the box of the drawing that it belongs to; see `course.drawing`.
    """

    name: str
    lesson: int
    part: str


# lesson, part of the drawing, names
_TABLE = (
    (1, "gradients", "tanh tanh_backward"),
    (2, "gradients", "backward_pass"),
    (3, "gradients", "unbroadcast matmul_backward"),
    (4, "gradients", "gradcheck"),
    (5, "loss", "softmax_cross_entropy"),
    (5, "optimiser", "sgd_step"),
    (6, "convolution", "im2col conv2d"),
    (7, "convolution", "overlap_counts col2im conv2d_backward"),
    (8, "pooling", "max_pool2d max_pool2d_backward receptive_field"),
    (9, "upsampling", "transposed_sizes conv_transpose2d conv_transpose2d_backward bilinear_kernel"),
    (10, "dense layers", "dense_to_conv patch_classifier count_multiplications"),
    (11, "skips", "compose decoder"),
    (12, "metrics", "confusion_matrix mean_iu diagnose"),
)

EXERCISES = {
    name: Exercise(name, lesson, part)
    for lesson, part, names in _TABLE
    for name in names.split()
}  # fmt: skip
PARTS = tuple(dict.fromkeys(part for _, part, _ in _TABLE))
LESSONS = {
    1: "What a segmenter does; one number's gradient",
    2: "The order of the graph",
    3: "Tensors and broadcasting",
    4: "Checking a gradient",
    5: "A network that learns",
    6: "Convolution: from loops to im2col",
    7: "The sparse matrix of a convolution",
    8: "Max pooling, and what a pixel sees",
    9: "Transposed convolution",
    10: "A classifier becomes fully convolutional",
    11: "Skips: FCN-32s, 16s, 8s",
    12: "Training for real",
}
