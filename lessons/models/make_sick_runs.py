"""Train the runs that lesson 12 diagnoses, and write their losses and masks to sick_runs.npz beside this file.

    python lessons/models/make_sick_runs.py

One healthy run and five sick ones, about a minute each on one core. (This file names what is sick about each: it is the solution
of the exercise.)
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn import Tensor, models, no_grad, ops
from minifcn.data import VOID, Sample, Shapes, resize
from minifcn.training import SGD, poly
from minifcn.weights import load

FOLDER = Path(__file__).parent
BATCH, MOMENTUM = 8, 0.9
PICTURES, SIZE = 12, 192  # predicted at the end; for the network, half as large
RUNS = ("healthy", "A", "B", "C", "D", "E")  # A: weights not copied, B: bilinear masks, C: void, D: lr, E: BGR


def trained(run: str, number: int, steps: int, lr: float) -> tuple[models.FCN8s, list[float]]:
    """The network of a run, and the loss of each step; every run sees other pictures."""
    file = load(FOLDER / "fcn8s.safetensors")
    trunk = {name: array for name, array in file.tensors.items() if not name.startswith(("score", "upscore"))}
    sizes = {key: file.architecture[key] for key in ("num_classes", "width", "fc_width", "geometry")}
    model = models.FCN8s(**sizes, dropout=0, seed=number)
    if run != "A":
        models.surgery.transplant(trunk, model)
    pictures = Shapes("train", seed=100 + number)
    optimizer = SGD(model.parameters(), lr=1e-10 if run == "D" else lr, momentum=MOMENTUM)
    losses = []
    for step in range(steps):
        batch = [pictures[index] for index in range(step * BATCH, (step + 1) * BATCH)]
        images = np.stack([model.preprocessing.apply(sample.image) for sample in batch])
        labels = np.stack([sample.labels for sample in batch])
        if run == "C":
            labels[labels == VOID] = 0
        optimizer.lr_factor = poly(step, steps)
        optimizer.zero_grad()
        loss = ops.softmax_cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def mask(model: models.FCN8s, sample: Sample, run: str) -> np.ndarray:
    """The mask of a picture, scaled down for the network and up again."""
    image = resize(sample, SIZE // 2).image
    if run == "E":
        image = image[:, :, ::-1]
    with no_grad():
        logits = model(Tensor(model.preprocessing.apply(image)[None])).numpy()[0]
    method = Image.Resampling.BILINEAR if run == "B" else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(logits.argmax(axis=0).astype(np.uint8)).resize((SIZE, SIZE), method))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of each run (300)")
    parser.add_argument("--lr", type=float, default=0.01, help="of the healthy run (0.01)")
    parser.add_argument("--out", type=Path, default=FOLDER / "sick_runs.npz")
    arguments = parser.parse_args()

    pictures = Shapes("val", size=SIZE)
    arrays = {}
    for number, run in enumerate(RUNS):
        model, losses = trained(run, number, arguments.steps, arguments.lr)
        model.eval()
        arrays[f"loss {run}"] = np.array(losses, np.float32)
        arrays[f"masks {run}"] = np.stack([mask(model, pictures[index], run) for index in range(PICTURES)])
        print(f"{run}: loss {losses[0]:.4f}, at the end {np.mean(losses[-10:]):.4f}", flush=True)
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
