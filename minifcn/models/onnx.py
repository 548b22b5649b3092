"""ONNX export: a network and its weights as one file that other programs run, without minifcn.

An ONNX file is a list of nodes: an operator, the names of its inputs, the name of its output. Each layer becomes the
operator that computes the same, under the layer's own name. No size of an image is written down: where a map is cropped
to another map's size, nodes read that size while the file runs. Dropout, which does nothing in evaluation, is left out;
batch normalisation is folded into the layers before it.

Source: the specification of ONNX, operator set 17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.errors import UsageError
from minifcn.models.fcn import FCN
from minifcn.models.fcn_basic import LEVELS, FCNBasic
from minifcn.models.surgery import fold_batch_norm
from minifcn.models.vgg import FC_KERNEL, VGG, Trunk
from minifcn.ops.geometry import Size, pair

OPERATOR_SET, IR_VERSION = 17, 8  # of 2022: old enough for any runtime in use, new enough for Shape of some axes
LARGEST = 2**31 - 2**20  # bytes of weights; a protobuf message ends at 2 GiB, and the nodes need a little room


def to_onnx(model: FCN | FCNBasic | VGG, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of an .onnx file: nodes and weights in one piece, in evaluation mode, whatever the model's mode.

    Input "image", float32 (N, in_channels, H, W), any N, H and W. Output "scores", float32: (N, num_classes, H, W) of
    an FCN, (N, num_classes) of a VGG, a map of those (N, num_classes, rows, columns) of a fully convolutional one.
    Weights keep their names, after `surgery.fold_batch_norm`. They are written as float32, rounded if they are float64.
    metadata: names and texts to put into the file, for example how pictures become inputs.

    Needs memory for three more copies of the weights, of which one stays: protobuf's message, and two to write it; and
    for one more of a network with batch normalisation.
    Raises UsageError without the package onnx, or if the weights are more than an ONNX file holds.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(
            'export to ONNX: the package onnx is not installed; install it with pip install "minifcn[onnx]".'
        ) from None
    size = 4 * sum(parameter.size for parameter in model.parameters())
    if size > LARGEST:
        raise UsageError(
            f"export to ONNX: {model.name} has {size:,} bytes of weights, but one ONNX file holds at most {LARGEST:,}; "
            "use a smaller width or fc_width."
        )
    model = fold_batch_norm(model)
    graph = _Graph(model)
    if isinstance(model, FCN):
        shape = _fcn(graph, model)
    else:
        shape = _fcn_basic(graph, model) if isinstance(model, FCNBasic) else _vgg(graph, model)
    graph.file.graph.output.append(graph.images("scores", shape))
    onnx.helper.set_model_props(graph.file, dict(metadata or {}))
    return graph.file.SerializeToString()


class _Graph:
    """The file being written. Its methods append nodes and return the name of what they compute."""

    def __init__(self, model: FCN | FCNBasic | VGG) -> None:
        import onnx

        self.onnx, self.model = onnx, model
        # Filled in place: onnx's functions that put a model together (make_graph, make_model) copy the weights twice.
        self.file = onnx.ModelProto(ir_version=IR_VERSION, producer_name="minifcn")
        self.file.opset_import.add(version=OPERATOR_SET)
        self.file.graph.name = model.name
        self.file.graph.input.append(self.images("image", ("N", model.architecture["in_channels"], "H", "W")))

    def images(self, name: str, shape: Sequence[int | str]) -> Any:
        """A float32 array whose shape is known in numbers or, where it depends on the image, in names."""
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """One node; its output has the name of the node."""
        self.file.graph.node.append(self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: str = "<i8") -> str:
        """Numbers that the file holds: weights ("<f4"), or sizes (int64). Little-endian, as ONNX wants them."""
        array = np.asarray(values, dtype)
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("="))
        self.file.graph.initializer.add(name=name, dims=array.shape, data_type=kind, raw_data=array.tobytes())
        return name

    def layer(self, name: str, x: str) -> str:
        """The model's layer of this name: a convolution, a transposed one, or a dense layer."""
        layer = getattr(self.model, name)
        parameters = {"weight": layer.weight, "bias": layer.bias}
        inputs = [x] + [
            self.constant(f"{name}.{kind}", parameter.numpy(), "<f4")
            for kind, parameter in parameters.items()
            if parameter is not None
        ]
        if isinstance(layer, nn.Linear):
            return self.node("Gemm", inputs, name, transB=1)  # x @ weightᵀ + bias
        geometry = {
            "kernel_shape": layer.weight.shape[2:],
            "strides": _pair(layer.stride),
            "pads": 2 * _pair(layer.padding),  # before both axes, then after both
        }
        if isinstance(layer, nn.ConvTranspose2d):
            return self.node("ConvTranspose", inputs, name, **geometry)
        dilations = _pair(layer.dilation)
        return self.node("Conv", inputs, name, dilations=dilations, group=layer.groups, **geometry)

    def layer_and_relu(self, name: str, x: str) -> str:
        return self.node("Relu", [self.layer(name, x)], f"{name}.relu")

    def pooling(self, name: str, x: str, *, ceil_mode: bool) -> str:
        return self.node("MaxPool", [x], name, kernel_shape=(2, 2), strides=(2, 2), ceil_mode=int(ceil_mode))

    def size(self, x: str, name: str) -> str:
        """(height, width) of the map x."""
        return self.node("Shape", [x], name, start=2)

    def crop(self, x: str, start: int, like: str, name: str) -> str:
        """x[:, :, start : start + height, start : start + width], with the height and width of the map `like`.

        Where x ends before that, so does the result, as it does for slices in Python.
        """
        begin = self.constant(f"{name}.start", [start, start])
        end = self.node("Add", [begin, self.size(like, f"{name}.size")], f"{name}.end")
        axes = self.constant(f"{name}.axes", [2, 3])
        return self.node("Slice", [x, begin, end, axes], name)


def _pair(size: Size) -> tuple[int, int]:
    return pair("to_onnx", size, minimum=0)


def _features(graph: _Graph, model: Trunk) -> str:
    """Trunk.features. Returns the last pooling's output; each has the name of its pooling."""
    x = "image" if model.ceil_pooling else _at_least(graph, "image", 2 ** sum(layer.pooling for layer in model.trunk))
    for layer in model.trunk:
        if layer.pooling:
            x = graph.pooling(layer.name, x, ceil_mode=model.ceil_pooling)
        else:
            x = graph.layer_and_relu(layer.name, x)
    return x


def _at_least(graph: _Graph, x: str, pixels: int) -> str:
    """x itself, if it has this many rows and columns; otherwise a size that it cannot be reshaped to, and an error.

    Where pooling rounds down, a smaller image leaves no cells at all; runtimes would compute scores of nothing, or
    crash. ONNX has no operator to refuse with; the node's name says in the runtime's message what is expected.
    """
    name = f"{x}_of_at_least_{pixels}_pixels"
    least = graph.constant(f"{name}.least", [pixels])
    size = graph.node("Max", [graph.size(x, f"{name}.size"), least], f"{name}.enough")
    same = graph.constant(f"{name}.same", [0, 0])  # 0 in Reshape keeps a dimension: N and C
    return graph.node("Reshape", [x, graph.node("Concat", [same, size], f"{name}.shape", axis=0)], name)


def _fcn(graph: _Graph, model: FCN) -> tuple[int | str, ...]:
    """FCN.forward. Returns the shape of the scores."""
    h = graph.layer_and_relu("fc6", _features(graph, model))
    h = graph.layer_and_relu("fc7", h)
    scores = graph.layer("score_fr", h)
    for step in model.upsamplings:
        scores = graph.layer(step.name, scores)
        if step.skip:
            scores = _add_skip(graph, model, scores, step.skip, model.crops[step.name])
    graph.crop(scores, model.crops[model.upsamplings[-1].name], "image", "scores")
    return ("N", model.score_fr.weight.shape[0], "H", "W")


def _add_skip(graph: _Graph, model: FCN, scores: str, pool: str, start: int) -> str:
    """FCN._add_skip. The part that both maps cover: the skip cropped to the scores, then the scores to what is left."""
    features = pool
    if pool in model.skip_scales:
        scale = graph.constant(f"{pool}.scale", model.skip_scales[pool], "<f4")
        features = graph.node("Mul", [pool, scale], f"{pool}.scaled")
    skip = graph.layer(f"score_{pool}", features)
    skip = graph.crop(skip, start, scores, f"{skip}.crop")
    scores = graph.crop(scores, 0, skip, f"{scores}.crop")
    return graph.node("Add", [scores, skip], f"fuse_{pool}")


def _fcn_basic(graph: _Graph, model: FCNBasic) -> tuple[int | str, ...]:
    """FCNBasic.forward. Returns the shape of the scores."""
    maps = ["image"]  # what was enlarged from level n is cropped to maps[n − 1]
    for level in LEVELS:
        maps.append(graph.pooling(f"pool{level}", graph.layer_and_relu(f"conv{level}", maps[-1]), ceil_mode=True))
    scores = graph.layer(f"score_pool{LEVELS[-1]}", maps[-1])
    for level in reversed(LEVELS):
        scores, below = graph.layer(f"upscore_pool{level}", scores), maps[level - 1]
        scores = graph.crop(scores, 0, below, "scores" if level == 1 else f"upscore_pool{level}.crop")
        if level > 1 and model.skips == "add":
            skip = graph.layer(f"score_pool{level - 1}", below)
            scores = graph.node("Add", [scores, skip], f"fuse_pool{level - 1}")
    return ("N", model.architecture["num_classes"], "H", "W")


def _vgg(graph: _Graph, model: VGG) -> tuple[int | str, ...]:
    """VGG.forward. Returns the shape of the scores."""
    x = _features(graph, model)
    if not model.fully_convolutional:
        x = _in_the_middle(graph, x) if model.geometry == "paper" else _average_cells(graph, x)
        x = graph.node("Flatten", [x], "cells")
    x = graph.layer_and_relu("fc6", x)
    x = graph.layer_and_relu("fc7", x)
    graph.node("Identity", [graph.layer("fc8", x)], "scores")
    classes = model.fc8.weight.shape[0]
    return ("N", classes, "rows", "columns") if model.fully_convolutional else ("N", classes)


def _in_the_middle(graph: _Graph, x: str) -> str:
    """VGG._in_the_middle: (N, C, h, w) with h, w ≤ 7 -> (N, C, 7, 7), the cells in the middle of zeros.

    A larger map is not padded, and then has more numbers than fc6 takes, which runtimes refuse. Without Max its
    padding would be negative, which means cropping in ONNX: scores of a part of the image, and no word about it.
    """
    none, two = graph.constant("padding.none", [0, 0]), graph.constant("padding.two", [2])
    cells = graph.constant("padding.cells", [FC_KERNEL, FC_KERNEL])
    missing = graph.node("Sub", [cells, graph.size(x, "padding.size")], "padding.missing")
    spare = graph.node("Max", [missing, none], "padding.spare")
    before = graph.node("Div", [spare, two], "padding.before")  # of whole numbers: rounds down
    after = graph.node("Sub", [spare, before], "padding.after")
    pads = graph.node("Concat", [none, before, none, after], "padding", axis=0)  # none for N and C, at both ends
    return graph.node("Pad", [x, pads], "padded")


def _average_cells(graph: _Graph, x: str) -> str:
    """vgg.average_cells: (N, C, h, w) -> (N, C, 7, 7), as A_h x A_wᵀ."""
    rows, columns = (_averaging(graph, x, axis) for axis in (2, 3))
    x = graph.node("MatMul", [rows, x], "averaged.rows")
    return graph.node("MatMul", [x, graph.node("Transpose", [columns], "averaged.transposed")], "averaged")


def _averaging(graph: _Graph, x: str, axis: int) -> str:
    """vgg._averaging, for the size that this axis of x has: the matrix (7, size) that averages 7 stretches.

    Measured in sevenths of a pixel, cell i reaches from i·size to (i+1)·size and pixel j from 7·j to 7·(j+1). A cell
    averages the pixels that overlap it: 1 in the matrix where they do, divided by the row's number of ones.
    """
    name = f"averaging{axis}"
    cells, zero = graph.constant(f"{name}.cells", FC_KERNEL), graph.constant(f"{name}.zero", 0)
    numbers = graph.constant(f"{name}.numbers", np.arange(FC_KERNEL)[:, None])  # i, as a column (7, 1)
    shape = graph.node("Shape", [x], f"{name}.shape", start=axis, end=axis + 1)
    size = graph.node("Squeeze", [shape], f"{name}.size")
    cell_begin = graph.node("Mul", [numbers, size], f"{name}.cell_begin")
    cell_end = graph.node("Add", [cell_begin, size], f"{name}.cell_end")
    length = graph.node("Mul", [size, cells], f"{name}.length")
    pixel_begin = graph.node("Range", [zero, length, cells], f"{name}.pixel_begin")  # 7·j, as a row (size,)
    pixel_end = graph.node("Add", [pixel_begin, cells], f"{name}.pixel_end")
    begins = graph.node("Less", [pixel_begin, cell_end], f"{name}.begins")
    ends = graph.node("Less", [cell_begin, pixel_end], f"{name}.ends")
    overlap = graph.node("And", [begins, ends], f"{name}.overlap")
    ones = graph.node("Cast", [overlap], f"{name}.ones", to=graph.onnx.TensorProto.FLOAT)
    count = graph.node("ReduceSum", [ones, graph.constant(f"{name}.axes", [1])], f"{name}.count")
    return graph.node("Div", [ones, count], name)
