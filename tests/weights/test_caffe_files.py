"""Caffe files: made by protobuf with the parts of Caffe's schema that matter; damaged ones are refused by name."""

import re
import struct
import tracemalloc
from functools import partial

import numpy as np
import pytest
import readers
from hypothesis import given
from hypothesis import strategies as st
from readers import assert_same_bits

from minifcn.errors import WeightsError
from minifcn.weights.formats import caffe

refused, read_or_refused = partial(readers.refused, caffe.read), partial(readers.read_or_refused, caffe.read)

schema = pytest.importorskip("caffe_schema", reason="needs protobuf", exc_type=ImportError)
CAFFE, UNPACKED, ORACLE, add_blob = schema.CAFFE, schema.UNPACKED, schema.ORACLE, schema.add_blob

WEIGHT = np.array([[[[1.5, -0.0]], [[np.inf, 1e-40]], [[3, 4]]]], np.float32)  # (1, 3, 1, 2)
BIAS = np.array([0.1], np.float32)


def new_network(classes=CAFFE):
    network = classes["NetParameter"](name="FCN", input=["data"])
    network.input_shape.add(dim=[1, 3, 500, 500])
    network.layer.add(name="data", type="Input", top=["data"])
    layer = network.layer.add(name="conv", type="Convolution", bottom=["data"], loss_weight=[1.0], phase=1)
    add_blob(layer, WEIGHT)
    add_blob(layer, BIAS)
    network.layer.add(name="relu", type="ReLU", bottom=["conv"], top=["conv"])
    return network


def old_network(classes=CAFFE):
    """As the VGG team's file: V1 layers, legacy dimensions."""
    network = classes["NetParameter"](name="VGG", input=["data"], input_dim=[10, 3, 224, 224])
    layer = network.layers.add(name="conv", type=4, bottom=["data"], blobs_lr=[1, 2], param=["shared"])
    add_blob(layer, WEIGHT, (1, 3, 1, 2))
    add_blob(layer, BIAS, (1, 1, 1, 1))
    network.layers.add(name="relu", type=18, bottom=["conv"], top=["conv"])
    return network


def read_bytes(path, content):
    path.write_bytes(content)
    return caffe.read(path)


@pytest.mark.parametrize("classes", [CAFFE, UNPACKED], ids=["packed", "unpacked"])
@pytest.mark.parametrize("network", [new_network, old_network])
def test_layers_of_both_schemas_come_back_bit_for_bit(tmp_path, network, classes):
    """`layers` of the VGG file overlooked; layers without blobs or fields of the network taken for layers; numbers
    that have a tag each (not packed) read with the tags."""
    bias = BIAS if network is new_network else BIAS.reshape(1, 1, 1, 1)
    arrays = read_bytes(tmp_path / "a.caffemodel", network(classes).SerializeToString())
    assert_same_bits(arrays, {"conv.weight": WEIGHT, "conv.bias": bias})


def test_the_shape_is_the_one_in_the_file(tmp_path):
    """Ones squeezed from legacy shapes, axes lost from new ones, an empty shape (a single number) taken for no blob."""
    network = CAFFE["NetParameter"]()
    legacy = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    add_blob(network.layers.add(name="fc6"), legacy, (1, 1, 2, 3))
    shapes = [(), (6,), (0, 3), (1, 2, 1, 3, 1), (300,)]  # 300: a varint of two bytes
    expected = {"fc6.weight": legacy}
    for index, shape in enumerate(shapes):
        expected[f"layer{index}.weight"] = np.ones(shape, np.float32)
        add_blob(network.layer.add(name=f"layer{index}"), expected[f"layer{index}.weight"])
    assert_same_bits(read_bytes(tmp_path / "a", network.SerializeToString()), expected)


@pytest.mark.parametrize("classes", [CAFFE, UNPACKED], ids=["packed", "unpacked"])
def test_legacy_dimensions_go_before_a_shape_and_doubles_before_floats(tmp_path, classes):
    """The other order than in Caffe, for the files that have both."""
    network = classes["NetParameter"]()
    blob = add_blob(network.layer.add(name="a"), np.arange(4, dtype=np.float64), key="double_data")
    blob.num, blob.channels, blob.height, blob.width = 2, 1, 1, 2
    blob.data.extend([0, 0])
    assert_same_bits(
        read_bytes(tmp_path / "a", network.SerializeToString()), {"a.weight": np.arange(4.0).reshape(2, 1, 1, 2)}
    )


def test_blobs_are_numbered_and_their_gradients_left_out(tmp_path):
    """The third blob of a BatchNorm layer lost or written over the second; diff read as if it were data."""
    network = CAFFE["NetParameter"]()
    layer = network.layer.add(name="bn/ü")
    for value in range(4):
        blob = add_blob(layer, np.full((2,), value, np.float32))
        blob.diff.extend([7, 7])
        blob.double_diff.extend([7, 7])
    expected = {f"bn/ü.{part}": np.full((2,), i, np.float32) for i, part in enumerate(["weight", "bias", "2", "3"])}
    assert_same_bits(read_bytes(tmp_path / "a", network.SerializeToString()), expected)


def field(number, content):
    """A field with a length, from its parts, for what the library would not write."""
    assert len(content) < 128
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 0x7F | 0x80, tag >> 7])) + bytes([len(content)]) + content


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def test_pieces_of_a_field_are_joined_in_any_order_of_the_fields(tmp_path):
    """Only the last piece kept; a name that comes after the blobs, or an unknown field, that stops the reader."""
    unknown = field(99, b"\xff\xff") + b"\x98\x06\xff\xff\xff\x0f" + b"\x9d\x06....\x99\x06........"  # 2, 0, 5 and 1
    blob = field(5, floats(1, 2)) + field(7, field(1, b"\2")) + b"\x2d" + floats(3) + unknown
    blob += field(5, b"") + field(7, b"\x08\x02") + field(5, floats(4))
    layer = field(7, blob) + unknown + field(1, b"overwritten") + field(1, b"a")
    content = unknown + field(100, layer) + unknown
    parsed = CAFFE["NetParameter"].FromString(content).layer[0]
    assert (parsed.name, list(parsed.blobs[0].shape.dim), list(parsed.blobs[0].data)) == ("a", [2, 2], [1, 2, 3, 4])
    assert_same_bits(read_bytes(tmp_path / "a", content), {"a.weight": np.array([[1, 2], [3, 4]], np.float32)})


@pytest.mark.parametrize(("classes", "count"), [(CAFFE, 500_000), (UNPACKED, 4_000)], ids=["packed", "unpacked"])
def test_reading_takes_the_memory_of_the_arrays_alone(tmp_path, classes, count):
    """The file, or a blob, read whole before arrays are made of it; pieces gathered in lists."""
    network = classes["NetParameter"]()
    for index in range(2):
        add_blob(network.layer.add(name=f"a{index}"), np.ones(count, np.float32))
    path = tmp_path / "a"
    path.write_bytes(network.SerializeToString())
    caffe.read(path)  # once before, for what Python keeps for itself
    tracemalloc.start()
    arrays = caffe.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * sum(array.nbytes for array in arrays.values()) + 30_000


def named(*fields):
    """A file of one layer `a`."""
    return field(100, field(1, b"a") + b"".join(fields))


LAYER = field(1, b"a") + field(7, field(5, floats(1)))


@pytest.mark.parametrize(
    ("reason", "content"),
    [
        ("1 values for the shape [2]", named(field(7, field(5, floats(1)) + field(7, field(1, b"\2"))))),
        ("2 values for the shape []", named(field(7, field(5, floats(1, 2))))),
        ("0 values for the shape []", named(field(7, b""))),
        ("1 values for the shape [1, 1, 0, 0]", named(field(7, b"\x08\1\x10\1" + field(5, floats(1))))),
        ("values for the shape [18446744073709551615]", named(field(7, field(7, field(1, b"\xff" * 9 + b"\1"))))),
        (
            "values for the shape [0, 2199023255552, ",
            named(field(7, field(7, field(1, b"\0" + b"\x80\x80\x80\x80\x80@" * 3)))),
        ),
        ("has more than 32 axes", named(field(7, field(5, floats(1)) + field(7, field(1, b"\1" * 33))))),
        ("end within a number", named(field(7, field(5, b".....")))),
        ("end within a number", named(field(7, field(5, b"..") + field(5, b"......")))),
        ("ends at 4 of 2", b"\x0a\x02"),  # a length beyond the file
        ("ends at 7 of 6", field(100, b"\x0a\x02.")),  # a length beyond the layer
        ("ends at 11 of 9", named(b"\x3d..") + b"...."),  # four bytes, of which two belong to what follows
        ("does not end", named(b"\x08\x80") + b"\1"),  # a varint that goes on beyond the layer
        ("does not end", b"\x08" + b"\xff" * 10 + b"\1"),  # of eleven bytes
        ("does not end", b"\xff" * 100),
        ("number 0", b"\0" * 100),
        ("number 536870912", b"\x80\x80\x80\x80\x10\1"),
        ("wire type 3", field(100, LAYER) + b"\x0b\x0c"),  # a group, with nothing in it
        ("wire type 6", b"\x0e"),
        ("has no name", field(100, field(7, field(5, floats(1))))),
        ("has no name", field(100, field(1, b"") + field(7, field(5, floats(1))))),
        ("not UTF-8", field(100, field(1, b"\xff"))),
        ("two layers with weights are named 'a'", field(100, LAYER) * 2),
        ("two layers with weights are named 'a\\n'", field(100, LAYER.replace(b"\1a", b"\2a\n")) * 2),
        ("no layer has weights", b""),
        ("no layer has weights", field(1, b"a network of a .prototxt")),
        ("no layer has weights", field(100, field(1, b"a") + field(2, b"ReLU"))),
        ("no layer has weights", field(2, field(1, field(1, b"conv1") + b"\x92\3\0"))),  # V0: all within field 1
        ("", b'name: "FCN"\nlayer {\n  name: "data"\n  type: "Input"\n}\n'),  # a .prototxt
        ("", b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"),
        ("", CAFFE["SolverState"](iter=1000, learned_net="snapshots/fcn_iter_1000.caffemodel").SerializeToString()),
        ("", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789\nsize 553432081\n"),
        ("", b"\x89HDF\r\n\x1a\n" + bytes(100)),
        ("", b"PK\3\4" + bytes(100)),
        ("", b"\x80\2}q\0."),
    ],
)
def test_what_is_no_caffemodel_is_refused_with_the_reason(tmp_path, reason, content):
    """A reader that runs out of a message, trusts its numbers, or raises what Python raises."""
    assert reason in refused(tmp_path / "a.caffemodel", content)


def test_a_name_that_is_very_long_is_refused(tmp_path):
    """A name of a megabyte, kept again for each of a thousand blobs."""
    network = CAFFE["NetParameter"]()
    layer = network.layer.add(name="x" * 501)
    add_blob(layer, BIAS)
    assert "more than 500 bytes" in refused(tmp_path / "a.caffemodel", network.SerializeToString())


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    """FileNotFoundError, IsADirectoryError."""
    for path in (tmp_path / "missing.caffemodel", tmp_path):
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            caffe.read(path)


@pytest.mark.parametrize("network", [new_network, old_network])
def test_a_file_cut_off_anywhere_has_all_its_numbers_or_is_refused(tmp_path, network):
    """Numbers made up for the missing ones. (Behind a layer nothing tells that more should come: here, a ReLU.)"""
    whole = network().SerializeToString()
    outcomes = [read_or_refused(tmp_path / "a.caffemodel", whole[:length]) for length in range(len(whole))]
    assert outcomes[0] is None
    for arrays in outcomes:
        if arrays is not None:
            assert_same_bits(arrays, caffe_arrays(whole))


def caffe_arrays(content):
    """What the protobuf library says about a file, for layers with names of their own and blobs of floats."""
    network = ORACLE["NetParameter"].FromString(content)
    arrays = {}
    for layer in [*network.layers, *network.layer]:
        for part, blob in zip(("weight", "bias", "2", "3"), layer.blobs, strict=False):
            sizes = [size for _, size in blob.ListFields() if isinstance(size, int)]
            legacy = [blob.num, blob.channels, blob.height, blob.width]
            values = np.array(blob.double_data, np.float64) if blob.double_data else np.array(blob.data, np.float32)
            arrays[f"{layer.name}.{part}"] = values.reshape(legacy if sizes else list(blob.shape.dim))
    return arrays


@given(st.sampled_from([new_network, old_network]), st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=3))
def test_flipped_bits_are_read_as_protobuf_reads_them_or_refused(tmp_path_factory, network, flips):
    """KeyError, OverflowError, MemoryError … from inside; other numbers than protobuf's."""
    damaged = bytearray(network().SerializeToString())
    for position, bit in flips:
        damaged[position % len(damaged)] ^= 1 << bit
    arrays = read_or_refused(tmp_path_factory.getbasetemp() / "flipped.caffemodel", damaged)
    assert arrays is not None or flips
    if arrays is not None:
        assert_same_bits(arrays, caffe_arrays(bytes(damaged)))
