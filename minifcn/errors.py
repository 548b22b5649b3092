"""The errors a user of minifcn meets.

Every message names the thing, what was expected, and the remedy. All classes share one base, so that a command can
tell a user's mistake (one line, no traceback) from a fault of the program; each also derives from the built-in
exception that fits, so that code which knows nothing of minifcn can catch it.
"""

from collections.abc import Sequence


class MinifcnError(Exception):
    """Base of every error raised on purpose. `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(MinifcnError, ValueError):
    """A command was called with arguments that cannot work: exit code 2."""

    exit_code = 2


class DeviceError(UsageError):
    """The device that was asked for is not there, or arrays of two devices meet."""


class DeviceLostError(MinifcnError, RuntimeError):
    """The GPU stopped answering; nothing more can be computed on it in this process."""


class ShapeError(MinifcnError, ValueError):
    """Sizes or geometry arguments that do not fit together."""


class DtypeError(MinifcnError, TypeError):
    """An element type that the operation does not take, or a mix that would be promoted silently."""


class GraphError(MinifcnError, RuntimeError):
    """backward() was asked of something that cannot be differentiated (again)."""


class GradientError(MinifcnError, AssertionError):
    """gradcheck found a gradient that disagrees with finite differences."""


class DataError(MinifcnError, ValueError):
    """An image, mask, split or class list that is missing, unreadable or inconsistent. Names the file."""


class WeightsError(MinifcnError, ValueError):
    """A weight file or checkpoint that does not fit. Lists every tensor that disagrees."""


class TrainingError(MinifcnError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""


class BenchmarkError(MinifcnError, RuntimeError):
    """A library cannot be measured in a case: it has no such computation, or its results are not the same."""


class OutOfMemoryError(MinifcnError, MemoryError):
    """An operation, or a copy to a GPU, needs more memory than there is.

    what: the operation with its shapes. reason: what the allocator said. inputs: id() of each of its input tensors, or
    of their arrays, by which `Module.name_layer` finds the layer.
    """

    def __init__(self, what: str, reason: str, inputs: Sequence[int] = ()) -> None:
        super().__init__(what, reason)
        self.what, self.reason, self.inputs, self.layer = what, reason.rstrip("."), tuple(inputs), ""

    def __str__(self) -> str:
        layer = f"{self.layer}: " if self.layer else ""
        return f"{layer}{self.what}: out of memory{f' ({self.reason})' if self.reason else ''}."
