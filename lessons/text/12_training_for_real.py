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
from threadpoolctl import threadpool_limits

from course import checkpoints
from course.describing import described
from minifcn import metrics, training, visualize
from minifcn.data import Shapes

threadpool_limits(1)  # the products here are so small that several cores would mostly wait for one another
data = Shapes("val", size=192)
samples = [data[index] for index in range(12)]
labels = [sample.labels for sample in samples]

# %% [markdown]
# ## Two masks
#
# Here is a picture, its true mask, and two predictions. The first predicts background everywhere. The second is the
# true mask, moved by 18 of its 192 pixels: every object is found, named and outlined, beside its place.
#
# **Before you run the next cells:** which of the two has more pixels right?

# %%
nothing_found = np.zeros_like(labels[3])
objects = np.where(labels[3] == 255, 0, labels[3])
beside = np.pad(objects, ((18, 0), (18, 0)))[:192, :192]  # 18 pixels down and to the right
sheet = visualize.prediction_sheet(
    [samples[3].image],
    [labels[3]],
    {"nothing found": [nothing_found], "beside": [beside]},
    data.classes,
    data.palette,
)
visualize.picture(
    sheet,
    alt=described(12, "a mask and background"),
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
    alt=described(12, "a confusion matrix"),
    outline={"confusion matrix": [(0, 0), (1, 1), (2, 2)]},
    shared_scale=False,
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
    alt=described(12, "nine classes"),
)

# %% [markdown]
# **Read it:** which class is most often taken for which other one? Does that surprise you, when you think of their
# outlines?
#
# <details><summary>Answer</summary>
#
# Ring for crescent: both are bent bands, and one end of a crescent looks like a piece of a ring. Next come, in several
# rows, objects that were taken for background: tips, teeth and rims.
# </details>

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
    print(f"{name:37} pixel accuracy {100 * accuracy:5.1f} %   mean IU {100 * mean_iu(confusion):5.1f} %")


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
# Five people have trained FCN-8s as we shall do below: with the trunk of a network that had been trained before, and
# new score layers. Each made one mistake, and it was one of these:
#
# - *void as background*: void pixels in the training masks were set to 0, the class of background.
# - *BGR swapped*: at prediction, the channels came in the order blue, green, red; the network was trained on red,
#   green, blue.
# - *learning rate against loss sum*: the learning rate 1e-10 was taken from the paper's solver, whose loss is a *sum*
#   over the pixels of large pictures; here the loss is their *mean*.
# - *bilinear masks*: predicted masks, which had been stored at half the size, were enlarged with bilinear interpolation
#   between the *numbers* of the classes.
# - *weights not copied*: the names in the weight file did not match, nothing was copied, and nobody was told.
#
# All of these happen, and none of them raises an error. What you see now is what their owners saw. (The runs were made
# by `models/make_sick_runs.py`, in two minutes on one core. Do not open it yet: it names the causes.) First the loss,
# as the mean of ten steps, with a healthy run beside them.

# %%
NAMES = ("A", "B", "C", "D", "E", "healthy")
runs = np.load(checkpoints.FOLDER / "sick_runs.npz")
losses = {name: runs[f"loss {name}"].reshape(-1, 10).mean(axis=1) for name in NAMES}
visualize.lines(
    {name: (np.arange(10, 10 * len(loss) + 1, 10), loss) for name, loss in losses.items()},
    x_label="step",
    y_label="loss, mean of ten steps",
    alt=described(12, "six runs"),
)

# %%
for name in NAMES:
    loss = runs[f"loss {name}"]
    print(f"{name:8} first step {loss[0]:.4f}   second {loss[1]:.4f}   mean of the last ten {loss[-10:].mean():.4f}")

# %% [markdown]
# Then what they predict for three of the twelve pictures. All six stored their masks at half the size, and enlarged
# them again. Look at the insides of the objects, and at their rims.

# %%
shown = (0, 4, 5)


def show_masks(names, alt):
    sheet = visualize.prediction_sheet(
        [samples[k].image for k in shown],
        [labels[k] for k in shown],
        {name: [runs[f"masks {name}"][k] for k in shown] for name in names},
        data.classes,
        data.palette,
        cell_size=192,
    )
    return visualize.picture(sheet, alt=alt)


show_masks(
    ("A", "B", "C"),
    alt=described(12, "masks of A, B and C"),
)

# %%
show_masks(
    ("D", "E", "healthy"),
    alt=described(12, "masks of D, E and the healthy run"),
)

# %% [markdown]
# And three figures over the twelve pictures: the two that you know, and how many of the void pixels, the borders of the
# objects, were predicted as background.

# %%
for name in NAMES:
    masks = list(runs[f"masks {name}"])
    border = np.concatenate([mask[label == 255] == 0 for mask, label in zip(masks, labels, strict=True)])
    report(f"{name}: {100 * border.mean():.0f} % of borders background", masks, labels)

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
# Background everywhere is what users of FCNs ask about most. The losses tell the two runs apart: exactly ln 9 for ever,
# or down to a floor and no further. The floor is no accident. Whoever knows nothing of a picture, but
# how frequent each class is, does best by predicting these frequencies, and this is what it costs:

# %%
pixels = np.concatenate([one[one != 255] for one in labels])
frequencies = np.bincount(pixels, minlength=9) / len(pixels)
print(f"ln 9 = {np.log(9):.4f}")
print(f"loss of knowing only the frequencies: {-(frequencies * np.log(frequencies)).sum():.4f}")

# %% [markdown]
# A loss that stays there has learnt the frequencies, and has seen nothing yet.
#
# Used the other way round, a learning rate for a mean on a loss that is a sum, every step is as many times too long as
# there are pixels. With the learning rates of the healthy run, the loss of a pixel went 2.2, 5400, 10²⁵, not a
# number. The learning rate and the way in which the loss is averaged are chosen *together*.
#
# ## Now yours
#
# An FCN-8s on your operations: convolution, pooling, transposed convolution, decoder, loss, backward pass, optimiser.
# What is not yours yet is borrowed from the library, as the drawing at the head says.
#
# Its trunk takes over weights, as the paper's does from VGG16, which had seen 1.3 million photographs. Ours has seen
# some ten thousand drawn pictures: it is the trunk of the FCN-8s above. The score layers start at zero and upsampling
# starts bilinear. And since *weights not copied* is one of the five, look at what was not copied:

# %%
from course.mine import sgd_step

network = FCN8s(num_classes=9, width=4, fc_width=32)
state = checkpoints.state("fcn8s")
trunk = {name: array for name, array in state.items() if not name.startswith(("score", "upscore"))}
print("new:", ", ".join(network.take_over(trunk)))

# %% [markdown]
# A step is one picture, as in the paper of 2017. What is new learns ten times as fast as what was taken over, since it
# has everything to learn and the trunk has little; and both learning rates fall towards the end, so that the last
# pictures do not undo what all have taught.
#
# **Before you run the next cell**, which takes some seconds: which loss will it print first? From which step on will
# you believe that it learns?

# %%
from course.engine import softmax_cross_entropy

STEPS, NEW_LR, LR, MOMENTUM = 80, 0.02, 0.002, 0.9
train_set = Shapes("train", size=192, seed=12)
new = [parameter for name, parameter in network.parameters.items() if name.startswith("score")]
taken_over = [parameter for parameter in network.learned() if parameter not in new]
velocities = {parameter: np.zeros_like(parameter.data) for parameter in network.learned()}


def step_of_sgd(parameters, lr):
    """Your sgd_step on tensors: it changes their data."""
    sgd_step(
        [parameter.data for parameter in parameters],
        [parameter.grad for parameter in parameters],
        [velocities[parameter] for parameter in parameters],
        lr,
        MOMENTUM,
    )


images = [sample.image for sample in samples[:4]]
curve, measured = [], {0: predict(network, images)}
started = time.perf_counter()
for step in range(STEPS):
    picture, label, _ = train_set[step]
    logits = network(Tensor(preprocessing.apply(picture)[None]))  # (1, 9, 192, 192)
    loss = softmax_cross_entropy(logits, label[None])  # void pixels, 255, do not count
    loss.backward()
    remaining = 1 - step / STEPS
    step_of_sgd(new, NEW_LR * remaining)
    step_of_sgd(taken_over, LR * remaining)

    curve.append(float(loss.data))
    if step % 10 == 0:
        print(f"step {step}: loss {curve[-1]:.4f}")
    if step + 1 in (10, 30, STEPS):
        measured[step + 1] = predict(network, images)
print(f"{STEPS} steps in {time.perf_counter() - started:.0f} s")

# %%
visualize.lines(
    {
        "each step": (np.arange(STEPS), curve),
        "mean of ten": (np.arange(5, STEPS, 10), np.reshape(curve, (-1, 10)).mean(1)),
    },
    x_label="step",
    y_label="loss",
    alt=described(12, "loss of your FCN-8s"),
)

# %% [markdown]
# And its masks, of pictures that it was not trained on:

# %%
sheet = visualize.prediction_sheet(
    images[1:4],
    labels[1:4],
    {f"{step} steps": masks[1:4] for step, masks in measured.items()},
    data.classes,
    data.palette,
    cell_size=192,
)
visualize.picture(
    sheet,
    alt=described(12, "masks of your FCN-8s"),
)

# %%
for step, masks in measured.items():
    report(f"after {step} steps", masks, labels[:4])

# %% [markdown]
# Where the objects are comes first, what they are comes later. And look at the first line: pixel accuracy begins where
# it could be mistaken for success, mean IU where the network does.
#
# These are masks of your own making, from the first derivative on.
#
# The network is a sixteenth as wide as the paper's, and has learnt for seconds, not for days. What helps from here
# is no secret: more steps, more channels, and, above all, a trunk that has seen more. The library's training has all
# that:
#
#     python -m minifcn.train                    # the paper's stages in miniature, in minutes
#     python -m minifcn.train --data pictures    # on your own pictures
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
