"""Train the runs that lesson 12 diagnoses, and write their losses and masks to sick_runs.npz beside this file.

    python lessons/models/make_sick_runs.py

One healthy run and five sick ones, about a minute each on one core. All take over the trunk of fcn8s.safetensors, or
mean to, and learn new score layers. (This file names what is sick about each: it is the solution of the exercise.)
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn import Tensor, models, no_grad, ops
from minifcn.data import VOID, Shapes
from minifcn.training import SGD, poly
from minifcn.weights import load

FOLDER = Path(__file__).parent
SIZE, BATCH = 192, 2
NEW_LR, LR, MOMENTUM = 0.02, 0.002, 0.9  # of the score layers, and of everything else
PICTURES = 12  # predicted at the end
RUNS = {  # by the name that the lesson shows
    "healthy": "",
    "A": "weights not copied",
    "B": "bilinear masks",
    "C": "void as background",
    "D": "learning rate against loss sum",
    "E": "BGR swapped",
}


def trained(cause: str, number: int, steps: int) -> tuple[models.FCN8s, list[float]]:
    """The network of a run, and the loss of each step; every run sees other pictures."""
    file = load(FOLDER / "fcn8s.safetensors")
    sizes = {key: file.architecture[key] for key in ("num_classes", "width", "fc_width", "geometry")}
    model = models.FCN8s(**sizes, dropout=0, seed=number)
    if cause != "weights not copied":
        trunk = {name: array for name, array in file.tensors.items() if not name.startswith(("score", "upscore"))}
        models.surgery.transplant(trunk, model)
    rates = (1e-10, 1e-10) if cause == "learning rate against loss sum" else (NEW_LR, LR)
    new, taken_over = [], []
    for name, parameter in model.named_parameters():
        (new if name.startswith("score") else taken_over).append(parameter)
    groups = [{"params": part, "lr": lr} for part, lr in zip((new, taken_over), rates, strict=True)]
    optimizer = SGD(groups, lr=LR, momentum=MOMENTUM)

    pictures, losses = Shapes("train", size=SIZE, seed=100 + number), []
    for step in range(steps):
        batch = [pictures[index] for index in range(step * BATCH, (step + 1) * BATCH)]
        images = np.stack([model.preprocessing.apply(sample.image) for sample in batch])
        labels = np.stack([sample.labels for sample in batch])
        if cause == "void as background":
            labels[labels == VOID] = 0
        optimizer.lr_factor = poly(step, steps)
        optimizer.zero_grad()
        loss = ops.softmax_cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def mask(model: models.FCN8s, image: np.ndarray, cause: str) -> np.ndarray:
    """The mask of a picture; as it is stored, at half the size, and enlarged again."""
    if cause == "BGR swapped":
        image = image[:, :, ::-1]
    with no_grad():
        logits = model(Tensor(model.preprocessing.apply(image)[None])).numpy()[0]
    stored = Image.fromarray(logits.argmax(axis=0).astype(np.uint8)[::2, ::2])
    method = Image.Resampling.BILINEAR if cause == "bilinear masks" else Image.Resampling.NEAREST
    return np.asarray(stored.resize((SIZE, SIZE), method))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="of each run (120)")
    parser.add_argument("--out", type=Path, default=FOLDER / "sick_runs.npz")
    arguments = parser.parse_args()

    pictures = Shapes("val", size=SIZE)
    arrays = {}
    for number, (name, cause) in enumerate(RUNS.items()):
        model, losses = trained(cause, number, arguments.steps)
        arrays[f"loss {name}"] = np.array(losses, np.float32)
        arrays[f"masks {name}"] = np.stack([mask(model, pictures[index].image, cause) for index in range(PICTURES)])
        print(f"{name}: loss {losses[0]:.4f}, at the end {np.mean(losses[-10:]):.4f}", flush=True)
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
