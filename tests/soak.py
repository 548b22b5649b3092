"""Training that is killed and resumed for hours, by hand: `python tests/soak.py --minutes 120`.

A run of some ten minutes, pictures and all, is done once without disturbance, and then again and again with kills
at random moments, until the time is over. Twice a second the memory and the open files of the training process are
written down. Exits with 1 if a resume fails, a weight differs from the undisturbed run's, or memory or open files grow:
within a life, from one life to the next, or in the process that starts them all.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from kill_runs import check, hashes, reached_end, start
from tiny_runs import tiny, write_pictures

from minifcn.training import Config

GROWTH = 0.02  # of the memory: more is a leak; pages come and go by less
WARM_UP = 90  # seconds until a life has drawn its first pictures, for which much is imported
LONG_ENOUGH = 180  # seconds of life in which a leak would show
EVERY = 0.5  # seconds between two looks


class Life(NamedTuple):
    """What was seen of one: resident memory in MiB and open files at each look, and whether it reached the end."""

    memory: list[float]
    files: list[int]
    finished: bool

    @property
    def growth(self) -> float:
        """Of the memory from the first third of a long life, when it is warm, to the last third: as a share."""
        warm = self.memory[int(WARM_UP / EVERY) :]
        third = len(warm) // 3
        return median(warm[-third:]) / median(warm[:third]) - 1


def config(data: Path, steps: int) -> Config:
    """Three stages with all that a long run does: augmentation, validation, drawing, a checkpoint every 20 steps."""
    changes = {"size": None, "crop": (64, 64), "scale": (0.8, 1.2), "jitter": 0.2, "width": 4, "fc_width": 32}
    changes |= {
        "validate_every": 100,
        "checkpoint_every": 20,
        "batch_norm": "train",
        "stages": ("fcn32s", "fcn16s", "fcn8s"),
    }
    return tiny(data=str(data), steps=(steps,), lr=(1e-3,), **changes)


def look(process: int | str) -> tuple[float, int]:
    """Resident memory in MiB, and the number of open files, of a process (Linux's /proc)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{process}/fd"))


def watch(run: Config, out: Path, *, seconds: float | None = None, operations: int | None = None) -> Life:
    """One life, looked at until it ends, or is killed after so many seconds or operations on files."""
    child, begin = start(run, out, operations=operations), time.monotonic()
    memory, files = [], []
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if seconds is not None and time.monotonic() - begin > seconds:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        try:
            seen = look(child)
        except (OSError, IndexError):  # it has just ended
            continue
        memory.append(seen[0])
        files.append(seen[1])
        time.sleep(EVERY)
    return Life(memory, files, reached_end(out, ended[1]))


def soak(folder: Path, minutes: float, steps: int, seed: int) -> int:
    """Kill and resume until the time is over. Prints a line for each run that ended; returns how many things grew."""
    run = config(write_pictures(folder / "data", count=40, sizes=((90, 120), (111, 99))), steps)
    chance, end = random.Random(seed), time.monotonic() + 60 * minutes
    begin = time.monotonic()
    lives = [watch(run, folder / "undisturbed")]
    whole, expected = time.monotonic() - begin, hashes(folder / "undisturbed")
    print(f"undisturbed: {whole:.0f} s, at most {max(lives[0].memory):.0f} MiB", flush=True)
    own = look("self")
    ended, out = 0, folder / "run"
    while time.monotonic() < end or out.exists():
        if time.monotonic() > end:
            life = watch(run, out)
        elif chance.random() < 0.5:
            life = watch(run, out, seconds=chance.uniform(0, whole / 2))
        else:
            life = watch(run, out, operations=chance.randint(1, 500))
        lives.append(life)
        if life.finished:
            check(out, expected)
            shutil.rmtree(out)
            ended += 1
            print(f"{ended} runs have ended, {len(lives) - 1 - ended} kills", flush=True)
    return report(lives, own)


def report(lives: list[Life], own: tuple[float, int]) -> int:
    """Say what memory and open files did, and how many of these grew."""
    long = [life for life in lives if len(life.memory) * EVERY >= LONG_ENOUGH]
    if len(long) < 4:
        sys.exit(f"Only {len(long)} lives were longer than {LONG_ENOUGH} s, too few to tell. Take more --minutes.")
    half = len(long) // 2
    early, late = (median(max(life.memory) for life in part) for part in (long[:half], long[half:]))
    most = max(max(life.files) - life.files[len(life.files) // 4] for life in long)
    now = look("self")
    growing = {
        f"within a life, median of {len(long)} long ones": (median(life.growth for life in long), GROWTH),
        "within the life that grew most": (max(life.growth for life in long), 2 * GROWTH),
        f"from life to life ({early:.0f} to {late:.0f} MiB)": (late / early - 1, GROWTH),
        f"of the process that starts them ({own[0]:.0f} to {now[0]:.0f} MiB)": (now[0] / own[0] - 1, 2 * GROWTH),
    }
    for what, (share, most_allowed) in growing.items():
        print(f"memory {what}: {share:+.1%}{' GROWS' if share > most_allowed else ''}")
    print(f"open files: {most:+d} at most within a life, {now[1] - own[1]:+d} in the process that starts them")
    return sum(share > limit for share, limit in growing.values()) + (now[1] > own[1]) + (most > 10)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, kill and resume for hours; memory must not grow.")
    parser.add_argument("--minutes", type=float, default=120, help="how long (default: 120)")
    parser.add_argument("--steps", type=int, default=8000, help="of each of the three stages (default: 8000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="minifcn-soak-"))
    grown = soak(folder, arguments.minutes, arguments.steps, arguments.seed)
    shutil.rmtree(folder)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
