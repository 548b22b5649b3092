"""Train the networks of lessons 11 and 12, and write them to fcn32s, fcn16s and fcn8s.safetensors beside this file.

    python lessons/models/make_fcn.py --work runs/lessons

It runs the four commands below, two or three minutes each on one core, and packs what comes out: batch normalisation is
folded into the convolutions, bilinear upsampling that was not learned is left out, and numbers are rounded to 16 bits.

The first command trains an FCN-8s from random weights on small pictures, for the sake of its trunk: with its skips it
learns soonest. From there on, on larger pictures, go the stages of the paper: FCN-32s, in two runs, then 16s and 8s.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from minifcn import models, weights
from minifcn.models.surgery import fold_batch_norm

SMALL = "--data shapes --width 4 --fc-width 32 --batch-norm train --dropout 0 --threads 1"
LARGE = f"{SMALL} --size 192x192 --batch-size 4"
COMMANDS = (
    f"--stages 8s --steps 600 --lr 4e-3 {SMALL} --batch-size 8 --out WORK/trunk",
    f"--weights WORK/trunk/model.safetensors --stages 32s --steps 400 --lr 4e-3 {LARGE} --out WORK/32s",
    f"--weights WORK/32s/model.safetensors --stages 32s --steps 400 --lr 4e-3 {LARGE} --seed 1 --out WORK/32s-on",
    f"--weights WORK/32s-on/model.safetensors --stages 16s,8s --steps 200 --lr 2e-3 {LARGE} --out WORK/8s",
)
PACKED = {"fcn32s": "32s-on", "fcn16s": "8s", "fcn8s": "8s"}  # by name: the run it comes from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/lessons"), help="folder of the runs (runs/lessons)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write (beside this file)")
    arguments = parser.parse_args()
    for command in COMMANDS:
        words = shlex.split(command.replace("WORK", str(arguments.work)))
        print("python -m minifcn.train", shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", "minifcn.train", *words], check=True)
    for name, run in PACKED.items():
        pack(arguments.work / run / f"{name}.safetensors", arguments.out / f"{name}.safetensors")


def pack(source: Path, target: Path) -> None:
    """Write the network of a run without batch normalisation, what is learned only, in 16 bits."""
    model = fold_batch_norm(models.from_weights(source))
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = {name: array.astype(np.float16) for name, array in model.state_dict().items() if name in learned}
    record = {"source": {"name": "minifcn, lessons/models/make_fcn.py"}}
    weights.save_weights(
        target, tensors, architecture=model.architecture, preprocessing=model.preprocessing, record=record
    )
    print(f"{target}: {target.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
