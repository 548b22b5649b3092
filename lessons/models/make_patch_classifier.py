"""Train the classifier of lesson 10, and write it to patch_classifier.npz beside this file.

    python lessons/models/make_patch_classifier.py

It learns to say what lies in the middle of a patch of 36×36 pixels: background, or one of the eight objects of
`shapes`. The patches are those of drawn scenes, 4 pixels apart. They are not cut out: its dense layers are trained as
the convolutions that they are, on whole scenes, and no layer pads, so that the loss is the mean over all patches
(lesson 10). The file holds the dense layers' weights as those of a classifier: (40, 1568) and (9, 40).
"""

import argparse
from pathlib import Path

import numpy as np

from minifcn import Tensor, nn, no_grad, ops
from minifcn.data import Shapes
from minifcn.training import Adam, poly

WINDOW, STEP = 36, 4  # what one answer is about, and how far apart answers are, in pixels
SCENE = (64, 128)  # height and width of the scenes; objects scale with the shorter side
BATCH = 4


class PatchClassifier(nn.Module):
    """(n, 3, 36, 36) -> logits (n, 9, 1, 1), and a map of logits for larger pictures."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.conv1 = nn.Conv2d(3, 16, 5, generator=generator)
        self.conv2 = nn.Conv2d(16, 32, 3, generator=generator)
        self.dense1 = nn.Conv2d(32, 40, 7, generator=generator)
        self.dense2 = nn.Conv2d(40, len(Shapes.classes), 1, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = ops.max_pool2d(ops.relu(self.conv1(x)), 2)  # 36 -> 32 -> 16
        x = ops.max_pool2d(ops.relu(self.conv2(x)), 2)  # -> 14 -> 7
        return self.dense2(ops.relu(self.dense1(x)))  # -> 1


def draw(scenes: Shapes, indices: range) -> tuple[np.ndarray, np.ndarray]:
    """Scenes (n, 3, H, W), from −0.5 to 0.5, and the labels (n, rows, columns) of the pixel in each window's middle."""
    samples = [scenes[index] for index in indices]
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2) / np.float32(255) - np.float32(0.5)
    first, rest = (WINDOW - 1) // 2, WINDOW // 2
    labels = np.stack([sample.labels for sample in samples])[:, first:-rest:STEP, first:-rest:STEP]
    return np.ascontiguousarray(images), labels


def accuracy(model: PatchClassifier) -> tuple[float, float]:
    """How many answers are right on 100 new scenes: (of all patches, of those with an object in the middle)."""
    right = labelled = right_objects = objects = 0
    for index in range(100):
        images, labels = draw(Shapes("val", size=SCENE), range(index, index + 1))
        with no_grad():
            hits = model(Tensor(images)).numpy().argmax(axis=1) == labels
        judged, is_object = labels != 255, (labels != 255) & (labels != 0)
        right, labelled = right + hits[judged].sum(), labelled + judged.sum()
        right_objects, objects = right_objects + hits[is_object].sum(), objects + is_object.sum()
    return right / labelled, right_objects / objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help=f"of {BATCH} scenes each (4000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("patch_classifier.npz"))
    arguments = parser.parse_args()

    model = PatchClassifier()
    optimizer = Adam(model.parameters(), lr=3e-3)
    scenes = Shapes("train", size=SCENE, length=BATCH * arguments.steps)
    losses = []
    for step in range(arguments.steps):
        images, labels = draw(scenes, range(BATCH * step, BATCH * (step + 1)))
        optimizer.lr_factor = poly(step, arguments.steps)
        optimizer.zero_grad()
        loss = ops.softmax_cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-250:]):.3f}", flush=True)

    state = model.state_dict()
    for name in ("dense1.weight", "dense2.weight"):
        state[name] = state[name].reshape(len(state[name]), -1)
    np.savez_compressed(arguments.out, **state)
    everywhere, on_objects = accuracy(model)
    print(f"right on {everywhere:.1%} of new patches, on {on_objects:.1%} of those with an object in the middle")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
