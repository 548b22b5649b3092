# %% [markdown]
# # 10. A classifier becomes fully convolutional
#
# About 60 minutes. You need lessons 6 and 8 (convolution, pooling), and softmax from lesson 5.
#
# **The question.** A classifier takes a picture of one fixed size and says what it shows. How do we get from it an
# answer for every place of a larger picture, without training it anew, and without asking it a thousand times?

# %%
from course import begin, check, open_library, show_solution

begin(10)

# %%
import time

import numpy as np

from course.describing import described
from course.mine import conv2d, max_pool2d
from minifcn import visualize
from minifcn.data import Shapes

shapes = Shapes("val", size=(64, 160))
scene = shapes[17]
image = scene.image.transpose(2, 0, 1) / 255 - 0.5  # uint8 (64, 160, 3) -> (3, 64, 160), from −0.5 to 0.5

# made in some minutes by: python lessons/models/make_patch_classifier.py
weights = {name: array.astype(np.float64) for name, array in np.load("models/patch_classifier.npz").items()}

# %% [markdown]
# ## A classifier
#
# This one has learned to look at 36 × 36 pixels and to say what lies in their *middle*: background, or one of eight
# kinds of objects. It has learned from about three million patches, each with one label.
#
# Its first part, the **trunk**, consists of convolutions and poolings, and turns pixels into features. Then come two
# layers of another kind. In a **dense layer**, every output is a sum over *all* inputs, each with a weight of its
# own: y = W x + b, a matrix product. Where an input came from makes no difference to it, so the maps are written as
# one long row before: channel by channel, and row by row in each. (`np.maximum(…, 0)` sets negative numbers to 0.
# Without something like it in between, two layers would be no more than one.) The numbers in the comments are the
# sizes of the maps.


# %%
def trunk(x):
    """Convolutions and poolings: (n, 3, 36, 36) -> (n, 32, 7, 7), or larger maps from larger pictures."""
    x = np.maximum(conv2d(x, weights["conv1.weight"], weights["conv1.bias"]), 0)  # 5×5 kernels: 36 -> 32
    x = max_pool2d(x, (2, 2), stride=2)  # 32 -> 16
    x = np.maximum(conv2d(x, weights["conv2.weight"], weights["conv2.bias"]), 0)  # 3×3 kernels: 16 -> 14
    return max_pool2d(x, (2, 2), stride=2)  # 14 -> 7


def classify(patches):
    """Patches (n, 3, 36, 36) -> logits (n, 9)."""
    x = trunk(patches)
    x = x.reshape(len(x), 32 * 7 * 7)  # (n, 32, 7, 7) -> (n, 1568): one long row each
    x = np.maximum(x @ weights["dense1.weight"].T + weights["dense1.bias"], 0)  # (n, 1568) -> (n, 40)
    return x @ weights["dense2.weight"].T + weights["dense2.bias"]  # (n, 40) -> (n, 9)


# %% [markdown]
# **Before you run the next cell:** cover the captions. What would you say of each patch? And what would you say if the
# middle lay on an edge?


# %%
def softmax(logits):
    """Probabilities from logits (K, …), along the first axis."""
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


corners = [(15, 27), (1, 49), (14, 68), (18, 88)]  # top and left of four patches
pictures = {}
for number, (top, left) in enumerate(corners, start=1):
    patch = image[:, top : top + 36, left : left + 36]
    chances = softmax(classify(patch[None])[0])
    answer = int(chances.argmax())
    caption = f"{number}. {shapes.classes[answer]}, {chances[answer]:.0%}"
    pictures[caption] = scene.image[top : top + 36, left : left + 36]
visualize.gallery(
    {"a picture that the classifier has never seen": scene.image},
    windows={"a picture that the classifier has never seen": [(top, left, 36, 36) for top, left in corners]},
    alt=described(10, "four squares"),
)

# %%
visualize.gallery(
    pictures,
    alt="The four patches, each with the classifier's answer and its probability: " + "; ".join(pictures) + ".",
)

# %% [markdown]
# ## Ask it everywhere
#
# The plain way to an answer for every place: cut out a window at every place, and ask. Before FCN, networks that
# classify were often made to segment in this way.
#
# We move the window by 4 pixels. **Predict:** how many windows does a picture of 64 × 160 pixels have?
#
# <details><summary>Answer</summary>
#
# The size formula of a convolution, with a kernel of 36 and stride 4: ⌊(64 − 36)/4⌋ + 1 = 8 rows of windows, and
# ⌊(160 − 36)/4⌋ + 1 = 32 in a row. 256 windows.
# </details>
#
# ## Exercise 1: patch_classifier
#
# `patch_classifier(image, classify, window, stride)` takes an image (C, H, W), and returns the logits of all windows,
# (K, rows, columns), where K is the number of classes. `classify` takes patches (n, C, window, window) and returns
# (n, K); give it one patch at a time, or all at once.
#
# 1. Work out how many rows and columns of windows there are.
# 2. Window (row, column) begins at pixel (row·stride, column·stride). Cut it out, and ask.
# 3. Put the logits in order: the classes first, then rows and columns.


# %% tags=["exercise"]
def patch_classifier(image, classify, window, stride):
    """classify(patches (n, C, window, window)) -> (n, K) at every window of the image (C, H, W): (K, rows, columns)."""
    raise NotImplementedError


# %%
patch_classifier = check(patch_classifier)

# %%
show_solution("patch_classifier")

# %%
started = time.perf_counter()
by_patches = patch_classifier(image, classify, 36, 4)
seconds_patches = time.perf_counter() - started
print(f"logits {by_patches.shape} in {seconds_patches:.2f} s")

# %% [markdown]
# One class of this array, over all places, is a picture by itself: a **heat map**, which shows where the classifier
# sees this class. A window says what lies in its middle, so the answers belong to the middle of the picture: the
# outer 16 pixels have none.
#
# **Predict:** where will each of these maps be bright?

# %%
# the middle of window (row, column) lies in the 4 × 4 pixels from (16 + 4·row, 16 + 4·column) on
middle = scene.image[16:48, 16:144]
truth = scene.labels[16:48, 16:144]
kinds = [int(kind) for kind in np.unique(truth) if kind != 255]


def show_heat(logits):
    chances = softmax(logits)
    return visualize.feature_maps(
        {"the middle of the picture": middle.mean(axis=2) / 255}
        | {f"{shapes.classes[kind]}": chances[kind] for kind in kinds},
        columns=2,
        shared_scale=True,
        alt=described(10, "probabilities"),
    )


show_heat(by_patches)

# %% [markdown]
# A rough segmenter already. But the windows overlap: two neighbours share 32 of their 36 columns. The trunk computes
# the same features of the same pixels again and again.
#
# ## A dense layer is a convolution
#
# The trunk could run over the whole picture at once: a convolution and a pooling do not care how large their input
# is. It is the dense layers that insist on 7 × 7. Look at one of the 40 outputs of the first: it multiplies each of
# the 32 · 7 · 7 numbers by a weight, and adds.
#
# And what does a convolution with a kernel of 7 × 7 do, on 32 maps of 7 × 7? The kernel fits at one place only, and
# there it multiplies each of the 32 · 7 · 7 numbers by a weight, and adds. **It is the same sum.** Only the weights
# stand in a row in the one, and in maps in the other.

# %%
maps = np.arange(1.0, 9.0).reshape(2, 2, 2)  # 2 channels of 2 × 2
row_of_weights = np.array([[3.0, -1.0, 0.0, 2.0, 1.0, 4.0, -2.0, 0.0]])  # one output, 8 inputs
visualize.matrices(
    {
        "channel 0": maps[0],
        "channel 1": maps[1],
        "the maps as one row": maps.reshape(1, 8),
        "the weights of one output": row_of_weights,
    },
    outline={"channel 1": [(0, 1)], "the maps as one row": [(0, 5)], "the weights of one output": [(0, 5)]},
    alt=described(10, "reshaped weights"),
)

# %% [markdown]
# **Before you go on:** the 6, in channel 1, row 0, column 1, meets the weight 4. What is the kernel that gives the same
# sum? Write it down: two channels of 2 × 2. (The sum is 3·1 − 2 + 0 + 2·4 + 5 + 4·6 − 2·7 + 0 = 24.)
#
# ## Exercise 2: dense_to_conv
#
# `dense_to_conv(weight, in_channels, kernel_size)` takes the weight of a dense layer, (out, in_channels·kh·kw), and
# returns that of the convolution, (out, in_channels, kh, kw). kernel_size is the size (kh, kw) of the maps that the
# layer saw. They were flattened in the order channel, row, column.


# %% tags=["exercise"]
def dense_to_conv(weight, in_channels, kernel_size):
    """The weight (out, in_channels·kh·kw) of a dense layer as that of a convolution, (out, in_channels, kh, kw)."""
    raise NotImplementedError


# %%
dense_to_conv = check(dense_to_conv)

# %%
show_solution("dense_to_conv")

# %%
small_kernel = dense_to_conv(row_of_weights, 2, (2, 2))
visualize.matrices(
    {"kernel, channel 0": small_kernel[0, 0], "kernel, channel 1": small_kernel[0, 1]},
    alt=described(10, "the two channels of the kernel"),
)

# %% [markdown]
# One line, and no number is changed. A dense layer after the first one sees no maps, only channels: for it the maps
# are of 1 × 1, and so is its kernel.
#
# ## The whole network, once
#
# Now every layer is a convolution or a pooling. The network has become **fully convolutional**, and takes pictures of
# any size from 36 × 36 up.
#
# **Predict:** what shape do its logits have for one patch of 36 × 36 pixels, and for the whole picture of 64 × 160?
# Follow the sizes through the layers: 64 → 60 → 30 → 28 → …

# %%
first_kernel = dense_to_conv(weights["dense1.weight"], 32, (7, 7))  # (40, 1568) -> (40, 32, 7, 7)
second_kernel = dense_to_conv(weights["dense2.weight"], 40, (1, 1))  # (9, 40) -> (9, 40, 1, 1)


def fully_convolutional(images):
    """(n, 3, H, W) -> logits (n, 9, rows, columns), for any H and W from 36 up."""
    x = trunk(images)
    x = np.maximum(conv2d(x, first_kernel, weights["dense1.bias"]), 0)
    return conv2d(x, second_kernel, weights["dense2.bias"])


started = time.perf_counter()
at_once = fully_convolutional(image[None])[0]
seconds_once = time.perf_counter() - started
print(f"one patch: {fully_convolutional(image[None, :, :36, :36]).shape}, the whole picture: {at_once.shape}")
print(f"patches {1000 * seconds_patches:.0f} ms, all at once {1000 * seconds_once:.0f} ms")
print(f"largest difference of the logits: {np.abs(at_once - by_patches).max():.1e}")

# %% [markdown]
# The same 256 · 9 logits, in a fraction of the time. There are 8 × 32 of them, as many as there were windows 4 pixels
# apart. Nobody has told the network about 4: it has two poolings of stride 2. When the window moves on by 4 pixels, the
# trunk's maps move on by exactly one number, and the 7 × 7 kernel meets the next window's maps.
#
# ## Which windows are in the map?
#
# Only those. **Predict:** the logits of a window that begins at pixel (1, 1), or (2, 2): are they in the map, somewhere
# between?

# %%
for offset in range(6):
    window = image[None, :, offset : offset + 36, offset : offset + 36]
    distances = np.abs(at_once - classify(window)[0][:, None, None]).max(axis=0)  # from every entry of the map
    row, column = np.unravel_index(distances.argmin(), distances.shape)
    print(f"window at ({offset}, {offset}): nearest to entry ({row}, {column}), difference {distances.min():.1e}")

# %% [markdown]
# The windows at 0 and 4 are there, to the last digits; those between are not. A pooling with stride 2 compares pairs
# that begin at even places; one pixel further on there are other pairs, and other maxima. To have those windows as
# well, shift the picture by 1, 2 and 3 pixels down and to the right, and run the network again: 16 times for an
# answer for every pixel.

# %%
shifted = fully_convolutional(image[None, :, 1:, 1:])[0]
difference = np.abs(shifted[:, 0, 0] - classify(image[None, :, 1:37, 1:37])[0]).max()
print(f"the shifted picture's first entry against the window at (1, 1): {difference:.1e}")

# %% [markdown]
# One more condition: no layer here has padding. A layer that pads shows a patch zeros at its rim, where the large
# picture has pixels. VGG's layers do pad. So a fully convolutional VGG gives the classifier's logits on a picture of
# just the right size, and on a larger one what its *dense layers* say about each window of the last pooling's maps,
# which know a little more than a patch that was cut out. Here is a narrow VGG16 with random weights.

# %%
from minifcn import Tensor, models, no_grad
from minifcn.models import surgery

generator = np.random.default_rng(10)
vgg = models.VGG16(num_classes=5, width=2).astype(np.float64).eval()
large = Tensor(generator.normal(size=(1, 3, 256, 256)))
patch = Tensor(large.data[:, :, :224, :224])
with no_grad():
    dense, convolutional = vgg(patch).numpy()[0], surgery.fully_convolutional(vgg)
    same_size = convolutional(patch).numpy()[0]
    larger = convolutional(large).numpy()[0]
for name, logits in (("224 × 224", same_size), ("256 × 256", larger)):
    difference = np.abs(logits[:, 0, 0] - dense).max() / np.abs(dense).max()
    print(f"{name}: {logits.shape}; the first window's logits differ from the patch's by {difference:.1e} (relative)")

# %% [markdown]
# ## What a patch classifier wastes
#
# Time depends on the machine. Count the multiplications instead. A convolution makes, at each place of its *output*
# and for each of its output channels, one for each number of the kernel: in_channels · kernel_size². Poolings only
# compare.
#
# **Predict:** for one patch, which layer of our network has the most? And for the whole picture, will all layers save
# the same share?
#
# ## Exercise 3: count_multiplications
#
# `count_multiplications(layers, size)` counts those of a whole network on an image (3, size, size), without padding.
# Each layer is (kind, out_channels, kernel_size, stride), where kind is "conv" or "pool"; for a pooling, out_channels
# is the number of channels that come in. Ours, with its dense layers as convolutions:

# %%
LAYERS = [
    ("conv", 16, 5, 1),
    ("pool", 16, 2, 2),
    ("conv", 32, 3, 1),
    ("pool", 32, 2, 2),
    ("conv", 40, 7, 1),
    ("conv", 9, 1, 1),
]


# %% tags=["exercise"]
def count_multiplications(layers, size):
    """Multiplications of layers (kind, out_channels, kernel_size, stride) on an image (3, size, size), no padding."""
    raise NotImplementedError


# %%
count_multiplications = check(count_multiplications)

# %%
show_solution("count_multiplications")


# %%
def patches_against_once(layers, size, window, stride):
    """How many times as many multiplications the patch classifier makes."""
    windows = (size - window) // stride + 1
    return windows**2 * count_multiplications(layers, window) / count_multiplications(layers, size)


sizes = np.arange(36, 517, 4)
visualize.lines(
    {"patches against once": (sizes, [patches_against_once(LAYERS, int(size), 36, 4) for size in sizes])},
    x_label="height and width of the picture",
    y_label="times as many multiplications",
    alt=described(10, "cost of one pass"),
)

# %%
for kind, size in (("one patch", 36), ("a picture of 512 × 512", 512)):
    per_layer = np.diff([count_multiplications(LAYERS[:end], size) for end in (0, 1, 3, 5, 6)])
    windows = ((size - 36) // 4 + 1) ** 2
    shares = ", ".join(f"{count / windows:,.0f}" for count in per_layer)
    print(f"{kind}: {count_multiplications(LAYERS, size):,} multiplications; by window: {shares}")

# %% [markdown]
# In the first convolution, a pixel's features are computed once instead of once for each window they lie in: nearly 60
# times fewer. In the dense layers nothing is saved; each window has its own. In all, a large picture needs about a
# twentieth. And for an answer for every pixel, as segmentation by patches needs it, there are 16 times as many
# windows.
#
# In VGG16 the trunk is nearly all of the work. Without its paddings, one window is 404 × 404 pixels (its receptive
# field, lesson 8), and windows lie 32 pixels apart.

# %%
VGG16 = []
for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    VGG16 += [("conv", channels, 3, 1)] * depth + [("pool", channels, 2, 2)]
VGG16 += [("conv", 4096, 7, 1), ("conv", 4096, 1, 1), ("conv", 21, 1, 1)]

for size in (500, 1012):
    windows = ((size - 404) // 32 + 1) ** 2
    print(f"{size} × {size}: {windows} windows, {patches_against_once(VGG16, size, 404, 32):.1f} times as many")
every_pixel = 500**2 * count_multiplications(VGG16, 404) / count_multiplications(VGG16, 500 + 403)
print(f"asked for each pixel of 500 × 500, in a frame of zeros: {every_pixel:,.0f} times as many")

# %% [markdown]
# > The last line compares unequal things: for each pixel there is a window of its own, while the network at once
# > answers for every 32nd. The answers in between are what lesson 9's upsampling is for.
#
# ## From VGG16 to FCN
#
# What becomes of VGG16, then? It has 13 convolutions and 5 poolings, the trunk, and three dense layers, fc6, fc7 and
# fc8.
#
# | layer | as a classifier | in FCN |
# |---|---|---|
# | fc6 | dense, (4096, 25088) | convolution, (4096, 512, 7, 7): the same 102,760,448 weights |
# | fc7 | dense, (4096, 4096) | convolution, (4096, 4096, 1, 1): the same weights |
# | fc8 | dense, (1000, 4096) | dropped: it scores the 1000 classes of another data set |
# | | | new: a convolution, (21, 4096, 1, 1), that scores the 21 classes of this one |
#
# Many write-ups have this wrong, in two ways:
#
# - "FCN replaces the fully connected layers by *deconvolutions*." No: by convolutions, and as you have seen, nothing is
#   replaced but the shape of a weight. Transposed convolutions come after them, for the upsampling.
# - "FCN drops the last *two* dense layers." No: only the last, fc8. fc6 and fc7 keep their weights, and of all
#   numbers in VGG16 86 in a hundred are theirs: 119,545,856 of 138,357,544, biases included. To start them at random
#   is to throw away much of what the classifier has learned.
#
# ## A segmenter, nearly
#
# Take the class with the largest logit at each place, and repeat it 4 × 4 times: a mask.

# %%
answers = np.kron(at_once.argmax(axis=0), np.ones((4, 4), int)).astype(np.uint8)  # (8, 32) -> (32, 128)
sheet = visualize.prediction_sheet(
    [middle], [truth], {"the classifier": [answers]}, shapes.classes, shapes.palette, cell_size=384
)
visualize.picture(
    sheet,
    alt=described(10, "mask in squares"),
)

# %%
labelled = truth != 255
print(f"{(answers == truth)[labelled].mean():.1%} of the labelled pixels are right here")

right = total = background = 0
for number in range(20, 40):  # more pictures that it has never seen
    sample = shapes[number]
    logits = fully_convolutional(sample.image.transpose(2, 0, 1)[None] / 255 - 0.5)[0]
    centres = sample.labels[17::4, 17::4][: logits.shape[1], : logits.shape[2]]  # the pixel in each window's middle
    judged = centres != 255
    right += (logits.argmax(axis=0) == centres)[judged].sum()
    background += (centres == 0).sum()
    total += judged.sum()
print(f"on 20 other pictures, {right / total:.1%} of the windows; {background / total:.1%} are background")

# %% [markdown]
# FCN begins here. Then it trains the whole network on masks, and enlarges its coarse answers.
#
# (One thing can be told now. The three million patches were never cut out. In training, too, whole scenes went through
# the network, and the loss was the mean over all windows: the same as if each patch had been given to it alone, with a
# fifteenth of the multiplications.)
#
# ## The same in the library
#
# `fc_to_conv` is your dense_to_conv, and `fully_convolutional` makes the whole VGG over. `PatchClassifier` is yours
# for every pixel and for batches. In the same folder, `dense_prediction.py` has the shifts that give an answer for
# every pixel, and another way to them, in one pass, with holes in the kernels.

# %%
from minifcn.models.patch_classifier import PatchClassifier

open_library(surgery.fc_to_conv)
open_library(surgery.fully_convolutional)
open_library(PatchClassifier)

# %% [markdown]
# ## What stays
#
# - A dense layer on maps of 7 × 7 is a convolution with a kernel of 7 × 7, at the one place where it fits.
# - As a convolution it can slide: the network takes any size, and answers for every window at once.
# - The windows lie as far apart as the strides multiply to. Equal logits need layers without padding.
# - A patch classifier computes each feature once for every window it lies in; a fully convolutional network, once.
# - FCN keeps fc6 and fc7, as convolutions, and drops only fc8.
#
# *Sources.* From classifier to heat map: J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for
# semantic segmentation" (2015), section 3.1, with a measured example: 22 ms for the 10 × 10 outputs of AlexNet on 500
# × 500 pixels, where one patch takes 1.2 ms; section 4.1 for what is dropped. Segmentation by patches: D. Ciresan and
# others, "Deep neural networks segment neuronal membranes in electron microscopy images" (2012). Dense layers that
# slide: P. Sermanet and others, "OverFeat" (2014), section 3.5.
