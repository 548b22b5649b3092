"""How much memory reading a weight file may take: about its own size, whatever its header claims."""

from __future__ import annotations

from pathlib import Path

from minifcn.errors import WeightsError

# Tensors may take more room than the file: zeros compress well, and several may share one storage.
FACTOR = 2
HEADROOM = 64 * 2**20  # bytes


def check_claim(path: Path, claimed: int) -> None:
    """WeightsError if tensors of `claimed` bytes in all are more than a file of this size holds.

    To be called before anything of that size is allocated.
    """
    size = path.stat().st_size
    if claimed > FACTOR * size + HEADROOM:
        raise WeightsError(
            f"{path}: claims to hold {claimed:,} bytes of tensors, but has only {size:,} bytes itself; it is damaged, "
            "or made to exhaust the memory. Fetch it again."
        )
