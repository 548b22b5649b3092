# %% [markdown]
# # 11. Skips: FCN-32s, 16s, 8s
#
# About 90 minutes. You need lessons 9 (transposed convolution) and 10 (fully convolutional networks).
#
# **The question.** After five poolings, one number of the heat map stands for 32 × 32 pixels of the picture. How can a
# network that has become so coarse still draw an outline?

# %%
from course import begin, check, open_library, show_solution

begin(11)

# %%
from fractions import Fraction

import numpy as np

from course import checkpoints
from course.describing import described
from minifcn import Tensor, models, ops, visualize
from minifcn.data import Shapes

data = Shapes("val", size=192)
samples = [data[index] for index in (1, 2, 5)]


def predict(network, image):
    """The most likely class of each pixel: uint8 (H, W, 3) -> (H, W)."""
    x = network.preprocessing.apply(image)[None]  # (H, W, 3) -> (1, 3, H, W)
    return network(Tensor(x)).numpy()[0].argmax(axis=0)


# %% [markdown]
# Here are three networks at work. They have the same trunk, VGG16 with 4 channels where the original has 64, and differ
# only in what comes after it. We trained them on drawn pictures, one after the other, with
#
#     python -m minifcn.train --stages 32s --width 4 --fc-width 32 --size 192x192 --batch-norm train …
#     python -m minifcn.train --stages 16s,8s …
#
# in some ten minutes on one core; `models/make_fcn.py` holds the commands in full, and makes the networks anew. (It
# also folds away the batch normalisation that they were trained with, a help for training that this course leaves out.)
#
# **Before you look at the names:** which of the three masks comes from the network whose scores are coarsest?

# %%
networks = {name: checkpoints.network(name) for name in ("fcn32s", "fcn16s", "fcn8s")}
predictions = {name: [predict(network, sample.image) for sample in samples] for name, network in networks.items()}
sheet = visualize.prediction_sheet(
    [sample.image for sample in samples],
    [sample.labels for sample in samples],
    {"FCN-32s": predictions["fcn32s"], "FCN-16s": predictions["fcn16s"], "FCN-8s": predictions["fcn8s"]},
    data.classes,
    data.palette,
    cell_size=192,
)
visualize.picture(
    sheet,
    alt=described(11, "three networks"),
)

# %% [markdown]
# ## How coarse is 32?
#
# Is the first network badly trained, or are the cells too large? Ask somebody who knows the truth, but has to say it in
# cells: take the *true* mask, and as score of a class in a cell of 32 × 32 pixels the share of the pixels that are of
# this class. Then enlarge these maps as FCN-32s enlarges its scores, with the transposed convolution and the bilinear
# kernel of lesson 9.
#
# **Predict:** of the labelled pixels, which share will be right for cells of 32, of 16 and of 8 pixels?

# %%
from course import mine  # your functions, and the library's where there is none of yours yet


def in_cells(labels, cell):
    """The mask of somebody who knows the truth, and says it in cells."""
    truth = (labels == np.arange(9)[:, None, None]).astype(float)  # (9, H, W), one map for each class
    x = truth[:, None]  # (9, 1, H, W): each class for itself
    shares = mine.conv2d(x, np.full((1, 1, cell, cell), 1 / cell**2), np.zeros(1), stride=cell)
    kernel = mine.bilinear_kernel(2 * cell)[None, None]
    return mine.conv_transpose2d(shares, kernel, stride=cell, padding=cell // 2)[:, 0].argmax(axis=0)


coarsened = {f"cells of {cell}": [in_cells(sample.labels, cell) for sample in samples] for cell in (32, 16, 8)}
for name, masks in coarsened.items():
    right = [mask == sample.labels for mask, sample in zip(masks, samples, strict=True)]
    labelled = [sample.labels != 255 for sample in samples]
    print(f"{name}: {100 * np.sum(right) / np.sum(labelled):.1f} % of the labelled pixels are right")

# %%
sheet = visualize.prediction_sheet(
    [sample.image for sample in samples],
    [sample.labels for sample in samples],
    coarsened,
    data.classes,
    data.palette,
    cell_size=192,
)
visualize.picture(
    sheet,
    alt=described(11, "from coarse truth"),
)

# %% [markdown]
# So it is not the training alone. Whoever knows every pixel loses arms, points and teeth in cells of 32. (Shares are
# not the cleverest scores that one could give: our FCN-32s draws some of the ring that they miss. But points and
# teeth it cannot draw either.)
#
# And yet the 32 are no mistake: because the network has become so coarse, each of its numbers sees enough of the
# picture to tell a gear from a disc.
#
# The last layers know *what* is there. The layers before them, with their smaller receptive fields, know less of what,
# but more of *where*. Both are in the network already; it only has to ask both.

# %% [markdown]
# ## Asking in three places
#
# The question is asked by a **score layer**: a convolution with a kernel of 1 × 1 that turns the channels of a layer
# into one score for each class. FCN-32s has one of them, after fc7, named score_fr. FCN-8s has two more, on the outputs
# of pool4 and of pool3, where a number stands for 16 × 16 and for 8 × 8 pixels.
#
# (fc6 and fc7 are the two dense layers of VGG16, made convolutions as in lesson 10.)
#
# Here are the scores of all three for one class, from the third network. It runs on your operations: `course.network`
# is an FCN-8s that computes with nothing but `course.mine`.

# %%
from course import engine
from course.network import FCN8s

state = checkpoints.state("fcn8s")
own = FCN8s(num_classes=9, width=4, fc_width=32)
print("not in the file, and so as they began:", own.take_over(state))

sample = samples[0]
image = engine.Tensor(networks["fcn8s"].preprocessing.apply(sample.image)[None])
score_fr, score_pool4, score_pool3 = own.scores(image)
print("shapes:", score_fr.shape, score_pool4.shape, score_pool3.shape)

# %%
present = np.bincount(sample.labels[(sample.labels > 0) & (sample.labels < 255)])
kind = int(present.argmax())
visualize.feature_maps(
    {
        "picture": sample.image.mean(axis=2),
        f"{data.classes[kind]}: score_fr": score_fr.data[0, kind],
        "score_pool4": score_pool4.data[0, kind],
        "score_pool3": score_pool3.data[0, kind],
    },
    columns=4,
    alt=described(11, "scores of three layers"),
)

# %% [markdown]
# The first knows that there is a ring, but not where its hole is. The last draws it pixel by pixel, and is taken in by
# the outlines of the other two.
#
# How are three answers put together? The scores are logits, and of logits a softmax will be taken: adding to a score
# multiplies the class's odds. So evidence from several places is *added*. But the three maps have different sizes, so
# the coarse one is enlarged first:
#
# 1. Enlarge score_fr by 2, and add score_pool4.
# 2. Enlarge the sum by 2, and add score_pool3.
# 3. Enlarge that by 8: one score for each pixel and class.
#
# Such a way past the layers in between is a **skip**, and everything after the score layers is the **decoder**. FCN-32s
# enlarges score_fr by 32 at once. FCN-16s adds score_pool4 only, and enlarges the sum by 16. The number in the name is
# this last factor.
#
# ## The trouble with borders
#
# It would be as easy as that if the maps lay on each other. In the paper's network they do not. The released networks
# pad the picture by 100 pixels at conv1_1, since otherwise small pictures would vanish in fc6, which has a kernel of 7
# and no padding. Here is what becomes of 500 pixels.


# %%
def sizes(n):
    """Sizes along one axis in FCN-8s with the paper's paddings: pool3, pool4, pool5, fc6, and after each upsampling."""
    pools = []
    size = n + 2 * 100 - 3 + 1  # conv1_1; all other convolutions of 3 have padding 1 and keep the size
    for _ in range(5):
        size = -(-size // 2)  # pooling in ceil mode
        pools.append(size)
    fc6 = pools[4] - 7 + 1
    twice = (fc6 - 1) * 2 + 4
    four_times = (twice - 1) * 2 + 4
    return {
        "pool3": pools[2],
        "pool4": pools[3],
        "pool5": pools[4],
        "fc6": fc6,
        "×2": twice,
        "×2 ×2": four_times,
        "×2 ×2 ×8": (four_times - 1) * 8 + 16,
    }


print("500 pixels:", sizes(500))

# %% [markdown]
# The scores after the first upsampling have 34 rows, score_pool4 has 44. The last map has 568, the picture 500. To add
# them, something must be cut off: a **crop**. Which 34 of the 44?
#
# "The middle ones" is the obvious answer: (44 − 34) / 2 = 5. The paper's release says 5 as well, and then 9 at pool3,
# and 31 for the picture. **Predict:** what does "the middle" give for the last two, and for a picture of 480 pixels?

# %%
for n in (500, 480):
    size = sizes(n)
    middles = [
        (size["pool4"] - size["×2"]) / 2,
        (size["pool3"] - size["×2 ×2"]) / 2,
        (size["×2 ×2 ×8"] - n) / 2,
    ]
    print(f"{n} pixels: the middle begins at {middles}, the release crops at [5, 9, 31]")

# %% [markdown]
# For 500 pixels the middle is right at the skips, and 3 pixels off in the end. For 480 pixels it is wrong everywhere,
# by 13 pixels in the end, and at the skips not even a whole number. And nothing complains: the sizes fit, only the mask
# lies beside its picture. Where do 5, 9 and 31 come from?
#
# ## Where is a pixel?
#
# Give each pixel of each map a place in the picture. Along one axis, let pixel i of a layer's output have its window
# centred on the place `scale·i + offset` of the layer's input. For a convolution or a pooling with kernel_size k,
# window i begins at i·stride − padding, and its centre lies (k − 1)/2 further on:
#
# $$\text{scale} = \text{stride} \qquad \text{offset} = \frac{k - 1}{2} - \text{padding}$$
#
# A transposed convolution goes the other way. If pixel j of its input lays its kernel on the output around the place p
# = stride·j + (k − 1)/2 − padding, then the place p of the output belongs to j = (p − (k − 1)/2 + padding) / stride of
# the input:
#
# $$\text{scale} = \frac{1}{\text{stride}} \qquad \text{offset} = -\frac{1}{\text{stride}}
# \left(\frac{k - 1}{2} - \text{padding}\right)$$
#
# **Before you run the next cell:** a pooling of 2 × 2 with stride 2. Where does its pixel 0 lie, and its pixel 3?


# %%
def window(kernel_size, stride=1, padding=0):
    """The map (scale, offset) of a convolution or a pooling."""
    return Fraction(stride), Fraction(kernel_size - 1, 2) - padding


def transposed(kernel_size, stride=1, padding=0):
    """The map of a transposed convolution: the inverse."""
    scale, offset = window(kernel_size, stride, padding)
    return 1 / scale, -offset / scale


scale, offset = window(2, stride=2)
print("pooling: pixel 0 at", float(offset), "and pixel 3 at", float(3 * scale + offset))
scale, offset = transposed(4, stride=2)
print("upsampling ×2: pixel 0 at", float(offset), "and pixel 3 at", float(3 * scale + offset))

# %% [markdown]
# Pixel 0 of a pooling lies between the pixels 0 and 1. Pixel 0 of an upsampling lies at −0.75: *before* the first pixel
# of its input, on the part of the kernel that hangs over the edge.
#
# Now a network in small, with all that the large one has: a convolution with much padding, two poolings, a convolution
# without padding, and two upsamplings ×2. Each row below is a map of it; each box is a pixel, drawn over the place in
# the picture that it stands for.

# %%
visualize.positions(
    {
        "image": (12, 1, 0),
        "after pool1": (9, 2, -2.5),
        "after pool2": (5, 4, -1.5),
        "after fc": (3, 4, 2.5),
        "after upsampling": (8, 2, -0.5),
        "after the second": (18, 1, -2),
    },
    alt=described(11, "boxes of the layers"),
    outline={"after pool1": [1], "after upsampling": [0], "after the second": [2], "image": [0]},
)

# %% [markdown]
# Read it off: the upsampled pixel 0 lies under pixel 1 of pool1, and the image's pixel 0 over pixel 2 of the
# last map. So the skip from pool1 is cropped at 1, and the last map at 2. The middle would have been (9 − 8) / 2, which
# is no whole number, and (18 − 12) / 2 = 3.
#
# All that remains is to compute such rows without drawing them.

# %% [markdown]
# ## Exercise 1: compose
#
# `compose(path)` takes the maps of layers in a row, `[(scale, offset), (scale, offset), …]`, the one next to the
# picture first, and returns one map `(scale, offset)` for all of them: where pixel i of the last layer's output lies in
# the picture.
#
# 1. Take two layers: the second says that its pixel i lies at place s₂·i + o₂ of its input. That input is the output of
#    the first layer, where place p lies at s₁·p + o₁. Put one into the other: which scale and which offset come out?
# 2. A path without layers changes nothing. Which map is that?
# 3. Go through the path, and at each layer replace the map so far by the one of both.


# %% tags=["exercise"]
def compose(path):
    """The map (scale, offset) of a whole path of layers from their maps, the first layer first."""
    raise NotImplementedError


# %%
compose = check(compose)

# %%
show_solution("compose")

# %% [markdown]
# ## 19, 5, 27, 9, 31
#
# Now the whole network. A skip meets the upsampled scores, so both are described by where their pixels lie in the
# picture; they have the same scale, and the difference of the offsets, counted in their own pixels, is the crop. The
# last map meets the picture itself, whose map is (1, 0).

# %%
pools, path = {}, []
for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
    for number in range(depth):
        path.append(window(3, padding=100 if (block, number) == (1, 0) else 1))
    path.append(window(2, stride=2))
    pools[block] = compose(path)
coarse = [*path, window(7), window(1), window(1)]  # fc6, fc7, score_fr


def crop_start(cropped, target):
    """How many pixels of a map with the coordinates `cropped` lie before the first one of the target."""
    assert cropped[0] == target[0], "only maps of one scale can be laid on each other"
    return (target[1] - cropped[1]) / target[0]


up2, image_map = transposed(4, stride=2), (1, 0)
twice, four_times = compose([*coarse, up2]), compose([*coarse, up2, up2])
print("FCN-32s: the image begins at", crop_start(compose([*coarse, transposed(64, stride=32)]), image_map))
print("FCN-16s: score_pool4 from", crop_start(pools[4], twice))
print("FCN-16s: the image begins at", crop_start(compose([*coarse, up2, transposed(32, stride=16)]), image_map))
print("FCN-8s:  score_pool3 from", crop_start(pools[3], four_times))
print("FCN-8s:  the image begins at", crop_start(compose([*coarse, up2, up2, transposed(16, stride=8)]), image_map))

# %% [markdown]
# There they are: 19, 5, 27, 9 and 31, from nothing but kernels, strides and paddings. The size of the picture does not
# come in, so the crops are the same for every picture. And a crop is where the *beginnings* meet. What is left over at
# the end, rounding of the poolings included, is cut off there.
#
# **Predict:** what becomes of the five numbers with the paddings of a network of today: 1 at conv1_1, 3 at fc6, and
# stride/2 at each upsampling?

# %%
for geometry in ("paper", "same"):
    network = FCN8s(num_classes=9, width=4, fc_width=32, geometry=geometry)
    print(f"geometry {geometry!r}: crops {network.crops}, paddings of the upsampling {network.paddings}")

# %% [markdown]
# With padding everywhere half of what the kernel takes, every map begins where the picture begins, and there is nothing
# to crop at the start. The library calls this geometry "same", and our networks have it. It saves work: a padding of
# 100 makes a picture of 192 pixels one of 390.
#
# ## Does the calculation hold for real layers?
#
# Here is a test that knows nothing of maps. Take a picture whose pixels hold the number of their own column. Send it
# through convolutions that average, and through bilinear upsampling. An average of column numbers is the column of the
# window's centre. So wherever no padding is in sight, each pixel of the result *says itself* where it lies.

# %%
ramp = np.broadcast_to(np.arange(64.0), (1, 1, 64, 64))
average3, average2 = np.full((1, 1, 3, 3), 1 / 9), np.full((1, 1, 2, 2), 1 / 4)
no_bias, kernel = np.zeros(1), mine.bilinear_kernel(4)[None, None]

x = mine.conv2d(ramp, average3, no_bias, padding=8)
x = mine.conv2d(x, average2, no_bias, stride=2)
x = mine.conv2d(x, average3, no_bias)
x = mine.conv_transpose2d(x, kernel, stride=2)
said = x[0, 0, 40, 30:36]

scale, offset = compose([window(3, padding=8), window(2, stride=2), window(3), transposed(4, stride=2)])
print("the pixels 30 to 35 say:  ", said)
print("compose says:             ", np.array([float(scale * i + offset) for i in range(30, 36)]))

# %% [markdown]
# ## Exercise 2: the decoder
#
# `decoder(score_fr, score_pool4, score_pool3, filters, image_size, *, crops, paddings)` puts it all together. The
# scores and the three filters are tensors of `course.engine`, so that gradients find their way back. You need three
# things, all of them known:
#
# - `conv_transpose2d(y, weight, stride=…, padding=…)` of the engine, which runs on yours;
# - `crop(x, start, size)` of the engine: the part of x that begins at (start, start) and has the size (height, width);
# - `+`.
#
# In steps:
#
# 1. Enlarge score_fr with `filters[0]`, stride 2 and `paddings[0]`.
# 2. The skip score_pool4 begins at `crops[0]`. Add the part that both maps cover, and mind: with "same" geometry the
#    skip may be the smaller one. 40 pixels have 20, 10, 5, 3 and 2 cells after the poolings, and twice 2 is more than
#    3. So height and width of the sum are each the *smaller* of what the enlarged scores have and what the skip has
#    left after its crop.
# 3. The same with `filters[1]`, score_pool3, `crops[1]` and `paddings[1]`.
# 4. Enlarge with `filters[2]` and stride 8, and take the part of `image_size` = (height, width) that begins at
#    `crops[2]`.

# %%
from course.engine import conv_transpose2d, crop

y = engine.Tensor(np.ones((1, 9, 3, 4)))
y = conv_transpose2d(y, engine.Tensor(np.ones((9, 9, 4, 4))), stride=2, padding=1)
print("enlarged:", y.shape, " cropped:", crop(y, 1, (4, 5)).shape)


# %% tags=["exercise"]
def decoder(score_fr, score_pool4, score_pool3, filters, image_size, *, crops=(5, 9, 31), paddings=(0, 0, 0)):
    """The scores of FCN-8s for each pixel of the image, (N, classes, *image_size), from the scores of three layers."""
    raise NotImplementedError


# %%
decoder = check(decoder)

# %%
show_solution("decoder")

# %% [markdown]
# ## Your decoder at work
#
# The network of the first picture again, with your decoder: first with score_fr alone, the skips set to zero, then with
# one skip, then with both. **Before you run it:** what will the second skip change that the first could not?

# %%
filters = [own.parameters[f"{name}.weight"] for name in ("upscore2", "upscore_pool4", "upscore8")]
nothing4, nothing3 = engine.Tensor(0 * score_pool4.data), engine.Tensor(0 * score_pool3.data)
size = sample.labels.shape
steps = {
    "score_fr": decoder(score_fr, nothing4, nothing3, filters, size, crops=own.crops, paddings=own.paddings),
    "+ score_pool4": decoder(score_fr, score_pool4, nothing3, filters, size, crops=own.crops, paddings=own.paddings),
    "+ score_pool3": decoder(score_fr, score_pool4, score_pool3, filters, size, crops=own.crops, paddings=own.paddings),
}
masks = {name: logits.data[0].argmax(axis=0) for name, logits in steps.items()}
visualize.gallery(
    {"picture": sample.image, **{name: visualize.colorize(mask, data.palette) for name, mask in masks.items()}},
    columns=4,
    alt=described(11, "scores added up"),
)

# %% [markdown]
# (The first mask is not that of FCN-32s: this network was trained to have all three.)
#
# And the library's FCN-8s, with the same weights, says the same:

# %%
theirs = networks["fcn8s"](Tensor(image.data)).numpy()
yours = steps["+ score_pool3"].data
print(f"largest logit {np.abs(yours).max():.1f}, largest difference {np.abs(theirs - yours).max():.1e}")

# %% [markdown]
# At most the last digits of single precision differ. In double precision both agree to ten digits, in the logits and in
# all gradients: a test of this project compares them.
#
# ## Stage by stage
#
# The paper does not train FCN-8s from nothing. It trains FCN-32s; that network's weights are the start of FCN-16s, and
# those of FCN-16s the start of FCN-8s. Each is a **stage**. A new score layer starts with zeros, and its skip then adds
# nothing: the network begins nearly where the one before it ended. **Predict:** an FCN-16s that has just taken over the
# weights of our FCN-32s; of how many pixels will it change its mind?

# %%
grown = models.FCN16s(9, width=4, fc_width=32, geometry="same").eval()
report = models.load_pretrained(grown, checkpoints.FOLDER / "fcn32s.safetensors")
print(report.summary())
before = np.array(predictions["fcn32s"])
after = np.array([predict(grown, sample.image) for sample in samples])
print(f"{100 * (before != after).mean():.2f} % of the pixels have another class")

# %% [markdown]
# Only these, since enlarging by 2 and then by 16 is not quite the same interpolation as by 32 at once. From here on,
# training makes use of the skip where it helps.
#
# (In 2017 the authors trained FCN-8s at once, with the skips' features scaled down by fixed factors, nearly as well.
# One of the two is needed. Without stages or scaling the three streams of scores start at very different sizes.)
#
# ## What write-ups get wrong
#
# - **Numbers without reasons.** Copies of FCN-8s contain `[:, :, 5:5 + …]`, 9 and 31 as they stand in the release. They
#   belong to its paddings of 100 and 0; with others they are others.
# - **The middle.** It fits the skips of a picture of 500 pixels, by chance. You have seen what comes of it elsewhere.
# - **FCN without skips.** Some courses build FCN-32s, with one upsampling, and call it *the* FCN. What the paper adds
#   to it is this lesson.
# - Fully connected layers are replaced by *convolutions*, not by "deconvolutions"; and only the last layer of the
#   classifier is dropped, the one with the class scores, not two.
#
# ## The same in the library
#
# `CoordinateMap.then` is your compose, for two maps. In FCN, `_derive_crops` composes the paths as you did, and one
# decoder serves FCN-32s, 16s, 8s, and FCN-4s, which is not in the papers.

# %%
open_library(ops.CoordinateMap)
open_library(models.FCN)

# %% [markdown]
# ## What stays
#
# - Deep layers know what, shallow ones where. A score layer asks each, and the scores are added.
# - A pixel of any map lies at scale·i + offset in the picture. Maps of layers in a row compose: scales multiply, and an
#   offset counts as many pixels as the scale before it says.
# - Crops follow from that: 19; 5 and 27; 5, 9 and 31. They are not centred, and do not depend on the picture's size.
# - New score layers start at zero, so each stage begins where the last one ended.
#
# In the last lesson this network learns, on your operations.
#
# *Sources.* Skips, stages and their names: J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for
# semantic segmentation" (2015), section 4. How crops are found by composing coordinate maps, and training at once: E.
# Shelhamer, J. Long and T. Darrell, same title (2017), section 4. The crops themselves: the networks released with it.
