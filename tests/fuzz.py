"""A million damaged files, by hand: `python tests/fuzz.py --count 1000000`. The tests read some thousands of them.

Every reader of tests/hostile.py takes its share, on all cores. A file that harms is kept in --keep, with what happened,
and the command ends with exit code 1. A reader that crashes the interpreter is found too: it ends its own process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
BATCH = 500  # files a process reads


def main() -> int:
    parser = argparse.ArgumentParser(description="Read damaged files until something else than a refusal happens.")
    parser.add_argument("--count", type=int, default=1_000_000, help="files in all (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; another one, other files (default: 0)")
    parser.add_argument("--reader", action="append", help="only this one; repeatable (default: all)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side (default: the cores)")
    parser.add_argument("--keep", type=Path, default=Path("hostile-files"), help="folder for the files that harm")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.batch:
        return run_batch(arguments.batch, arguments.seed, arguments.keep)
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from hostile import READERS

    names = arguments.reader or list(READERS)
    total = max(len(names), arguments.count // BATCH)
    batches = [(names[number % len(names)], arguments.seed + number) for number in range(total)]
    running: list[tuple[str, int, subprocess.Popen[bytes]]] = []
    harmed, start = 0, time.monotonic()
    for number, (name, seed) in enumerate(batches, start=1):
        command = [sys.executable, __file__, "--batch", name, "--seed", str(seed), "--keep", str(arguments.keep)]
        environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        running.append((name, seed, subprocess.Popen(command, env=environment)))
        while len(running) >= (arguments.processes if number < total else 1):
            done_name, done_seed, process = running.pop(0)
            if process.wait():
                harmed += 1
                print(f"HARM: {done_name}, --seed {done_seed}: exit code {process.returncode}", flush=True)
        if number % 20 == 0 or number == total:
            print(
                f"{number * BATCH:,} files in {time.monotonic() - start:.0f} s, {harmed} batches with harm", flush=True
            )
    return 1 if harmed else 0


def run_batch(name: str, seed: int, keep: Path) -> int:
    """Read BATCH files with one reader; 1 if one did harm, which is then kept with the reason."""
    sys.path[:0] = [str(HERE)]
    import warnings

    from hostile import READERS, attack, damage, guarded, listing

    warnings.simplefilter("ignore")
    keep = keep.resolve()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for part in ("sound", "here"):
            (folder / part).mkdir()
        os.chdir(folder / "here")
        reader, random = READERS[name], Random(f"{name} {seed}")
        sound = reader.sound(folder / "sound")
        content = b""
        try:
            with guarded():
                for one in sound:
                    attack(reader, one, folder)
                before = listing(folder)
                for _ in range(BATCH):
                    content = damage(random.choice(sound), random, sound)
                    attack(reader, content, folder)
            if listing(folder) != before:
                raise AssertionError("a file was written outside of the output folder")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{seed}{reader.suffix}").write_bytes(content)
            (keep / f"{name}-{seed}.txt").write_text(traceback.format_exc())
            return 1
        finally:
            os.chdir(keep.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
