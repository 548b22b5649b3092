"""PyTorch's files: what torch.save wrote is read bit for bit; what would run, lie or exhaust the memory is refused."""

import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from minifcn.errors import WeightsError
from minifcn.weights.formats import pickles, pytorch
from minifcn.weights.formats.pytorch import read_legacy, read_zip

REMEDY = 'save only the state dict: torch.save(model.state_dict(), "weights.pth")'
READERS = {"zip": read_zip, "legacy": read_legacy}
containers = pytest.mark.parametrize("container", READERS)


# Files: of PyTorch, and by hand.


def saved(path, value, container, **options):
    """The file that torch.save writes."""
    torch = pytest.importorskip("torch")
    torch.save(value, path, _use_new_zipfile_serialization=container == "zip", **options)
    return path


def dump(value):
    """The instructions that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def storage(kind="FloatStorage", key="0", count=4, view=b""):
    return b"(" + dump("storage") + f"ctorch\n{kind}\n".encode() + dump(key) + dump("cpu") + dump(count) + view + b"tQ"


def tensor(of=None, offset=0, size=(4,), stride=(1,), function="_rebuild_tensor_v2", more=b"\x89)"):
    arguments = (storage() if of is None else of) + dump(offset) + dump(size) + dump(stride)
    return f"ctorch._utils\n{function}\n(".encode() + arguments + more + b"tR"


def state_dict(**tensors):
    return b"}(" + b"".join(dump(name) + instructions for name, instructions in tensors.items()) + b"u"


DATA = np.arange(4, dtype="<f4").tobytes()


def handmade(path, instructions, container="zip", storages=None, byte_order="little", **entries):
    """A file around the instructions of a pickle. storages: their bytes (in the legacy container, of float32)."""
    storages = {"0": DATA} if storages is None else storages
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + instructions + b".")
            for name, content in {"byteorder": byte_order, **entries}.items():
                archive.writestr(f"archive/{name}", content)
            for key, content in storages.items():
                archive.writestr(f"archive/data/{key}", content)
    else:
        header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": byte_order == "little"}]
        content = b"".join(pickle.dumps(value, 2) for value in header) + b"\x80\x02" + instructions + b"."
        content += pickle.dumps(list(storages), 2)
        path.write_bytes(content + b"".join(struct.pack("<q", len(data) // 4) + data for data in storages.values()))
    return path


def refused(path, container="zip"):
    """The message with which a file is refused: one line, with the file's name. Anything else fails."""
    with pytest.raises(WeightsError) as caught:
        READERS[container](path)
    message = str(caught.value)
    assert type(caught.value) is WeightsError
    assert str(path) in message
    assert "\n" not in message
    return message.replace(str(path), "")


def read_or_refused(path, container):
    """The arrays of the file, or none if it is refused as it should be."""
    try:
        return READERS[container](path)
    except WeightsError:
        refused(path, container)
        return {}


def peak_of(call):
    """The most bytes that Python and NumPy held at once during the call, beyond those before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def same_bits(array, expected):
    """Shape, type in native byte order, and every bit (NaNs, too)."""
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype.newbyteorder("="))
    assert array.tobytes() == expected.tobytes()


# What PyTorch wrote.


def every_kind_of_tensor(torch):
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 240, dtype=np.uint8))
    types = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "complex64", "complex128"]
    types += ["uint64", "uint32", "uint16", "uint8"]
    tensors = {name: bits.clone().view(getattr(torch, name)) for name in types}
    base = torch.arange(24.0).reshape(2, 3, 4)
    return tensors | {
        "bool": bits > 99,
        "0-d": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "empty, huge": torch.empty(5, 0, 4096),
        "empty, at the end": base.flatten()[24:],
        "transposed": base.transpose(0, 2),
        "sliced": base[1:, ::2, 1:],
        "fortran": torch.from_numpy(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 7),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "needs gradient": torch.ones(2, requires_grad=True),
        "ключ/with space": torch.ones(1),
    }


@containers
def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path, container):
    """Offset or strides ignored or taken for bytes; 0-d as (1,); types of the new storages (uint16) unknown."""
    torch = pytest.importorskip("torch")
    tensors = every_kind_of_tensor(torch)
    loaded = READERS[container](saved(tmp_path / "a.pth", tensors, container))
    assert list(loaded) == list(tensors)
    for name, expected in tensors.items():
        same_bits(loaded[name], expected.detach().numpy())


@containers
def test_all_bfloat16_numbers_become_the_same_float32(tmp_path, container):
    """The bits put into the lower half; a view of bfloat16 with the offset of float32."""
    torch = pytest.importorskip("torch")
    numbers = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).reshape(256, 256)
    path = saved(tmp_path / "a.pth", {"all": numbers, "view": numbers.T[3:, 5]}, container)
    loaded = READERS[container](path)
    expected = (np.arange(2**16, dtype=np.uint32) << 16).reshape(256, 256)
    same_bits(loaded["all"], expected.view(np.float32))
    same_bits(loaded["view"], np.ascontiguousarray(expected.T[3:, 5]).view(np.float32))


@containers
def test_shared_memory_is_shared_and_belongs_to_the_caller(tmp_path, container):
    """Every tensor read for itself: tied weights become two, and a small file a large array. Read-only arrays."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(6.0)
    path = saved(tmp_path / "a.pth", {"whole": whole, "part": whole[2:4], "tied": whole}, container)
    loaded = READERS[container](path)
    path.unlink()
    loaded["whole"] += 10
    assert_array_equal(loaded["part"], [12, 13])
    assert_array_equal(loaded["tied"], np.arange(6) + 10)


@containers
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_a_models_state_dict_in_every_protocol(tmp_path, container, protocol):
    """MEMOIZE, FRAME and STACK_GLOBAL of protocol 4; the _metadata of state dicts taken for an entry."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    expected = model.state_dict()
    assert isinstance(expected, OrderedDict)
    assert expected._metadata
    loaded = READERS[container](saved(tmp_path / "a.pth", expected, container, pickle_protocol=protocol))
    assert list(loaded) == list(expected)
    for name, array in loaded.items():
        same_bits(array, expected[name].numpy())


def checkpoints(torch):
    """What training scripts save, and the names that are expected of it."""
    one, two = torch.ones(1), torch.zeros(2)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(two).backward()
    optimizer.step()
    weights = {"a.weight": one, "a.bias": two}
    beside = {"epoch": 3, "loss": 0.5, "large": 2**40, "none": None, "name": "x", "bytes": b"\xff", "size": two.shape}
    beside |= {"device": torch.device("cpu"), "dtype": torch.float32, "best": np.float64(0.5), "n": np.int64(3)}
    tagged = torch.nn.Parameter(one)
    tagged.tag = "of a tensor with attributes"
    names = ["a.weight", "a.bias"]
    return [
        (weights | beside, names),
        *(({"optimizer": optimizer.state_dict(), name: weights} | beside, names)
          for name in ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module")),
        ({"model": {"state_dict": weights, "arch": "vgg"}}, names),
        ({"params": {"b": one}, "state_dict": weights}, names),
        ({"best": one, "state_dict": weights}, names),  # the best accuracy, left on the device
        ({"my_net": weights} | beside, names),
        ({"generator": {"conv.weight": one}, "critic": {"conv.weight": one}, "epoch": 3},
         ["generator.conv.weight", "critic.conv.weight"]),
        ({"a": {"b": one, "c.d": two}, "e": [{"f": one}], "g": {}}, ["a.b", "a.c.d", "e.0.f"]),
        ({"model": tagged}, ["model"]),
        ({7: one, "b": [1, {2: 3}]}, ["7"]),
        ([one, 5, two], ["0", "2"]),
        ((one,), ["0"]),
        (one, ["tensor"]),
    ]  # fmt: skip


@containers
def test_the_state_dict_is_found_in_a_checkpoint(tmp_path, container):
    """The optimiser's tensors among the model's; the state dict found only under one of its names."""
    torch = pytest.importorskip("torch")
    for value, names in checkpoints(torch):
        loaded = READERS[container](saved(tmp_path / "a.pth", value, container))
        assert list(loaded) == names, value
        assert {array.shape for array in loaded.values()} <= {(1,), (2,)}, value


@containers
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda torch: torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), "torch.nn.modules.container.Sequential"),
        (lambda torch: {"a": torch.ones(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
        (lambda torch: {"a": torch.ones(2).to(torch.float8_e4m3fn)}, "torch.float8_e4m3fn"),
        (lambda torch: {"a": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}, "_rebuild_qtensor"),
        (lambda torch: {"a": torch.ones(2, device="meta")}, "torch._utils._rebuild_meta_tensor_no_storage"),
        (lambda torch: {"a": torch.ones(2, dtype=torch.complex64).conj()}, "metadata"),
        (lambda torch: {"a": torch.ones(1), "size": {(3, 4): 5}}, "type tuple as a key"),
        (lambda torch: (lambda a: {"a": a, "b": a.view(torch.uint32)})(torch.ones(2).to(torch.uint16)), "'b'"),
        (lambda torch: {"epoch": 3}, "no tensors"),
        (lambda torch: {1: torch.ones(1), "1": torch.ones(1)}, "two tensors with the name '1'"),
        (lambda torch: {"a\nb": torch.ones(1)}, "'a\\nb'"),
        (lambda torch: {"a" * 501: torch.ones(1)}, "500 letters"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_not_a_dict_of_plain_tensors_is_refused_by_name(tmp_path, container, make, name):
    """Tensors silently left out or silently wrong (a conjugated one without its conjugation); no word of the remedy."""
    torch = pytest.importorskip("torch")
    path = saved(tmp_path / "a.pth", make(torch), container)
    message = refused(path, container)
    assert name in message
    assert REMEDY in message


# What older versions and other machines wrote.


@containers
def test_files_of_python_2_are_read(tmp_path, container):
    """Python 2 writes strings as bytes, large numbers as text, and an OrderedDict as the list of its pairs."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    of = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"I4\n"
    of += (b"N" if container == "legacy" else b"") + b"tQ"
    pairs = b"]]" + text(b"classifier.0.weight") + b"a" + tensor(of, function="_rebuild_tensor", more=b"") + b"aa"
    instructions = b"ccollections\nOrderedDict\n" + pairs + b"\x85R}" + text(b"_metadata") + b"Nsb"
    loaded = READERS[container](handmade(tmp_path / "a.pth", instructions, container))
    assert list(loaded) == ["classifier.0.weight"]
    same_bits(loaded["classifier.0.weight"], np.arange(4, dtype=np.float32))


def test_big_endian_zips_are_read(tmp_path):
    """The bytes of another machine's numbers taken as they are; byteorder believed when it says nonsense."""
    numbers = np.array([1.5, -2, np.inf, 1e-9], np.float32)
    halves = np.array([1, 0x3F80, 0xC000, 0x7F80], np.uint16)  # bfloat16
    instructions = state_dict(a=tensor(), b=tensor(storage("BFloat16Storage", "1")))
    storages = {"0": numbers.astype(">f4").tobytes(), "1": halves.astype(">u2").tobytes()}
    loaded = read_zip(handmade(tmp_path / "a.pth", instructions, storages=storages, byte_order="big"))
    same_bits(loaded["a"], numbers)
    same_bits(loaded["b"], (halves.astype(np.uint32) << 16).view(np.float32))
    assert "byteorder" in refused(handmade(tmp_path / "a.pth", instructions, storages=storages, byte_order="middle"))


def test_before_there_was_a_byteorder_zips_were_little_endian(tmp_path):
    """KeyError: there is no item named 'archive/byteorder'."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("vgg/data.pkl", b"\x80\x02" + state_dict(a=tensor()) + b".")
        archive.writestr("vgg/data/0", DATA)
    assert_array_equal(read_zip(tmp_path / "a.pth")["a"], range(4))


def test_legacy_files_of_big_endian_machines_hold_little_endian_numbers(tmp_path):
    """Their header says "big", but PyTorch swaps before it writes; so must nobody who reads."""
    path = handmade(tmp_path / "a.pth", state_dict(a=tensor()), "legacy", byte_order="big")
    assert_array_equal(read_legacy(path)["a"], range(4))


def test_views_of_storages_in_legacy_files(tmp_path):
    """The view's first element forgotten, or a tensor that leaves its view but not the storage."""
    view = storage(view=dump(("9", 1, 2)))
    path = handmade(tmp_path / "a.pth", state_dict(a=tensor(view, 1, (1,)), b=tensor(storage(view=b"N"))), "legacy")
    loaded = read_legacy(path)
    assert_array_equal(loaded["a"], [2])
    loaded["a"][0] = 7
    assert_array_equal(loaded["b"], [0, 1, 7, 3])
    assert "does not fit" in refused(handmade(path, state_dict(a=tensor(view, 1, (2,))), "legacy"), "legacy")
    for wrong in (("9", 3, 2), ("9", -1, 2), ("9", 2, -1), ("9", 0), ("9", "0", 1), "9"):
        outside = state_dict(a=tensor(storage(view=dump(wrong)), size=(0,)))
        reason = "cannot have that size" if wrong[1:] in ((3, 2), (-1, 2), (2, -1)) else "the description of a storage"
        assert reason in refused(handmade(path, outside, "legacy"), "legacy")


# What would run.


@containers
@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.eval", "__builtin__.eval", "subprocess.run"])
def test_functions_are_refused_by_name_and_not_called(tmp_path, container, name):
    """REDUCE that calls. (pickle.loads shows that the instructions are right: it does what they say.)"""
    victim = tmp_path / "sentinel"
    module, function = name.split(".")
    words = [sys.executable, "-c", f"import os; os.mkdir({str(victim)!r})"]
    argument = {"eval": f"__import__('os').mkdir({str(victim)!r})", "system": f'mkdir "{victim}"', "run": words}[
        function
    ]
    call = f"c{module}\n{function}\n".encode() + dump((argument,)) + b"R"
    if os.name == "posix":
        pickle.loads(b"\x80\x02" + call + b".")
        assert victim.exists()
        victim.rmdir()
    for instructions in (call, state_dict(a=tensor()) + b"(" + call + b"NtN", b"]" + call + b"a"):
        message = refused(handmade(tmp_path / "a.pth", instructions, container), container)
        assert f"'{name}'" in message
        assert REMEDY in message
        assert not victim.exists()


def call(name, *arguments):
    return b"c" + "\n".join(name.rsplit(".", 1)).encode() + b"\n" + dump(arguments) + b"R"


GETATTR = b"c__builtin__\ngetattr\n(cos\npath\n" + dump("os") + b"tR"
STACK_GLOBAL = dump("os") + dump("system") + b"\x93" + dump(("true",)) + b"R"


@containers
@pytest.mark.parametrize(
    ("instructions", "named"),
    [
        (GETATTR, "'__builtin__.getattr'"),
        (STACK_GLOBAL, "'os.system'"),
        (dump("torch._utils") + b"]\x93", "a name is not a string"),
        (b"(" + dump("true") + b"ios\nsystem\n", "INST"),
        (b"(cos\nsystem\n" + dump("true") + b"o", "'os.system'"),
        (b"(ccollections\nOrderedDict\no", "OBJ"),
        (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
        (b"ccollections\nOrderedDict\n)}\x92", "NEWOBJ_EX"),
        (b"\x82\x01", "EXT1"),
        (b"\x83\x01\0", "EXT2"),
        (b"\x84\x01\0\0\0", "EXT4"),
        (b"P0\n", "PERSID"),
        (rb"S'\d'" + b"\n", "STRING"),  # whose argument Python decodes with a warning
        (b"\x97", "NEXT_BUFFER"),
        (call("torch.hub._import_module", "a", "b"), "'torch.hub._import_module'"),
        (call("torch._utils._rebuild_tensor_v2.__globals__"), "'torch._utils._rebuild_tensor_v2.__globals__'"),
        (b"ctorch\nFloatStorage.__init__\n", "'torch.FloatStorage.__init__'"),
        (b"cos\x1b[2J\nx\ty\n", "'os\\x1b[2J.x\\ty'"),  # on one line, and nothing for the terminal
        (b"c\\d\nx\xff\n", r"'\\d.x\\xff'"),
        (b"c" + b"x" * 10**6 + b"\n" + b"y" * 10**6 + b"\n", "'" + "x" * 60 + "'"),
        (dump("text") + dump(()) + b"R", "'text' is called"),
        (dump({"a": 1}) + dump(()) + b"R", "type dict is called"),
        (b"ctorch\nFloatStorage\n" + dump((4,)) + b"R", "type ElementType is called"),
        (b"ccollections\nOrderedDict\n]R", "called with a value of type list"),
    ],
)
def test_other_ways_to_call_something_are_refused_by_name(tmp_path, container, instructions, named):
    """A path around REDUCE: INST, OBJ, NEWOBJ, the extension registry, names made on the stack or with dots in them."""
    for before in (b"", state_dict(a=tensor())):
        assert named in refused(handmade(tmp_path / "a.pth", before + instructions, container), container)


# What lies.

UINT16 = b"\x89)ctorch\nuint16\n"
UNTYPED = storage("UntypedStorage", count=16)
MALFORMED = {  # the reason that is given, and for what
    "an instruction needs more values": [b"}" + dump("a") + b"N(s", b"}s", b"b", b"q\x05", b"(", b"}(q\x05", b"\x85"],
    "beginning of a list, tuple or dict is missing": [b"}u", b"t", b"]e"],
    "never stored": [b"h\x05", b"j\xff\xff\xff\xff"],
    "keys and values are put into": [b"}(" + dump("a") + b"u", b"](" + dump("a") + b"Nu", b"NNNs"],
    "are appended to": [b"}Na", b"}(Ne"],
    "cut off or makes no sense": [
        *(b"X\xff\xff\xff\x7fabc", b"X\x02\0\0\0\xff\xfe", b"Ix\n", b"I" + b"1" * 10**6 + b"\n"),
        *(b"\x8e" + struct.pack("<Q", 2**60) + b"abc", b"\x8d" + b"\xff" * 8 + b"abc"),
    ],
    "the description of a storage": [
        *(b"NQ", b"]" + dump((1, 2)) + b"aQ", storage().replace(b"storage", b"Storage")),
        b"(" + dump("storage") + dump("torch.FloatStorage") + dump("0") + dump("cpu") + dump(4) + b"tQ",
    ],
    "cannot have that size": [storage(count=-1), storage(count=2**60), storage(count=2**100)],
    "described in two ways": [
        tensor() + tensor(storage("IntStorage")),
        tensor() + tensor(storage(count=5)),
    ],
    "the description of a tensor": [
        *(tensor(dump("0")), tensor(size=[4]), b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
        tensor(function="_rebuild_tensor_v3"),  # without a type
        tensor(size=(2,), function="_rebuild_tensor_v3", more=UINT16),  # whose storage has a type
    ],
    "a Tensor is missing": [call("torch._utils._rebuild_parameter", 1, True), call("torch._utils._rebuild_parameter")],
    "a tuple is missing": [call("torch.Size"), call("torch.Size", [1])],
    "not made of pairs": [call("collections.OrderedDict", [[1]]), call("collections.OrderedDict", "ab")],
    "as a key": [
        *(b"}NNs", b"})Ns", b"}" + dump(2**64) + b"Ns", b"}" + dump(1.5) + b"Ns"),
        call("collections.OrderedDict", [[(), 1]]),
    ],
    "does not fit": [
        *(tensor(offset=1), tensor(size=(5,)), tensor(stride=(2,)), tensor(storage(count=3)), tensor(stride=(2**62,))),
        tensor(UNTYPED, size=(9,), function="_rebuild_tensor_v3", more=UINT16),
    ],
    "is not a number, or below 0": [
        *(tensor(offset=-1), tensor(offset=2**64), tensor(size=(-4,)), tensor(size=(2**63,), stride=(0,))),
        *(tensor(offset=3, stride=(-1,)), tensor(size=("4",)), tensor(size=(True,))),
    ],
    "cannot have the size": [
        *(tensor(size=(2**32, 2**32), stride=(0, 0)), tensor(size=(2**62, 2**62, 0), stride=(0, 0, 0))),
        *(tensor(size=(2, 2)), tensor(size=(1,) * 65, stride=(1,) * 65)),
    ],
    "16 deep": [b"}" + (dump("a") + b"}") * 1000 + dump("a") + tensor() + b"s" * 1001],
    "claims to hold 4,398,046,511,104 bytes": [
        state_dict(a=tensor(size=(2**40,), stride=(0,))),
        state_dict(a=tensor(size=(2**40, 0), stride=(1, 1))),
    ],
    "no tensors": [b"]q\x01h\x01a", storage()],
}


@containers
@pytest.mark.parametrize("reason", MALFORMED)
def test_what_makes_no_sense_is_refused_and_allocates_nothing(tmp_path, container, reason):
    """IndexError, KeyError, OverflowError, RecursionError …, a crash, or memory for whatever is claimed."""
    for instructions in MALFORMED[reason]:
        path = handmade(tmp_path / "a.pth", instructions, container)
        messages = []
        peak = peak_of(lambda path=path, messages=messages: messages.append(refused(path, container)))
        assert reason in messages[0], instructions
        assert peak < 3 * 2**20 + 40 * path.stat().st_size, instructions


def test_storages_that_are_not_as_they_are_described_are_refused(tmp_path):
    """Memory for the elements that are claimed; elements that are left as they were found in memory."""
    path = tmp_path / "a.pth"
    for count, zip_reason, legacy_reason in [
        (3, "has not the 12 bytes", "should have 3 elements, but has 4"),
        (5, "has not the 20 bytes", "should have 5 elements, but has 4"),
        (2**50, "claims to hold", "should have 1,125,899,906,842,624 elements"),
    ]:
        instructions = state_dict(a=tensor(storage(count=count), size=(3,)))
        assert zip_reason in refused(handmade(path, instructions))
        assert legacy_reason in refused(handmade(path, instructions, "legacy"), "legacy")
    for key in ("1", "../../../etc/passwd"):
        instructions = state_dict(a=tensor(storage(key=key)))
        assert "is missing" in refused(handmade(path, instructions))
        assert "no tensor has" in refused(handmade(path, instructions, "legacy"), "legacy")
        assert "is missing" in refused(handmade(path, instructions, "legacy", storages={}), "legacy")
    whole = handmade(path, state_dict(a=tensor()), "legacy").read_bytes()
    for old, new, reason in [
        (pickle.dumps(["0"], 2), pickle.dumps(0, 2), "no list of its storages"),
        (pickle.dumps(["0"], 2), pickle.dumps([["0"]], 2), "type list as a storage"),
        (pickle.dumps(1001, 2), pickle.dumps(1002, 2), "its protocol is not 1001"),
    ]:
        path.write_bytes(whole.replace(old, new))
        assert reason in refused(path, "legacy")
    beside = state_dict(model=state_dict(a=tensor()), optimizer=state_dict(b=tensor(storage(key="1"))))
    whole = handmade(path, beside, "legacy", storages={"0": DATA, "1": DATA}).read_bytes()
    assert list(read_legacy(path)) == ["a"]
    path.write_bytes(whole[:-1])  # though only the optimiser's storage is cut off
    assert "it is cut off" in refused(path, "legacy")


@containers
def test_strides_and_offsets_that_do_not_matter_may_be_anything(tmp_path, container):
    """PyTorch keeps the stride of a size of 1, and the offset of what is empty: OverflowError from NumPy."""
    tensors = {
        "one": tensor(offset=2, size=(1, 1), stride=(2**62, 7)),
        "nothing": tensor(offset=100, size=(2, 0), stride=(2**62, 2**62)),
    }
    loaded = READERS[container](handmade(tmp_path / "a.pth", state_dict(**tensors), container))
    assert_array_equal(loaded["one"], [[2]])
    assert loaded["nothing"].shape == (2, 0)


@containers
def test_a_pickle_that_is_too_long_is_refused(tmp_path, container, monkeypatch):
    """As much memory as the entry data.pkl of a zip claims, or all of a legacy file for its pickles."""
    monkeypatch.setattr(pytorch, "MAX_PICKLE_BYTES", 1000)
    path = handmade(tmp_path / "a.pth", state_dict(a=tensor()) + dump("x" * 1000) + b"\x85", container)
    assert ("claims to have 1," if container == "zip" else "cut off") in refused(path, container)


def test_tuples_a_hundred_thousand_deep_are_refused(tmp_path):
    """CPython computes their hash, compares and prints them by recursion in C: the process dies."""
    deep = b")" + b"\x85" * 10**5
    as_size = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\0" + deep + b")tR"
    for instructions, named in [
        (b"}" + deep + b"Ns", "type tuple as a key"),
        (as_size, "the offset, size or stride of a tensor"),
        (deep + b"Q", "the description of a storage"),
        (b"ccollections\nOrderedDict\n" + deep + b"R", "OrderedDict"),
        (deep + deep + b"R", "type tuple is called with a value of type tuple"),
        (dump("os") + deep + b"\x93", "a name is not a string"),
        (deep, "16 deep"),
    ]:
        assert named in refused(handmade(tmp_path / "a.pth", instructions))


@containers
def test_loops_end_and_large_indices_cost_nothing(tmp_path, container):
    """A dict that contains itself walked for ever; a memo that is an array as long as its largest index."""
    loop = b"}q\x01(" + dump("self") + b"h\x01" + dump("a") + tensor() + b"u"
    assert list(READERS[container](handmade(tmp_path / "a.pth", loop, container))) == ["a"]
    far = state_dict(a=tensor()) + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff" + b"\x85"
    path = handmade(tmp_path / "a.pth", far, container)
    assert peak_of(lambda: READERS[container](path)) < 3 * 2**20


@containers
def test_a_small_pickle_cannot_become_large(tmp_path, container, monkeypatch):
    """Dicts in dicts that double with every level; a long list copied again and again; instructions without end."""
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 2000)
    pair = dump("a") + b"h\x01" + dump("b") + b"h\x01"
    doubling = tensor() + b"q\x01" + (b"}(" + pair + b"uq\x01") * 15
    read = READERS[container](handmade(tmp_path / "a.pth", doubling, container))
    assert list(read) == ["a", "b"]
    pairs = b"](" + b"".join(b"](" + dump(f"k{i}") + b"Ne" for i in range(100)) + b"e"
    once = pairs + b"\x85q\x01" + b"ccollections\nOrderedDict\nh\x01R"
    assert "no tensors" in refused(handmade(tmp_path / "a.pth", once, container), container)
    again_and_again = once + b"ccollections\nOrderedDict\nh\x01R" * 20
    assert "2,000 instructions" in refused(handmade(tmp_path / "a.pth", again_and_again, container), container)
    arguments = b"(" + b"N" * 100 + b"tq\x01" + b"ctorch\ndevice\nh\x01R" * 20
    assert "2,000 instructions" in refused(handmade(tmp_path / "a.pth", arguments, container), container)
    assert "2,000 instructions" in refused(handmade(tmp_path / "a.pth", b"}" * 2001, container), container)


@containers
def test_what_training_scripts_save_beside_the_tensors_does_not_matter(tmp_path, container):
    """A whole checkpoint refused for the options or the scheduler in it."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint |= {"lr_scheduler": scheduler.state_dict(), "args": Namespace(lr=0.1, names=["a"]), "epoch": 3}
    loaded = READERS[container](saved(tmp_path / "a.pth", checkpoint, container))
    assert set(loaded) == {"weight", "bias"}
    same_bits(loaded["weight"], model.weight.detach().numpy())


@containers
def test_a_tensor_under_many_names_is_no_bomb(tmp_path, container):
    """Tied weights, which share their storage, counted once for each name."""
    torch = pytest.importorskip("torch")
    tied = torch.ones(2**22)  # 16 MiB
    loaded = READERS[container](saved(tmp_path / "a.pth", {f"t{i}": tied for i in range(12)}, container))
    assert len(loaded) == 12
    assert np.shares_memory(loaded["t0"], loaded["t11"])


@containers
def test_a_key_that_stands_twice_is_refused(tmp_path, container):
    """The last of two tensors winning in silence."""
    twice = b"}(" + dump("a") + tensor() + dump("a") + tensor(offset=1, size=(1,), stride=(1,)) + b"u"
    assert "the key 'a' twice" in refused(handmade(tmp_path / "a.pth", twice, container), container)


@containers
def test_many_views_of_a_small_storage_are_refused(tmp_path, container):
    """Each view is small enough by itself; their sum is what whoever copies them needs."""
    large = tensor(size=(2**20,), stride=(0,))  # 4 MiB
    few = handmade(tmp_path / "a.pth", state_dict(**{f"t{i}": large for i in range(15)}), container)
    assert READERS[container](few)["t14"].shape == (2**20,)
    many = handmade(tmp_path / "a.pth", state_dict(**{f"t{i}": large for i in range(17)}), container)
    assert "claims to hold 71,303,168 bytes" in refused(many, container)


# What is damaged.


def small(path, container):
    return saved(path, {"a": pytest.importorskip("torch").arange(3.0), "b": {"c": 1}}, container)


@containers
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path, container):
    """A length for which the reader raises something else, or fills the rest with zeros."""
    path = small(tmp_path / "a.pth", container)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, container)
    path.write_bytes(whole)
    assert_array_equal(READERS[container](path)["a"], [0, 1, 2])


@containers
def test_a_changed_file_is_read_or_refused_but_never_worse(tmp_path_factory, container):
    """Whatever stands in the file: no exception of a library, no crash, no warning."""
    path = tmp_path_factory.mktemp("changed") / "a.pth"
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    whole = saved(path, {"state_dict": tensors, "epoch": 3}, container).read_bytes()
    change = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(change, min_size=1, max_size=4))
    def check(changes):
        changed = bytearray(whole)
        for position, byte in changes:
            changed[position] = byte
        path.write_bytes(changed)
        loaded = read_or_refused(path, container)
        assert all(isinstance(array, np.ndarray) for array in loaded.values())
        assert sum(array.nbytes for array in loaded.values()) < 65 * 2**20

    check()


@containers
@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_instructions_at_all_are_read_or_refused(tmp_path_factory, container, content):
    """An instruction that takes what is not there, or what is of another kind."""
    path = handmade(tmp_path_factory.getbasetemp() / f"{container}.pth", state_dict(a=tensor()) + content, container)
    assert list(read_or_refused(path, container)) in (["a"], [])


@containers
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"<!DOCTYPE html>\n<html>", b"PK\x03\x04" + bytes(60), b"PK\x05\x06" + bytes(18)]
)
def test_files_that_are_something_else_are_refused_by_name(tmp_path, container, content):
    """An exception of the parser's, which knows neither the file nor what was expected of it."""
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refused(path, container)


@containers
def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path, container):
    """FileNotFoundError, IsADirectoryError."""
    assert "a weight file is expected" in refused(tmp_path / "missing.pth", container)
    assert "a weight file is expected" in refused(tmp_path, container)


def test_a_pickle_that_torch_did_not_save_says_so(tmp_path):
    """A dict of lists taken for a damaged file of PyTorch."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": [1, 2]}))
    assert "a pickle, but not one of torch.save" in refused(path, "legacy")


def rezipped(path, change, compression=zipfile.ZIP_STORED):
    """A good archive whose entries, name -> content, `change` may change."""
    with zipfile.ZipFile(handmade(path, state_dict(a=tensor()))) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in change(entries):
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda entries: [*entries, ("archive/constants.pkl", b"")], "TorchScript"),
        (lambda entries: [*entries, ("archive/code/__torch__.py", b"")], "TorchScript"),
        (lambda entries: [*entries, ("../../evil", b"")], "'../../evil'"),
        (lambda entries: [*entries, ("/etc/passwd", b"")], "'/etc/passwd'"),
        (lambda entries: [*entries, ("other/data.pkl", b"")], "2 entries data.pkl"),
        (lambda entries: entries[1:], "0 entries data.pkl"),
        (lambda entries: entries[:-1], "'archive/data/0' is missing"),
        (lambda entries: [*entries[:-1], (entries[-1][0], bytes(15))], "has not the 16 bytes"),
        (lambda entries: [*entries[:-1], (entries[-1][0], bytes(17))], "has not the 16 bytes"),
    ],
)
def test_zips_of_other_programs_are_refused_by_name(tmp_path, change, named):
    """TorchScript read as if it were a state dict; KeyError for a missing entry."""
    assert named in refused(rezipped(tmp_path / "a.pth", change))


def test_zips_that_are_compressed_encrypted_ambiguous_or_changed_are_refused(tmp_path):
    """The second of two entries of one name, numbers that fail their checksum, a compressed bomb."""
    path = rezipped(tmp_path / "a.pth", lambda entries: entries, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        rezipped(path, lambda entries: [*entries, entries[-1]])
    assert "two entries of the zip archive have one name" in refused(path)
    good = rezipped(path, lambda entries: entries).read_bytes()
    path.write_bytes(good.replace(DATA, DATA[::-1]))
    assert "Bad CRC-32" in refused(path)
    flags = good.rfind(b"PK\x01\x02") + 8  # of the last entry, data/0, in the central directory
    path.write_bytes(good[:flags] + b"\x01" + good[flags + 1 :])
    assert "encrypted" in refused(path)
    size = good.rfind(b"PK\x01\x02") + 24  # uncompressed, of the last entry, data/0, in the central directory
    longer = handmade(path, state_dict(a=tensor(storage(count=5), size=(5,)))).read_bytes()
    assert len(longer) == len(good)
    path.write_bytes(longer[:size] + struct.pack("<I", 20) + longer[size + 4 :])
    assert "cut off" in refused(path)


# Time and memory.


def test_storages_that_no_returned_tensor_needs_are_not_read(tmp_path):
    """The optimiser's state, twice as large as the model, read and thrown away."""
    beside = state_dict(momentum=tensor(storage(key="1", count=4)))
    both = state_dict(model=state_dict(a=tensor()), optimizer=beside)
    path = handmade(tmp_path / "a.pth", both, storages={"0": DATA, "1": b"damaged"})
    assert list(read_zip(path)) == ["a"]


@containers
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_reading_takes_the_memory_of_the_arrays(tmp_path, container, kind):
    """A second copy of everything: bytes of an entry, then an array of them. (bfloat16: 4 bytes for 2, and the 2.)"""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.ones(2**20, dtype=getattr(torch, kind)) for name in "abcd"}
    path = saved(tmp_path / "a.pth", tensors, container)
    expected = 16 * 2**20 if kind == "float32" else 18 * 2**20
    # A legacy file's first 64 MiB are read for its pickles, and let go before the arrays are made.
    assert peak_of(lambda: READERS[container](path)) < expected + 4 * 2**20
