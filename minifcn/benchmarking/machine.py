"""What a figure must be read with: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

import minifcn


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, versions, and the BLAS that is loaded, for the report."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _find(r"^model name\s*: (.+)$", "/proc/cpuinfo") or platform.processor() or platform.machine(),
        "cores": cores,
        "memory_bytes": 1024 * int(_find(r"^MemTotal:\s*(\d+) kB", "/proc/meminfo") or 0) or None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "blas": sorted(
            " ".join(filter(None, (pool["internal_api"], pool["version"], pool.get("architecture"))))
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "commit": find_commit(Path(minifcn.__file__).parent),
    }


def _find(pattern: str, path: str) -> str | None:
    """The first group of a pattern in a file; None where there is no such file (only Linux has these) or line."""
    if not Path(path).exists():
        return None
    found = re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def find_commit(package: Path) -> str | None:
    """The commit of the checkout that a package lies in, with "+" if files differ from it; None if there is none."""
    if not (package.parent / ".git").exists():
        return None
    git = ["git", "-C", str(package.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout that git does not trust
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
