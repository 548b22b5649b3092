"""What is wrong with a GPU, told apart, each with its remedy. On the fake device, which raises what CuPy raises."""

import gc
import os
import re
import sys

import devices
import fake_cupy
import numpy as np
import pytest
from fake_cupy import CompileException, CUBLASError, CUDADriverError, CUDARuntimeError, NVRTCError, card
from tiny_runs import few_pictures, start, tiny

from minifcn import Tensor, backend, gpu, models, nn, ops, predict
from minifcn.autograd.function import Function
from minifcn.backend import choose_device, get_backend
from minifcn.commands import parse_memory, run_command, set_up_machine
from minifcn.errors import DeviceError, DeviceLostError, OutOfMemoryError, TrainingError, UsageError
from minifcn.training import SGD, study
from minifcn.training.checkpoint import read_progress

OLD_DRIVER = CUDARuntimeError(
    35, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"
)
# As CuPy 14.2 says it without its [ctk].
NO_NVRTC = RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13')
NO_CUBLAS = ImportError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file: libcublasLt.so.13')


@pytest.fixture
def fake(monkeypatch):
    """The modules in CuPy's place, a healthy card, and nothing opened yet."""
    modules = fake_cupy.modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("fault", "limit", "count", "compute_capability", "total_bytes"):
        monkeypatch.setattr(card, name, getattr(card, name))
    for name in ("CUPY_TF32", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
    return modules["cupy"]


def opening_fails(device="gpu"):
    with pytest.raises(DeviceError) as caught:
        backend._open_gpu(device)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--device {device}: ")
    return str(caught.value)


def versions(monkeypatch, cupy, driver, runtime):
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: driver)
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: runtime)


def test_cupy_that_is_not_installed(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "Install it for your CUDA version with pip install 'minifcn[gpu-cuda12]'" in opening_fails()


def test_a_broken_cupy(fake, monkeypatch, tmp_path):
    """Two wheels at once, or a library of another CUDA: to install one more would make it worse."""
    (tmp_path / "cupy.py").write_text("raise ImportError('libcublas.so.13: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    message = opening_fails()
    assert "CuPy cannot be imported (libcublas.so.13: cannot open" in message
    assert "Remove every cupy package and install one for your CUDA version" in message


@pytest.mark.parametrize("fault", [OLD_DRIVER, CUDARuntimeError(34, "cudaErrorStubLibrary", "CUDA driver is a stub")])
def test_no_driver(fake, monkeypatch, fault):
    """What a machine without a driver answers is the same error as that of one whose driver is too old."""
    card.fault = fault
    versions(monkeypatch, fake, 0, 13020)
    message = opening_fails()
    assert "There is no NVIDIA driver: install one" in message
    assert "leave out --device to use the CPU" in message


def test_a_wheel_for_another_cuda(fake, monkeypatch):
    card.fault = OLD_DRIVER
    versions(monkeypatch, fake, 12040, 13020)
    message = opening_fails()
    assert "This CuPy wheel is for CUDA 13.2, but the driver goes up to CUDA 12.4: install the wheel for" in message
    assert "minifcn[gpu-cuda12]" in message


@pytest.mark.parametrize("how", ["count", "error"])
def test_no_card(fake, how):
    if how == "count":
        card.count = 0
    else:
        card.fault = CUDARuntimeError(100, "cudaErrorNoDevice", "no CUDA-capable device is detected")
    message = opening_fails()
    assert "here is no NVIDIA card in this machine, or CUDA_VISIBLE_DEVICES hides it" in message


def test_a_number_beyond_the_last_card(fake):
    card.count = 2
    assert "CuPy sees 2 CUDA device(s), numbered from 0; use a smaller number" in opening_fails("gpu:2")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (NO_NVRTC, "CuPy's kernel compiler, NVRTC, is missing: install it with CuPy by pip install"),
        (CompileException("cannot open source file cuda_fp16.h"), "with the headers of its CUDA"),
        (NVRTCError("NVRTC_ERROR_BUILTIN_OPERATION_FAILURE (7)"), "NVRTC cannot compile for this device"),
        (
            CUDARuntimeError(209, "cudaErrorNoKernelImageForDevice", "no kernel image is available"),
            "built for other cards than this one: install a newer CuPy",
        ),
        (CUDARuntimeError(98, "cudaErrorInvalidDeviceFunction", "invalid device function"), "built for other cards"),
        (CUDADriverError(200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"), "built for other cards"),
        (CUDADriverError(209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image"), "built for other cards"),
        (CUDARuntimeError(2, "cudaErrorMemoryAllocation", "out of memory"), "Its memory is full: end what else"),
        (CUDADriverError(2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"), "Its memory is full: end what else"),
        (OutOfMemoryError("on the device", "512 bytes"), "Its memory is full: end what else"),
        (RuntimeError("something new"), "Install an NVIDIA driver that fits this CuPy"),
    ],
)
def test_a_device_that_computes_nothing(fake, monkeypatch, fault, words):
    """One answer for all of them sends people to install a driver when their compiler is missing."""
    monkeypatch.setattr(fake, "arange", lambda *arguments: (_ for _ in ()).throw(fault), raising=False)
    assert words in opening_fails()


def conv(device="gpu"):
    x = Tensor(np.ones((1, 2, 64, 64), np.float32), device=device)
    return x, Tensor(np.ones((4, 2, 3, 3), np.float32), requires_grad=True, device=device)


def test_out_of_memory_names_the_operation_the_bytes_and_what_to_lower():
    """A traceback that ends in CuPy's allocator; and the process goes on with less."""
    with devices.fake_gpu() as fake:
        x, weight = conv()
        fake.limit_memory(card.used_bytes + 40_000)
        with pytest.raises(OutOfMemoryError) as caught:
            ops.conv2d(x, weight, padding=1)
        message = str(caught.value)
        assert message.startswith("Conv2d of (1, 2, 64, 64), (4, 2, 3, 3): out of memory (on gpu ")
        wanted = (
            r"gpu [\d,]{5,} bytes are wanted, [\d,]+ of [\d,]+ that --gpu-memory-limit allows are free; this process"
        )
        assert re.search(wanted, message)
        assert caught.value.exit_code == 1
        assert isinstance(caught.value, MemoryError)
        fake.limit_memory(card.used_bytes + 10**6)
        assert ops.conv2d(x, weight, padding=1).shape == (1, 4, 64, 64)


@pytest.mark.parametrize("limited", [True, False])
def test_the_bytes_that_are_free_are_those_that_an_array_could_have(monkeypatch, limited):
    """Those of the card under a limit; or without those that CuPy keeps, of which the next array would have its own.
    What it keeps is given back: other programs may need it.
    """
    with devices.fake_gpu() as fake:
        free, kept = 5_000, 300
        monkeypatch.setattr(card, "kept_bytes", kept)
        if limited:
            fake.limit_memory(card.used_bytes + free)
        else:
            monkeypatch.setattr(card, "total_bytes", card.used_bytes + free)
        of = f"{card.used_bytes + free:,}{' that --gpu-memory-limit allows' if limited else ''}"
        with pytest.raises(OutOfMemoryError, match=rf"8,000 bytes are wanted, 5,000 of {of} are free; this process"):
            fake.asarray(np.ones(1000))
        assert card.kept_bytes == 0


def test_out_of_memory_names_the_layer():
    """Sixteen convolutions are called Conv2d."""
    with devices.fake_gpu() as fake:
        network = models.FCN8s(3, width=2, fc_width=4, geometry="same").to("gpu")
        image = Tensor(np.ones((1, 3, 64, 64), np.float32), device="gpu")
        fake.limit_memory(card.used_bytes + 20_000)
        with pytest.raises(OutOfMemoryError, match=r"^conv1_1: Conv2d of \(1, 3, 64, 64\)"):
            network(image)


def test_out_of_memory_in_backward_and_in_copying():
    """The gradients are half of the memory; pictures are copied before any operation."""
    with devices.fake_gpu() as fake:
        x, weight = conv()
        y = ops.conv2d(x, weight, padding=1).sum()
        fake.limit_memory(card.used_bytes + 5_000)
        with pytest.raises(OutOfMemoryError, match=r"backward of \(.*bytes are wanted"):
            y.backward()
        with pytest.raises(OutOfMemoryError, match=r"copying an array of \(9, 9, 9, 9\) to the device"):
            Tensor(np.ones((9, 9, 9, 9)), device="gpu")


def test_what_failed_leaves_no_memory_behind():
    """An exception that holds itself holds all arrays that were computed with, until Python looks for garbage."""
    with devices.fake_gpu() as fake:
        x, weight = conv()
        y = ops.conv2d(x, weight, padding=1)
        left = card.used_bytes
        fake.limit_memory(left + y.data.nbytes + 100)
        gc.collect()
        gc.disable()
        try:
            for compute in (lambda: ops.conv2d(x, weight, padding=1), lambda: y.backward(y.data)):
                with pytest.raises(OutOfMemoryError):
                    compute()
        finally:
            gc.enable()
        assert card.used_bytes <= left


def test_out_of_memory_where_gradients_are_added_up():
    """Said in CuPy's words, where it is not an operation that asks for the memory, but what adds up its gradients."""
    with devices.fake_gpu() as fake:
        x = Tensor(np.ones(1000), device="gpu", requires_grad=True)
        y, seed = x + x, fake.asarray(np.ones(1000))
        fake.limit_memory(card.used_bytes + 5_000)
        with pytest.raises(OutOfMemoryError, match=r"Add.backward of \(1000,\), \(1000,\): .*8,000 bytes are wanted"):
            y.backward(seed)
        fake.limit_memory(card.used_bytes + 10_000)
        x.backward(seed)
        with pytest.raises(OutOfMemoryError, match=r"adding up a gradient of \(1000,\): .*8,000 bytes are wanted"):
            x.backward(seed)


@pytest.mark.parametrize(
    "fault",
    [
        CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
        CUDARuntimeError(2, "cudaErrorMemoryAllocation", "out of memory"),
        CUDADriverError(2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    ],
    ids=str,
)
def test_what_fills_the_memory_beside_arrays_is_out_of_memory_too(fault):
    """Workspaces and code, which CuPy's pool knows nothing of."""
    with devices.fake_gpu():
        x, weight = conv()
        card.fault = fault
        with pytest.raises(OutOfMemoryError, match=str(fault)):
            ops.conv2d(x, weight)


def test_out_of_memory_names_the_layer_that_was_trained():
    """Of a fixed weight, which has no gradient, backward tells nothing; the optimiser's buffers are as many bytes as
    the weights, and are asked for after all else.
    """
    with devices.fake_gpu() as fake:
        network = models.FCN8s(3, width=2, fc_width=4, geometry="same").to("gpu")
        scores = network(Tensor(np.ones((1, 3, 64, 64), np.float32), device="gpu")).sum()
        fake.limit_memory(card.used_bytes + 20_000)
        with pytest.raises(OutOfMemoryError) as caught:
            scores.backward()
        network.name_layer(caught.value)
        assert str(caught.value).startswith("upscore8: ConvTranspose2d.backward of ")
        fake.limit_memory(2**30)
        network.fc6.weight.grad = network.fc6.weight.data.copy()
        del caught  # and what was computed with
        fake.limit_memory(card.used_bytes + 100)
        with pytest.raises(OutOfMemoryError, match=r"SGD's step of \(4, 16, 7, 7\).* bytes are wanted") as caught:
            SGD(network.parameters(), lr=0.1).step()
        network.name_layer(caught.value)
        assert str(caught.value).startswith("fc6: SGD's step")


# By number, runtime's names and driver's: what a kernel is started by answers as the driver does.
LOST = {
    46: ("cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    100: ("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE"),
    201: ("cudaErrorDeviceUninitialized", "CUDA_ERROR_INVALID_CONTEXT"),
    214: ("cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    220: ("cudaErrorNvlinkUncorrectable", "CUDA_ERROR_NVLINK_UNCORRECTABLE"),
    226: ("cudaErrorContained", "CUDA_ERROR_CONTAINED"),
    700: ("cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS"),
    702: ("cudaErrorLaunchTimeout", "CUDA_ERROR_LAUNCH_TIMEOUT"),
    710: ("cudaErrorAssert", "CUDA_ERROR_ASSERT"),
    714: ("cudaErrorHardwareStackError", "CUDA_ERROR_HARDWARE_STACK_ERROR"),
    715: ("cudaErrorIllegalInstruction", "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    716: ("cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    717: ("cudaErrorInvalidAddressSpace", "CUDA_ERROR_INVALID_ADDRESS_SPACE"),
    718: ("cudaErrorInvalidPc", "CUDA_ERROR_INVALID_PC"),
    719: ("cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED"),
    999: ("cudaErrorUnknown", "CUDA_ERROR_UNKNOWN"),
}
LOST_FAULTS = [
    *(CUDARuntimeError(number, names[0], "an error was encountered") for number, names in LOST.items()),
    *(CUDADriverError(number, names[1], "an error was encountered") for number, names in LOST.items()),
    CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("fault", LOST_FAULTS, ids=lambda fault: str(fault).partition(":")[0])
def test_a_lost_device(fault):
    """Errors come late: at the operation, or when the host waits for a number."""
    name = str(fault).partition(":")[0]
    with devices.fake_gpu():
        x, weight = conv()
        card.fault = fault
        for use in (lambda: ops.conv2d(x, weight), lambda: x.numpy(), lambda: x.backend.synchronize()):
            with pytest.raises(DeviceLostError, match=rf"the device gpu was lost \({name}.*--resume"):
                use()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (NO_NVRTC, "libnvrtc, a library that CuPy computes with, is missing"),
        (NO_CUBLAS, "libcublasLt, a library that CuPy computes with, is missing"),
        (CompileException("cannot open source file cuda_fp16.h"), "a kernel could not be compiled for gpu"),
        (NVRTCError("NVRTC_ERROR_BUILTIN_OPERATION_FAILURE (7)"), "a kernel could not be compiled for gpu"),
    ],
)
def test_a_part_of_cuda_that_is_missed_by_an_operation_only(fault, words):
    """The device was opened by one small kernel: a traceback that ends in CuPy's loader of libraries."""
    with devices.fake_gpu():
        x, weight = conv()
        card.fault = fault
        with pytest.raises(DeviceError, match=rf"^Conv2d of .*{words}.*\. Install CuPy with the .*gpu-cuda12"):
            ops.conv2d(x, weight)


def test_a_host_array_within_an_operation():
    """Running statistics go in as raw arrays, past the door at which tensors are checked."""
    with devices.fake_gpu(), devices.by_default("gpu"):
        layer = nn.BatchNorm2d(2).eval()
        layer.running_mean.data = np.zeros(2, np.float32)
        with pytest.raises(DeviceError, match=r"a host array \(numpy.ndarray\) meets arrays on gpu.*Tensor\(array"):
            layer(Tensor(np.ones((2, 2, 3, 3), np.float32)))


def test_a_device_array_that_numpy_is_given_within_an_operation():
    """CuPy's words for it name neither the operation nor the device."""

    class Careless(Function):
        @staticmethod
        def forward(ctx, x):
            return np.asarray(x)

    with devices.fake_gpu(), pytest.raises(DeviceError, match=r"^Careless of \(1,\): a host array .*Tensor\(array"):
        Careless.apply(Tensor([1.0], device="gpu"))


def test_errors_of_the_program_are_left_as_they_are():
    """A fault of an operation dressed up as the device's."""
    with devices.fake_gpu() as fake:
        assert gpu.explain(fake.xp, "gpu", ValueError("shapes do not fit"), "an operation") is None
        assert gpu.explain(fake.xp, "gpu", DeviceError("said already"), "an operation") is None
        assert get_backend("cpu").explain(ValueError("of the program"), "an operation") is None


def test_auto_takes_a_gpu_that_answers_and_says_why_not(monkeypatch, capsys):
    """`auto` that trains on the CPU for a night, silently."""
    monkeypatch.setenv("CUPY_TF32", "")
    monkeypatch.setitem(sys.modules, "cupy", None)
    device, why = choose_device("auto")
    assert device == "cpu"
    assert "CuPy cannot be imported" in why
    assert choose_device("cpu")[0] == "cpu"
    arguments = machine("--device", "auto")
    assert arguments.device == "cpu"
    assert "--device auto: cpu. CuPy cannot be imported" in capsys.readouterr().err
    with devices.fake_gpu():
        assert choose_device("auto") == ("gpu", "a CUDA device answers")
        assert machine("--device", "auto").device == "gpu"
        shown = capsys.readouterr().err
        assert "--device auto: gpu" in shown
        assert "device gpu: fake device, " in shown
        assert "cupy 14" in shown
        assert "float32" in shown


def machine(*options):
    """The arguments of predict after the machine has been set up."""
    arguments = predict.make_parser().parse_args(["model", "image", "--out", "out", *options])
    set_up_machine(arguments)
    return arguments


def test_precision_memory_and_determinism_reach_cupy_and_the_report(monkeypatch, capsys):
    """CuPy reads CUPY_TF32 at its first product; a setting that comes later changes nothing."""
    for name in ("CUPY_TF32", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "1" if name == "CUPY_TF32" else "")
    with devices.fake_gpu() as fake:
        machine("--device", "gpu")  # what the environment said does not count: the option's default does
        assert os.environ["CUPY_TF32"] == "0"
        assert fake.describe()["precision"] == "float32"
        assert fake.describe()["deterministic"] is False
        machine("--device", "gpu", "--precision", "tf32", "--gpu-memory-limit", "6G", "--deterministic")
        assert os.environ["CUPY_TF32"] == "1"
        about = fake.describe()
        assert (about["precision"], about["deterministic"], about["memory_limit"]) == ("tf32", True, 6 * 2**30)
        assert (about["name"], about["device"], about["cuda"]) == ("fake device", "gpu", "13.0")
        assert "tf32, deterministic" in capsys.readouterr().err
        handed_on = machine(*study._machine_options("gpu", 1))  # to the runs of a study, in processes of their own
        assert (handed_on.precision, handed_on.deterministic, handed_on.gpu_memory_limit) == ("tf32", True, 6 * 2**30)


@pytest.mark.parametrize("options", [("--precision", "tf32"), ("--gpu-memory-limit", "6G")])
def test_settings_of_a_gpu_are_refused_on_the_cpu(options):
    """TF32 asked for, float32 computed."""
    with pytest.raises(UsageError, match=rf"{options[0]}.*is for a GPU, but the device is the CPU"):
        machine(*options)


def test_tf32_is_refused_by_a_card_that_has_none(fake, monkeypatch):
    """CuPy warns and goes on in float32."""
    card.compute_capability = "75"
    gpu.set_precision("tf32")
    with pytest.raises(DeviceError, match=r"gpu has compute capability 7.5, and TF32 needs 8.0"):
        backend._open_gpu("gpu")
    gpu.set_precision("float32")
    assert backend._open_gpu("gpu").name == "gpu"
    with pytest.raises(UsageError, match="choose one of float32, tf32"):
        gpu.set_precision("fp16")


@pytest.mark.parametrize(
    ("text", "size"), [("6G", 6 * 2**30), ("6GiB", 6 * 2**30), ("500m", 500 * 2**20), ("1.5g", 3 * 2**29), ("123", 123)]
)
def test_sizes_of_memory(text, size):
    """Binary units, as nvidia-smi has them."""
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "lots", "6X", "half"])
def test_what_is_no_size_of_memory(text):
    with pytest.raises(ValueError, match="is not a size of memory"):
        gpu.parse_bytes(text)


def test_a_command_ends_with_the_explanation(monkeypatch, capsys):
    """A traceback for what the user can mend; also outside of an operation, as in an optimiser's step."""

    def main(arguments):
        raise CUDARuntimeError(700, "cudaErrorIllegalAddress", "an illegal memory access was encountered")

    monkeypatch.setattr(sys, "argv", ["predict", "model", "image", "--out", "out", "--device", "gpu"])
    with devices.fake_gpu(), pytest.raises(SystemExit) as caught:
        run_command(main, predict.make_parser())
    assert caught.value.code == 1
    assert "error: the command: the device gpu was lost (cudaErrorIllegalAddress" in capsys.readouterr().err


def fill_the_memory(fake):
    fake.limit_memory(card.used_bytes + 100)


def lose_the_device(fake):
    card.fault = CUDADriverError(700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered")


def mend(fake):
    """Less is asked for, or another process has the device anew."""
    fake.limit_memory(2**30)
    card.fault = None


@pytest.mark.parametrize(
    ("happens", "error", "words"),
    [
        (
            fill_the_memory,
            TrainingError,
            r"step 3: .*out of memory .*Lower --batch-size.*saved before are kept",
        ),
        (lose_the_device, DeviceLostError, r"the device gpu was lost .*saved before are kept. Go on with --resume"),
    ],
    ids=["memory", "lost"],
)
def test_a_run_that_fails_on_its_device_keeps_its_checkpoint_and_resumes(tmp_path, monkeypatch, happens, error, words):
    """The advice is to go on; nothing of the run may be lost by then."""
    few_pictures(monkeypatch)
    config = tiny(steps=(4,))
    with devices.fake_gpu() as fake:
        original = ops.softmax_cross_entropy
        calls = []

        def failing(*arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                happens(fake)
            return original(*arguments, **options)

        monkeypatch.setattr(ops, "softmax_cross_entropy", failing)
        with pytest.raises(error, match=words):
            start(config, tmp_path / "run", device="gpu").run()
        assert read_progress(tmp_path / "run" / "checkpoint.safetensors").step == 2
        mend(fake)
        start(config, tmp_path / "run", device="gpu", resume=True).run()
    assert (tmp_path / "run" / "report.json").exists()
