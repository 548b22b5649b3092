"""Caffe's files as protobuf writes them: message classes made of the parts of Caffe's schema that matter."""

import re

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message -> its fields in a .proto's words: [repeated] type name = number. Types and numbers as in Caffe's caffe.proto.
SCHEMA = {
    "BlobShape": "repeated int64 dim = 1",
    "BlobProto": "int32 num = 1; int32 channels = 2; int32 height = 3; int32 width = 4; repeated float data = 5; "
    "repeated float diff = 6; BlobShape shape = 7; repeated double double_data = 8; repeated double double_diff = 9",
    "LayerParameter": "string name = 1; string type = 2; repeated string bottom = 3; repeated string top = 4; "
    "repeated float loss_weight = 5; repeated BlobProto blobs = 7; int32 phase = 10",
    "V1LayerParameter": "repeated string bottom = 2; repeated string top = 3; string name = 4; int32 type = 5; "
    "repeated BlobProto blobs = 6; repeated float blobs_lr = 7; repeated string param = 1001",
    "NetParameter": "string name = 1; repeated V1LayerParameter layers = 2; repeated string input = 3; "
    "repeated int32 input_dim = 4; repeated BlobShape input_shape = 8; repeated LayerParameter layer = 100",
    "SolverState": "int32 iter = 1; string learned_net = 2; repeated BlobProto history = 3",
}


# What the reader reads of them. protobuf checks the others too, but passes over those that it does not know.
READ = {
    *("dim", "num", "channels", "height", "width", "data", "shape", "double_data", "name", "blobs", "layers", "layer")
}


def messages(packed, only=None):
    """The message classes of SCHEMA; `packed` is the option that Caffe sets on the numbers of blobs and shapes."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for repeated, kind, field_name, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+)", fields):
            if only and field_name not in only:
                continue
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=int(number), label=label)
            if kind in SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if packed and name in ("BlobShape", "BlobProto") and repeated:
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in SCHEMA}


CAFFE, UNPACKED, ORACLE = messages(packed=True), messages(packed=False), messages(packed=True, only=READ)


def add_blob(layer, array, legacy=None, key="data"):
    """A blob with the array's shape, or with four legacy dimensions."""
    blob = layer.blobs.add()
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = legacy
    else:
        blob.shape.dim.extend(array.shape)
    getattr(blob, key).extend(array.ravel())
    return blob
