# %% [markdown]
# # 12. Training for real
#
# About 120 minutes. You need lessons 5 (loss and optimiser) and 11 (FCN-8s).
#
# **The question.** You have built every part. Does it learn? And how would you know: what number says that one mask is
# better than another, and what do you look at when a training goes wrong?

# %%
from course import begin, check, open_library, show_solution

begin(12)

# %%
import time

import numpy as np

from course import checkpoints
from minifcn import metrics, training, visualize
from minifcn.data import Shapes

data = Shapes("val", size=192)
samples = [data[index] for index in range(12)]
labels = [sample.labels for sample in samples]

# %% [markdown]
# ## Two masks
#
# Here is a picture, its true mask, and two predictions. The first predicts background everywhere. The second is the
# true mask, moved by a few pixels: every object is found, named and outlined, a little beside its place.
#
# **Before you run the next cells:** which of the two has more pixels right?

# %%
nothing_found = np.zeros_like(labels[3])
beside = np.roll(np.where(labels[3] == 255, 0, labels[3]), (18, 18), axis=(0, 1))  # void as background, then moved
sheet = visualize.prediction_sheet(
    [samples[3].image],
    [labels[3]],
    {"nothing found": [nothing_found], "beside": [beside]},
    data.classes,
    data.palette,
)
visualize.picture(
    sheet,
    alt="A picture with a few shapes, its true mask, a mask that is background everywhere, and a mask with all shapes, "
    "a few pixels below and to the right of their places.",
)

# %%
labelled = labels[3] != 255  # void pixels are nobody's mistake
for name, mask in (("nothing found", nothing_found), ("beside", beside)):
    print(f"{name}: {100 * (mask == labels[3])[labelled].mean():.1f} % of the labelled pixels are right")

# %% [markdown]
# The share of pixels that are right is called **pixel accuracy**. It prefers the mask with nothing in it. About three
# quarters of all pixels are background, in these pictures as in the photographs of PASCAL VOC, and whoever never says
# anything else is right three times out of four. A number is needed that asks for every class alike.

# %% [markdown]
# ## Who was taken for whom
#
# All measures begin with one table, the **confusion matrix**: entry (i, j) counts how many pixels of class i were
# predicted as class j. Rows are the truth, columns the prediction; what is right stands on the diagonal. Pixels that
# are void in the truth are not counted.
#
# The plain loop, on three classes and a very small picture:

# %%
small_labels = np.array([[0, 0, 1, 1], [0, 2, 2, 255]])
small_prediction = np.array([[0, 1, 1, 1], [0, 2, 0, 1]])

counts = np.zeros((3, 3), int)
for truth, predicted in zip(small_labels.ravel(), small_prediction.ravel(), strict=True):
    if truth != 255:
        counts[truth, predicted] += 1
visualize.matrices(
    {"truth": small_labels, "prediction": small_prediction, "confusion matrix": counts},
    alt="A truth of 2×4 labels, a prediction, and their confusion matrix: 2 1 0, 0 2 0, 1 0 1.",
)

# %% [markdown]
# **Read it:** how many pixels of class 0 are there in the truth? How often was class 1 predicted, and how often was
# that wrong?
#
# <details><summary>Answer</summary>
#
# Row 0 adds up to 3: three pixels are class 0 (the void one counts nowhere). Column 1 adds up to 3, of which 1 is
# wrong: it was taken for class 1, and is class 0.
# </details>
#
# ## Exercise 1: the confusion matrix of a set
#
# `confusion_matrix(predictions, labels, num_classes, ignore_index=255)` takes two lists of masks, which may have
# different sizes from picture to picture, and returns one matrix (num_classes, num_classes) for all of them.
#
# A loop over pixels is too slow: 12 pictures of 192 × 192 have 442,368. Make one number of each pair:
#
# 1. Take the pixels whose label is not ignore_index, of the label and of the prediction.
# 2. The pair (i, j) becomes the number num_classes · i + j. Mind that masks are often uint8, which ends at 255: convert
#    the labels first.
# 3. `np.bincount(numbers, minlength=…)` counts how often each number occurs. Which minlength, and which reshape?
# 4. Add the counts of all pictures.


# %% tags=["exercise"]
def confusion_matrix(predictions, labels, num_classes, ignore_index=255):
    """Counts (num_classes, num_classes) over a whole set: how many pixels of class i were predicted as class j."""
    raise NotImplementedError


# %%
confusion_matrix = check(confusion_matrix)

# %%
show_solution("confusion_matrix")

# %% [markdown]
# Now the FCN-8s of the last lesson on twelve pictures that it has not seen. It runs on your operations.

# %%
from course.engine import Tensor
from course.network import FCN8s
from minifcn.weights import Preprocessing

preprocessing = Preprocessing()  # subtract the mean colour and divide, as all networks here expect


def predict(network, images):
    """The most likely class of each pixel, one picture after the other: uint8 (H, W, 3) -> (H, W)."""
    inputs = [preprocessing.apply(image)[None] for image in images]
    return [network(Tensor(x)).data[0].argmax(axis=0) for x in inputs]


trained = FCN8s(num_classes=9, width=4, fc_width=32)
trained.take_over(checkpoints.state("fcn8s"))
predictions = predict(trained, [sample.image for sample in samples])
confusion = confusion_matrix(predictions, labels, 9)
visualize.picture(
    visualize.confusion_picture(confusion, data.classes),
    alt="The confusion matrix of nine classes in per cent of each row: the diagonal is the largest entry of most "
    "rows, and what is missed is mostly taken for background.",
)

# %% [markdown]
# **Read it:** which two classes does the network confuse most? Does that surprise you, when you think of their outlines
# and colours?

# %% [markdown]
# ## Intersection over union
#
# Take one class, and two sets of pixels: those that *are* of the class, and those that were *predicted* as it. Their
# intersection is what was right. Their union holds all that was right, missed, or wrongly claimed. The ratio is 1 only
# if both sets are equal. Whoever claims nothing gets 0, whoever claims everything gets little.
#
# In the confusion matrix n, for class i:
#
# $$\mathrm{IU}_i = \frac{n_{ii}}{\sum_j n_{ij} + \sum_j n_{ji} - n_{ii}}$$
#
# The row holds what is of the class, the column what was predicted as it; the intersection is in both, and must count
# once. The mean over the classes is the **mean IU** (others write mIoU), the figure by which segmenters are compared.
#
# **Predict:** a set of 9 classes, of which one covers 75 % of the pixels. What is the mean IU of predicting this one
# everywhere?
#
# ## Exercise 2: mean IU
#
# `mean_iu(confusion)` returns one number. A class that occurs neither in the truth nor in the prediction has 0/0: it is
# left out of the mean. A class that is only predicted has an empty intersection, so it counts, with 0.


# %% tags=["exercise"]
def mean_iu(confusion):
    """The mean of intersection over union, over the classes that occur in the truth or in the predictions."""
    raise NotImplementedError


# %%
mean_iu = check(mean_iu)

# %%
show_solution("mean_iu")


# %%
def report(name, predictions, labels):
    confusion = confusion_matrix(predictions, labels, 9)
    accuracy = np.trace(confusion) / confusion.sum()
    print(f"{name:28} pixel accuracy {100 * accuracy:5.1f} %   mean IU {100 * mean_iu(confusion):5.1f} %")


report("one picture, nothing found", [nothing_found], [labels[3]])
report("one picture, beside", [beside], [labels[3]])
report("twelve, nothing found", [np.zeros_like(one) for one in labels], labels)
report("twelve, our FCN-8s", predictions, labels)

# %% [markdown]
# For nine classes, "nothing found" has about 75 / 9 per cent: the background's IU is 0.75, that of all others 0.
# Accuracy lies, and mean IU does not. Whenever you report one of them, report the other, and both for "nothing found".
#
# ## Over the set
#
# Counts are added over all pictures *first*, and the ratio is taken *once*. Many programs compute it for each batch,
# and average. **Predict:** do the four numbers below agree?

# %%
print(f"over the set: {100 * mean_iu(confusion):.1f} %")
for batch_size in (1, 3, 6):
    starts = range(0, 12, batch_size)
    parts = [mean_iu(confusion_matrix(predictions[k : k + batch_size], labels[k : k + batch_size], 9)) for k in starts]
    print(f"mean over batches of {batch_size}: {100 * np.mean(parts):.1f} %")

# %% [markdown]
# The same twelve predictions, and the figure depends on how they were grouped. In a small batch most classes are absent
# and left out, or are predicted in a few pixels and count with 0. Only the first line can be compared with what others
# report.

# %% [markdown]
# ## Five sick runs
#
# Five people have trained FCN-8s, all from the same trunk, and each made one mistake. What was wrong was one of these:
#
# - *void as background*: void pixels in the training masks were set to 0, the class of background.
# - *BGR swapped*: at prediction, the channels came in the order blue, green, red; the network was trained on red,
#   green, blue.
# - *learning rate against loss sum*: the learning rate 1e-10 was taken from the paper's solver, whose loss is a *sum*
#   over the pixels of large pictures; here the loss is their *mean*.
# - *bilinear masks*: pictures were scaled down for the network, and its masks up again, with bilinear interpolation
#   between the *numbers* of the classes.
# - *weights not copied*: the names in the weight file did not match, nothing was copied, and nobody was told.
#
# All of these happen, and none of them raises an error. The runs were stored, by `models/make_sick_runs.py`; what you
# see is what their owners saw. First the loss of each step, with a healthy run beside them.

# %%
runs = np.load(checkpoints.FOLDER / "sick_runs.npz")
steps = np.arange(1, len(runs["loss healthy"]) + 1)
visualize.lines(
    {f"run {letter}": (steps, runs[f"loss {letter}"]) for letter in "ABCDE"}
    | {"healthy": (steps, runs["loss healthy"])},
    x_label="step",
    y_label="loss",
    alt="ALT",
)

# %%
for name in ("A", "B", "C", "D", "E", "healthy"):
    loss = runs[f"loss {name}"]
    print(f"{name:8} first step {loss[0]:.4f}   second {loss[1]:.4f}   mean of the last ten {loss[-10:].mean():.4f}")

# %% [markdown]
# Then what they predict for three of the twelve pictures. (All scale them from 192 × 192 to 96 × 96 pixels for their
# network, and its mask back.)

# %%
shown = (2, 4, 5)
sheet = visualize.prediction_sheet(
    [samples[k].image for k in shown],
    [labels[k] for k in shown],
    {name: [runs[f"masks {name}"][k] for k in shown] for name in ("A", "B", "C", "D", "E", "healthy")},
    data.classes,
    data.palette,
    cell_size=192,
)
visualize.picture(sheet, alt="ALT")

# %% [markdown]
# And three figures over the twelve pictures: the two that you know, and how many of the void pixels, the borders of the
# objects, were predicted as background.

# %%
for name in ("A", "B", "C", "D", "E", "healthy"):
    masks = list(runs[f"masks {name}"])
    border = np.mean(np.concatenate([m[t == 255] == 0 for m, t in zip(masks, labels, strict=True)]))
    report(f"{name}: border {100 * border:.0f} % background,", masks, labels)

# %% [markdown]
# ## Exercise 3: diagnose
#
# `diagnose()` takes nothing, and returns a dictionary: for each of the letters "A" to "E" one of the five causes,
# written as in the list, such as `{"A": "BGR swapped", …}`.
#
# Go from the cause to the symptom: *if* this was the mistake, what would the loss do in the first step, and later? What
# would be wrong in the masks: where the objects are, which class they have, or their rims? Two of the runs predict
# background everywhere. What tells them apart?


# %% tags=["exercise"]
def diagnose():
    """The cause of each of the five sick runs."""
    raise NotImplementedError


# %%
diagnose = check(diagnose)

# %%
show_solution("diagnose")

# %% [markdown]
# The commonest of the five in the field are the two with background everywhere, and the losses tell them apart: exactly
# ln 9 for ever, or down to a floor and no further. The floor is no accident. Whoever knows nothing of a picture, but
# how frequent each class is, does best by predicting these frequencies, and this is what it costs:

# %%
pixels = np.concatenate([one[one != 255] for one in labels])
frequencies = np.bincount(pixels, minlength=9) / len(pixels)
print(f"ln 9 = {np.log(9):.4f}")
print(f"loss of knowing only the frequencies: {-(frequencies * np.log(frequencies)).sum():.4f}")

# %% [markdown]
# A loss that stays there has learnt the frequencies, and has seen nothing yet. (Used the other way round, a learning
# rate for a mean on a loss that is a sum, every step is as many times too long as there are pixels, and the loss is
# soon not a number. The learning rate and the way in which the loss is averaged are chosen *together*.)
#
# ## Now yours
#
# An FCN-8s on your operations: convolution, pooling, transposed convolution, decoder, loss, backward pass, optimiser.
# What is not yours yet is borrowed from the library, as the drawing at the head says.
#
# Its trunk takes over weights, as the paper's does from VGG16, which had seen 1.3 million photographs. Ours has seen
# some thousand drawn pictures: it is the trunk of our FCN-32s. The score layers start at zero. And since *weights not
# copied* is one of the five, look at what was not copied:

# %%
from course.mine import sgd_step

network = FCN8s(num_classes=9, width=4, fc_width=32)
state = checkpoints.state("fcn32s")
trunk = {name: array for name, array in state.items() if not name.startswith("score")}
print("new:", ", ".join(network.take_over(trunk)))
print(sum(parameter.data.size for parameter in network.learned()), "numbers to learn")

# %% [markdown]
# **Before you run the next cell**, which takes some seconds: which loss will it print first? From which step on will
# you believe that it learns?

# %%
from course.engine import softmax_cross_entropy

STEPS, BATCH_SIZE, LR, MOMENTUM = 80, 4, 0.05, 0.9
train_set = Shapes("train", seed=12)
learned = network.learned()
velocities = [np.zeros_like(parameter.data) for parameter in learned]
losses, measured = [], {}

started = time.perf_counter()
for step in range(STEPS):
    if step % 20 == 0:
        measured[step] = predict(network, [sample.image for sample in samples])
    batch = [train_set[step * BATCH_SIZE + k] for k in range(BATCH_SIZE)]
    images = np.stack([preprocessing.apply(sample.image) for sample in batch])  # (N, 3, 96, 96)
    truth = np.stack([sample.labels for sample in batch])  # (N, 96, 96), 255 where void

    loss = softmax_cross_entropy(network(Tensor(images)), truth)
    loss.backward()
    sgd_step([p.data for p in learned], [p.grad for p in learned], velocities, LR, MOMENTUM)

    losses.append(float(loss.data))
    if step % 10 == 0:
        print(f"step {step}: loss {losses[-1]:.4f}")
measured[STEPS] = predict(network, [sample.image for sample in samples])
print(f"{STEPS} steps in {time.perf_counter() - started:.0f} s")

# %%
visualize.lines(
    {"your FCN-8s": (np.arange(STEPS), losses)},
    x_label="step",
    y_label="loss",
    alt="ALT",
)

# %% [markdown]
# And its masks: before the first step, half-way, and now, on pictures that it has not been trained on.

# %%
sheet = visualize.prediction_sheet(
    [samples[k].image for k in (3, 5, 11)],
    [labels[k] for k in (3, 5, 11)],
    {f"after {step} steps": [measured[step][k] for k in (3, 5, 11)] for step in (0, 40, STEPS)},
    data.classes,
    data.palette,
    cell_size=192,
)
visualize.picture(sheet, alt="ALT")

# %%
for step, masks in measured.items():
    report(f"after {step} steps", masks, labels)

# %%
accuracies, mean_ius = [], []
for masks in measured.values():
    confusion = confusion_matrix(masks, labels, 9)
    accuracies.append(100 * np.trace(confusion) / confusion.sum())
    mean_ius.append(100 * mean_iu(confusion))
visualize.lines(
    {"pixel accuracy": (list(measured), accuracies), "mean IU": (list(measured), mean_ius)},
    x_label="step",
    y_label="per cent",
    alt="ALT",
)

# %% [markdown]
# These are masks of your own making, from the first derivative on.
#
# The network is a sixteenth as wide as the paper's, and it has learnt for seconds, not for days. What helps from here
# is no secret: more steps, more channels, a learning rate that falls towards the end, and, above all, a trunk that has
# seen more. The library's training has all that:
#
#     python -m minifcn.train                    the four stages of the paper in miniature, in some minutes
#     python -m minifcn.train --data pictures    on your own pictures
#
# ## What write-ups get wrong
#
# - **Void as background.** Several courses set label 255 to 0, to be rid of the crash that it causes in the loss. The
#   border is then taught to be background.
# - **Mean IU for each batch**, averaged: a figure that depends on the batch size.
# - **Pictures resized with nearest neighbour.** Only masks are; pictures with bilinear interpolation. Do it the other
#   way round, and you are run B.
# - **"The classes must be balanced."** Three quarters of PASCAL VOC are background, and the paper found balancing the
#   loss unnecessary (section 4.3).
#
# ## The same in the library

# %%
open_library(metrics.ConfusionMatrix)
open_library(training.loop.train)

# %% [markdown]
# ## What stays
#
# - One confusion matrix over the whole set; rows are the truth; void is not counted.
# - Pixel accuracy lies where one class is frequent. Mean IU asks every class alike. Report both, and both for "nothing
#   found".
# - A network that predicts only background has told you little. Its loss tells more: ln(number of classes) means that
#   nothing moves, the floor of the frequencies that nothing is seen.
# - Look at what goes into the network, at what was copied, and at masks; not at one number.
#
# And this is what you have built.

# %%
begin(12)

# %% [markdown]
# *Sources.* The metrics: J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic segmentation"
# (2015), section 5. Learning rates, loss as a sum, class balancing: the same, section 4.3, and E. Shelhamer, J. Long
# and T. Darrell, same title (2017), section 4. The five sick runs are our own, made by `models/make_sick_runs.py`.
