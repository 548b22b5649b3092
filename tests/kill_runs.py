"""Runs that are killed at random moments, resumed until they end, and compared with one that nobody disturbed.

    python tests/kill_runs.py --kills 1000

Half of the lives end by SIGKILL after a random time, the others at a random one of the moments that matter: before a
write, a sync, a renaming or a removal, in mid-checkpoint above all. Each life is a fork of this process, so that a
thousand take minutes. Exits with 1, and the folder of the run that went wrong, if a resume fails, a file or lock is
left behind, or the weights differ from the undisturbed run's in a single byte.
"""

import argparse
import builtins
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # no threads before the fork, and sums in one order

from safetensors.numpy import load_file
from tiny_runs import STAGES, tiny, write_pictures

from minifcn.files import is_leftover
from minifcn.training import Config, Run
from minifcn.training.folder import RunFolder


def config(data: Path) -> Config:
    """Four stages on files, with augmentation; epochs of three batches, so that most steps lie in the middle of one."""
    changes = {"size": None, "crop": (32, 32), "scale": (0.8, 1.2), "jitter": 0.2, "accumulate": 2, "seed": 3}
    changes |= {"optimizer": "sgd", "batch_norm": "train", "validate_every": 3}
    return tiny(data=str(data), stages=STAGES, steps=(5,), lr=(1e-3,), batch_size=2, **changes)


def train(config: Config, out: Path) -> None:
    Run(config, out, resume=True, say=lambda line: None, bar=False).run()


def hashes(out: Path) -> dict[str, str]:
    """Of the weights of every stage, and of the best; and of metrics.csv without its speeds."""
    found = {}
    for path in sorted(out.glob("*.safetensors")):
        if path.name != "checkpoint.safetensors":
            tensors = load_file(path)
            content = b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))
            found[path.name] = hashlib.sha256(content).hexdigest()
    rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    found["metrics.csv"] = str([row[:4] + row[5:] for row in rows])
    return found


def die_at(count: int) -> None:
    """From now on, this process is killed before the count-th of its operations that change files."""
    left = [count]
    original = builtins.open

    def fatal(operation):
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return wrapped

    def fatal_open(path, mode="r", *arguments, **options):
        file = original(path, mode, *arguments, **options)
        if mode[0] in "wa":
            file.write = fatal(file.write)
        return file

    builtins.open = fatal_open
    for name in ("fsync", "replace", "unlink", "mkdir"):
        setattr(os, name, fatal(getattr(os, name)))


def start(config: Config, out: Path, *, operations: int | None = None) -> int:
    """A life of a run begins, in a process of its own: its number. It ends before so many operations on files."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if operations is not None:
                die_at(operations)
            train(config, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def reached_end(out: Path, status: int) -> bool:
    """Whether a life that ended with this status was not killed; RuntimeError if the run failed by itself."""
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{out}: a resumed run ended with exit code {code}")
    return code == 0


def live(config: Config, out: Path, *, seconds: float | None = None, operations: int | None = None) -> bool:
    """One life of a run; whether it reached the run's end."""
    child = start(config, out, operations=operations)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return reached_end(out, os.waitpid(child, 0)[1])


def check(out: Path, expected: dict[str, str]) -> None:
    """RuntimeError for other weights, or a temporary file left behind."""
    found = hashes(out)
    if differing := [name for name in expected if found.get(name) != expected[name]]:
        raise RuntimeError(f"{out}: {', '.join(differing)} differ from those of the undisturbed run")
    if left := [path.name for path in out.iterdir() if is_leftover(path)]:
        raise RuntimeError(f"{out}: {', '.join(left)} were left behind")


def disturb(folder: Path, kills: int, seed: int) -> int:
    """Kill runs until that has happened so many times, and the last one has ended. Returns how many have ended."""
    RunFolder.draw = lambda *arguments: None  # pictures take longer than these runs, and no part in what is resumed
    chance = random.Random(seed)
    run, ended = config(write_pictures(folder / "data")), 0
    begin = time.perf_counter()
    live(run, folder / "undisturbed")
    whole, expected = time.perf_counter() - begin, hashes(folder / "undisturbed")
    out = folder / "run"
    while kills > 0 or out.exists():
        if kills <= 0:
            finished = live(run, out)
        elif chance.random() < 0.5:
            finished = live(run, out, seconds=chance.uniform(0, whole / 4))
        else:
            finished = live(run, out, operations=chance.randint(1, 30))
        kills -= not finished
        if finished:
            check(out, expected)
            shutil.rmtree(out)
            ended += 1
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs at random moments, and see that they end the same.")
    parser.add_argument("--kills", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="minifcn-kills-"))
    ended = disturb(folder, arguments.kills, arguments.seed)
    print(f"{arguments.kills} kills, {ended} runs that ended with the weights of the undisturbed one")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
