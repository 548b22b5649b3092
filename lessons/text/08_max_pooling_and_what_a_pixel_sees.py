# %% [markdown]
# # 8. Max pooling, and what a pixel sees
#
# About 60 minutes. You need lesson 6 (convolution); lesson 7 helps with the gradient.
#
# **The question.** The kernels of VGG16, the network that FCN-8s is made from, are 3 × 3. Below is what such a kernel
# lies on, in the first picture, and the same place with more and more around it. To what does the pixel in the middle
# belong?

# %%
from course import begin, check, open_library, show_solution

begin(8)

# %%
import numpy as np

from course.describing import described
from course.mine import col2im, conv2d, gradcheck, im2col
from minifcn import ops, visualize
from minifcn.data import Shapes

generator = np.random.default_rng(8)
picture = Shapes("val", size=96)[6].image  # uint8 (H, W, 3)
middle = (66, 24)  # row, column


def around(size):
    """The part of the picture of size × size pixels around the middle, and its window (top, left, height, width)."""
    top, left = middle[0] - size // 2, middle[1] - size // 2
    return picture[top : top + size, left : left + size], (top, left, size, size)


sizes = (3, 5, 14, 40)
visualize.gallery(
    {f"{size} × {size}": around(size)[0] for size in sizes} | {"the picture": picture},
    columns=5,
    alt=described(8, "around a pixel"),
    windows={"the picture": [around(size)[1] for size in sizes]},
)

# %% [markdown]
# To a cross, but from 3 × 3 pixels nobody can tell. A network that is to name the object must see much more of the
# picture, and yet its kernels are small. There are two ways out, and networks use both: more layers, and smaller
# pictures in between. This lesson builds what makes them smaller, and then counts how far a network sees.

# %% [markdown]
# ## Max pooling
#
# **Max pooling** lays windows on a feature map and keeps the largest number of each. Most often the windows are 2 × 2
# and stand side by side, that is, the stride is 2. Then the map becomes half as high and half as wide.
#
# **Before you run the next cell**, write down the four numbers.


# %%
def pool_loops(image, kernel_size, stride):
    """The largest number of each window, the plain way."""
    rows = (image.shape[0] - kernel_size) // stride + 1
    columns = (image.shape[1] - kernel_size) // stride + 1
    result = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            result[row, column] = image[top : top + kernel_size, left : left + kernel_size].max()
    return result


x = np.array([[3.0, 1.0, 4.0, 1.0], [5.0, 9.0, 2.0, 6.0], [5.0, 3.0, 5.0, 8.0], [1.0, 7.0, 2.0, 3.0]])
winners = [(1, 1), (1, 3), (3, 1), (2, 3)]
visualize.matrices(
    {"x": x, "pooled": pool_loops(x, 2, 2)},
    alt=described(8, "four windows"),
    outline={"x": winners, "pooled": [(0, 0), (0, 1), (1, 0), (1, 1)]},
)

# %% [markdown]
# Nothing is learned here: pooling has no weights. Every channel is pooled on its own, so their number stays.
#
# Why the largest? A feature map says where its feature is. The largest number of a window says: it is somewhere in
# here. How strongly is kept, where exactly is forgotten.

# %%
left_to_right = np.array([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])
grey = np.pad(picture.mean(axis=2) / 255, 1, mode="edge")  # a frame that repeats the edge, so that no edge is made
edges = conv2d(grey[None, None], left_to_right[None, None], np.zeros(1))[0, 0]
maps = {"edges, 96 × 96": edges}
for _ in range(3):
    edges = pool_loops(edges, 2, 2)
    maps[f"pooled, {edges.shape[0]} × {edges.shape[1]}"] = edges
visualize.feature_maps(
    maps,
    alt=described(8, "after three poolings"),
)

# %% [markdown]
# After three poolings, neighbouring numbers lie 8 pixels apart. In lesson 11 we shall have to win the exact places
# back.
#
# ## What does not fit: ceil mode and padding
#
# Five columns, windows of two, stride two: two windows fit, and one column is left over. Lesson 6 rounds down and
# forgets it. In **ceil mode** (the ceiling of a number is the number rounded up) the count is rounded up instead.
#
# **Before you run the next cell:** which five numbers does ceil mode add? (x is typed in there.)

# %%
from minifcn import Tensor

five = np.array([[1, 2, 5, 0, 9], [3, 4, 1, 2, 3], [7, 1, 0, 2, 4], [5, 5, 3, 1, 6], [8, 2, 4, 7, 1]], dtype=float)
down, up = (ops.max_pool2d(Tensor(five[None, None]), 2, ceil_mode=mode).data[0, 0] for mode in (False, True))
visualize.matrices(
    {"x": five, "rounded down": down, "ceil mode": up},
    alt=described(8, "ceil mode"),
    outline={
        "x": [(row, column) for row in range(5) for column in range(5) if 4 in (row, column)],
        "ceil mode": [(row, column) for row in range(3) for column in range(3) if 2 in (row, column)],
    },
)

# %% [markdown]
# The number of windows along an axis is now
#
# $$\text{output} = \left\lceil \frac{n + 2\cdot\text{padding} - \text{kernel}}{\text{stride}} \right\rceil + 1$$
#
# A last window hangs over the edge, and takes the largest of what it sees. One thing must be avoided: a window that
# sees nothing. A window must not begin behind the picture; one that would begin in the padding there, or further out,
# is left out. The last window begins at (output − 1) · stride, counted from the beginning of the padding; so if that is
# n + padding or more, the output is one less.
#
# The networks of lesson 11 pool in ceil mode, as they did in Caffe, where they come from.
#
# **Before you open the answers**, work out the sizes by hand, rounding down and in ceil mode: (a) 5 pixels, kernel 2,
# stride 2; (b) 4 pixels, kernel 2, stride 2; (c) 3 pixels, kernel 2, stride 2, padding 1; (d) 698 pixels, pooled five
# times with kernel 2 and stride 2.
#
# <details><summary>Answers</summary>
#
# (a) 2, and 3 in ceil mode. (b) 2 and 2: where everything fits, there is nothing to round. (c) Rounding down, ⌊3/2⌋ + 1
# = 2. In ceil mode ⌈3/2⌉ + 1 = 3, but the third window would begin at 4 = 3 + 1, in the padding behind the picture: it
# is left out, and 2 remain. (d) 349, 174, 87, 43, 21 rounding down; 349, 175, 88, 44, 22 in ceil mode.
# </details>
#
# And what is in the padding? For a convolution it was zeros.
#
# **Predict:** a map with nothing but negative numbers gets a frame of zeros, and is pooled. What comes out at the edge?

# %%
negative = -np.arange(1.0, 10.0).reshape(3, 3)
zeros = np.pad(negative, 1)
minus_infinity = np.pad(negative, 1, constant_values=-np.inf)
visualize.matrices(
    {
        "frame of zeros": zeros,
        "pooled": pool_loops(zeros, 3, 2),
        "frame of −∞": minus_infinity,
        "pooled ": pool_loops(minus_infinity, 3, 2),
    },
    alt=described(8, "a frame of zeros"),
)

# %% [markdown]
# Zeros win over negative numbers, and the picture is lost. The largest number of nothing is −∞, which never wins: that
# is what the frame must be made of, and also the part of a window that hangs over in ceil mode.
#
# ## Exercise 1: max_pool2d
#
# `max_pool2d(x, kernel_size, *, stride, padding=0, ceil_mode=False)` takes x (N, C, H, W), and a pair kernel_size =
# (kh, kw), and returns (N, C, Ho, Wo).
#
# 1. Work out Ho and Wo, in ceil mode or not, without a window that sees nothing. (⌈a / b⌉ is `-(-a // b)`.)
# 2. Make an array full of −∞, large enough for the padding on both sides *and* for the last window: along an axis,
#    max(n + 2·padding, (output − 1)·stride + kernel).
# 3. Put x into it, beginning at (padding, padding).
# 4. Windows of all places: with your im2col (without its padding, which is zeros), or in a loop over the window's
#    places, as in im2col. Take the largest of each window.
#
# **Predict:** im2col gives (N, C·kh·kw, Ho·Wo). To what must it be reshaped, and over which axis is the maximum taken,
# so that channels stay apart?


# %% tags=["exercise"]
def max_pool2d(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    """The maximum of each window: (N, C, H, W) -> (N, C, Ho, Wo)."""
    raise NotImplementedError


# %%
max_pool2d = check(max_pool2d)

# %%
show_solution("max_pool2d")

# %% [markdown]
# ## The way back: the gradient is routed
#
# What is the slope of y = max(a, b, c, d)? If the largest of the four grows by a little, y grows as much: slope 1. If
# another one grows by a little, nothing happens: slope 0. So the gradient that arrives at y goes on to the winner,
# whole, and the others get nothing. It is *routed*, like a letter.
#
# **Before you run the next cell:** the gradients 10, 20, 30 and 40 arrive at the four windows of x above. Where do they
# go?

# %%
g = np.array([[10.0, 20.0], [30.0, 40.0]])
columns = im2col(x[None, None], (2, 2), stride=2)[0]  # one column for each window
routed_columns = np.zeros((4, 4))
routed_columns[columns.argmax(axis=0), np.arange(4)] = g.ravel()
routed = col2im(routed_columns[None], (4, 4), (2, 2), stride=2)[0, 0]
visualize.matrices(
    {"x": x, "its windows as columns": columns, "dL/dy at the winners": routed_columns, "dL/dx": routed},
    alt=described(8, "windows as columns"),
    outline={
        "x": winners,
        "its windows as columns": list(zip(columns.argmax(axis=0), range(4), strict=True)),
        "dL/dx": winners,
    },
    shared_scale=False,
)

# %% [markdown]
# With im2col each window is a column, so the winner is the argmax down the column; and col2im brings the gradients back
# from the columns to the picture.
#
# For a fixed x, pooling copies four of sixteen numbers: like im2col, it is a matrix of zeros and ones, S, and the way
# back is Sᵀ. Unlike G of lesson 7, S depends on x: another picture, other winners.

# %%
S = np.zeros((4, 16))
S[np.arange(4), [4 * row + column for row, column in winners]] = 1
visualize.matrices(
    {"S": S},
    alt=described(8, "selection matrix"),
)

# %%
print("S x is the pooled map:", np.array_equal((S @ x.ravel()).reshape(2, 2), pool_loops(x, 2, 2)))
print("Sᵀ g is what was routed:", np.array_equal((S.T @ g.ravel()).reshape(4, 4), routed))

# %% [markdown]
# Two cases need care.
#
# *Overlaps.* With windows of 3 × 3 and stride 2, one number can win several windows. Then it gets the gradients of
# all of them, and they add, as always when something was used more than once.
#
# *Ties.* Two numbers of a window are equally large. If one of them grows, y grows; if one of them shrinks, nothing
# happens. There is no slope here, and one must choose. The choice, of Caffe, of PyTorch and here: the *first* in
# reading order gets all. `argmax` does just that.
#
# **Predict:** a window holds four equal numbers, and the gradient 10 arrives. Many write-ups mark the winners with
# `window == window.max()`. How much comes back in all?

# %%
window = np.zeros((2, 2))
visualize.matrices(
    {
        "window": window,
        "== max": 10.0 * (window == window.max()),
        "first only": 10.0 * (np.arange(4) == window.argmax()).reshape(2, 2),
    },
    alt=described(8, "equal numbers"),
)

# %% [markdown]
# Forty, out of ten. Ties are no rare accident: networks set negative numbers to zero before they pool, so windows full
# of zeros are common.
#
# ## Exercise 2: max_pool2d_backward
#
# `max_pool2d_backward(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False)` takes grad = dL/dy (N, C, Ho, Wo),
# and x as it was pooled, and returns dL/dx.
#
# 1. Make the same framed array as before. Ho and Wo need not be worked out again: they are grad's.
# 2. For each window, find the place of the winner: `argmax` over the axis of kh·kw.
# 3. Columns of zeros, with the gradient at the winner's place. (`np.put_along_axis` writes at the places that argmax
#    has found, if it was called with keepdims=True.)
# 4. Back to a picture: that is col2im, which adds where windows overlap.
# 5. Cut the frame off.


# %% tags=["exercise"]
def max_pool2d_backward(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    """dL/dx of max_pool2d: each gradient goes to the place of its window's maximum, to the first of equal ones."""
    raise NotImplementedError


# %%
max_pool2d_backward = check(max_pool2d_backward)

# %%
show_solution("max_pool2d_backward")

# %% [markdown]
# The gradient check of lesson 4 agrees, where there are no ties, with windows that overlap and hang over:

# %%
options = {"stride": 2, "padding": 1, "ceil_mode": True}
passes = gradcheck(
    lambda x: max_pool2d(x, (3, 2), **options),
    lambda grad, x: (max_pool2d_backward(grad, x, (3, 2), **options),),
    [generator.normal(size=(2, 3, 6, 7))],
    generator,
)
print("max_pool2d and max_pool2d_backward belong together:", passes)

# %% [markdown]
# ## What a pixel sees
#
# Back to the question. The **receptive field** of a number in some layer is the set of the picture's pixels that can
# change it. It can be measured: change one pixel after the other, and see whether the number changes.
#
# Here is a small network: two convolutions with kernels of 3 × 3, a pooling of 2 × 2, and one more convolution. (The
# weights are random but positive, so that no change can cancel another.)
#
# **Before you run the next cell:** how many pixels across does one number of the last map see? And by how many pixels
# is what its right neighbour sees moved?


# %%
def run(layers, x, weights):
    """Layers ("conv" or "pool", kernel_size, stride) on maps x (N, 1, H, W) with one channel."""
    for (kind, (kernel_height, kernel_width), stride), weight in zip(layers, weights, strict=True):
        if kind == "conv":
            x = conv2d(x, weight[None, None, :kernel_height, :kernel_width], np.zeros(1), stride=stride)
        else:
            x = max_pool2d(x, (kernel_height, kernel_width), stride=stride)
    return x


layers = [("conv", (3, 3), 1), ("conv", (3, 3), 1), ("pool", (2, 2), 2), ("conv", (3, 3), 1)]
weights = generator.uniform(0.5, 1, size=(len(layers), 3, 3))
before = generator.normal(size=(18, 18))
changed = before + 100 * np.eye(18 * 18).reshape(-1, 18, 18)  # a picture for each pixel, with this one changed
result_before = run(layers, before[None, None], weights)
results = run(layers, changed[:, None], weights)  # (324, 1, 5, 5)
sees = (np.abs(results - result_before) > 1e-6)[:, 0].reshape(18, 18, 5, 5)
visualize.feature_maps(
    {"seen by [2, 2]": sees[:, :, 2, 2], "by its neighbour [2, 3]": sees[:, :, 2, 3], "by [0, 0]": sees[:, :, 0, 0]},
    columns=3,
    alt=described(8, "what three numbers see"),
)

# %% [markdown]
# Ten pixels across, and the neighbour sees the same two pixels further on. Two numbers describe a layer: the *size*
# of the receptive field, and the *step* from one number's to its neighbour's.
#
# They can be worked out layer by layer. A pixel sees itself: size 1, step 1. A kernel of k lies on k neighbouring
# numbers. Each of them sees `size` pixels, each step by step further on; the last one lies (k − 1) steps from the
# first. So
#
# $$\text{size} \leftarrow \text{size} + (k - 1)\cdot\text{step}, \qquad
# \text{step} \leftarrow \text{step}\cdot\text{stride}.$$
#
# In this order: the kernel lies on numbers that are as far apart as the layers *before* have made them. For pooling it
# is the same; whether a window is summed or its largest taken makes no difference to what can be seen. For the network
# above:
#
# | layer | kernel | stride | size | step |
# |---|---|---|---|---|
# | the pixel | | | 1 | 1 |
# | conv | 3 | 1 | 1 + 2·1 = 3 | 1 |
# | conv | 3 | 1 | 3 + 2·1 = 5 | 1 |
# | pool | 2 | 2 | 5 + 1·1 = 6 | 2 |
# | conv | 3 | 1 | 6 + 2·2 = 10 | 2 |
#
# Padding does not enter: it moves the receptive fields, and those at the edge then see a part of the frame.
#
# ## Exercise 3: receptive_field
#
# `receptive_field(layers)` takes a list of (kernel_size, stride), the first layer first, along one axis, with strides
# that are not larger than the kernels. It returns (size, step) of the last layer.
#
# **Predict:** (3, 1), (2, 2), (3, 1), (2, 2)?


# %% tags=["exercise"]
def receptive_field(layers):
    """(size, step) of a stack of (kernel_size, stride) along one axis, in pixels of the picture."""
    raise NotImplementedError


# %%
receptive_field = check(receptive_field)

# %%
show_solution("receptive_field")

# %%
print("(3, 1), (2, 2), (3, 1), (2, 2):", receptive_field([(3, 1), (2, 2), (3, 1), (2, 2)]))

# %% [markdown]
# Does it hold for any network? Here are random ones, of your convolutions and poolings. Pictures one pixel high are
# enough: every pixel is changed, one after the other, and those that change the first number are counted.

# %%
for _ in range(5):
    layers = []
    for kind in generator.choice(["conv", "pool"], size=generator.integers(2, 6)):
        stride = int(generator.integers(1, 3))
        layers.append((str(kind), (1, int(generator.integers(stride, 5))), stride))
    size, step = receptive_field([(kernel_size[1], stride) for _, kernel_size, stride in layers])
    weights = generator.uniform(0.5, 1, size=(len(layers), 1, 4))
    width = size + step + 3
    before = generator.normal(size=width)
    changed = before + 100 * np.eye(width)
    difference = run(layers, changed[:, None, None], weights) - run(layers, before[None, None, None], weights)
    seen = np.flatnonzero(np.abs(difference[:, 0, 0, 0]) > 1e-6).size
    moved = np.flatnonzero(np.abs(difference[:, 0, 0, 1]) > 1e-6)[0]
    stack = " ".join(f"{kind} {kernel_size[1]}/{stride}" for kind, kernel_size, stride in layers)
    print(f"{stack}: worked out ({size}, {step}), measured ({seen}, {moved})")

# %% [markdown]
# ## How far VGG16 sees
#
# VGG16 has 13 convolutions with kernels of 3 × 3 in five groups, and a pooling of 2 × 2 with stride 2 after each group.
# Then comes a layer that looks at 7 × 7 numbers at once; it is called fc6, and lesson 10 says why.
#
# **Predict:** how many pixels across does fc6 see? And how many layers of 3 × 3 without any pooling would see as many?

# %%
vgg16 = []
for group, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
    vgg16 += [(f"conv{group}_{number}", 3, 1) for number in range(1, convolutions + 1)]
    vgg16.append((f"pool{group}", 2, 2))
vgg16.append(("fc6", 7, 1))

fields = {}
for number, (name, _, _) in enumerate(vgg16, start=1):
    fields[name] = receptive_field([(kernel_size, stride) for _, kernel_size, stride in vgg16[:number]])
    print(f"{name:8} sees {fields[name][0]:3} pixels, neighbours are {fields[name][1]:2} apart")

plain = 1
while receptive_field([(3, 1)] * plain)[0] < fields["fc6"][0]:
    plain += 1
print(f"Without pooling it would take {plain} convolutions.")

# %%
large = Shapes("val", size=500)[6].image
row, column = 290, 210  # in the middle of what the number sees
shown = {}
for name in ("pool2", "pool3", "pool4", "pool5", "fc6"):
    size = fields[name][0]
    shown[f"{name}: {size} pixels"] = [(row - size / 2, column - size / 2, size, size)]
visualize.gallery(
    dict.fromkeys(shown, large),
    columns=3,
    windows=shown,
    alt=described(8, "what the layers see"),
)

# %% [markdown]
# 404 of 500 pixels: fc6 sees most of the picture. pool3 sees little, 44 pixels, but its numbers lie only 8 pixels
# apart; those of fc6 lie 32 apart. *What* is known above, *where* is known below. Lesson 11 brings the two together.
#
# > Write-ups often say that one number of pool5 "stands for 32 × 32 pixels". That is its step. Its neighbours lie 32
# > pixels apart, but it sees 212.
#
# There is a second way to the same number. If one number sees 404 pixels, then a picture of 404 pixels, without any
# padding, must leave exactly one; and one step more must leave two.

# %%
for n in (fields["fc6"][0], fields["fc6"][0] + fields["fc6"][1]):
    chain = [n]
    for _, kernel_size, stride in vgg16:
        chain.append((chain[-1] - kernel_size) // stride + 1)
    print(" → ".join(str(size) for size in chain))

# %% [markdown]
# ## Can, and does
#
# The receptive field says which pixels *can* change a number, not how much. The gradient says how much. Send the
# gradient 1 back from one number to the picture, with your conv2d_backward of lesson 7 and your max_pool2d_backward.
#
# **Before you run the next cell:** will all pixels of the field get a gradient? What will the mean of 100 networks with
# random weights look like: even, or not?

# %%
from course import engine

small = [("conv", 3, 1), ("conv", 3, 1), ("pool", 2, 2)] * 2 + [("conv", 3, 1)]
size, _ = receptive_field([(kernel_size, stride) for _, kernel_size, stride in small])


def gradient_of_one_number():
    """|dL/dx| for L = the only number that is left of a random picture x, by a network with random weights."""
    x = y = engine.Tensor(generator.normal(size=(1, 1, size, size)))
    channels = 1
    for kind, kernel_size, stride in small:
        if kind == "pool":
            y = engine.max_pool2d(y, (kernel_size, kernel_size), stride=stride)
        else:
            weight = engine.Tensor(generator.normal(size=(4, channels, kernel_size, kernel_size)))
            y = engine.conv2d(y, weight, engine.Tensor(np.zeros(4)), stride=stride)
            channels = 4
    y.sum().backward()
    return np.abs(x.grad[0, 0])


gradients = np.array([gradient_of_one_number() for _ in range(100)])
print(f"Without any gradient in the first network: {(gradients[0] == 0).sum()} of {size**2} pixels.")
visualize.feature_maps(
    {"one network": gradients[0], "another": gradients[1], "mean of 100": gradients.mean(axis=0)},
    columns=3,
    alt=f"The absolute gradients of one number towards the {size}×{size} pixels that it sees. For single networks they "
    "are speckled, with dark pixels between bright ones; the mean of 100 networks is brightest in the middle and "
    "fades to black towards the edge.",
)

# %% [markdown]
# For a single picture the gradient is speckled: it was routed, so a pixel counts as much as the winners that it feeds,
# and one that feeds none gets nothing. On average the middle counts most, since more ways lead from it to the number;
# towards the edge of the field the influence fades.
#
# ## The same in the library
#
# Open the library's pooling. It takes the largest number down the rows of a window, then across its columns, which is
# the largest of all. It does not remember the winners, which would take memory, but looks for them on the way back: the
# first place of a window whose number equals the largest.

# %%
from minifcn.ops import pool

open_library(ops.max_pool2d)
open_library(pool.MaxPool2d)
open_library(pool._wins)

# %%
x = Tensor(generator.normal(size=(2, 3, 7, 9)), requires_grad=True)
y = ops.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
g = generator.normal(size=y.shape)
y.backward(g)
yours = max_pool2d(x.data, (3, 3), **options)
yours_backward = max_pool2d_backward(g, x.data, (3, 3), **options)
print(f"largest difference forward: {np.abs(yours - y.data).max():.1e}")
print(f"and backward: {np.abs(yours_backward - x.grad).max():.1e}")

# %% [markdown]
# ## What stays
#
# - Max pooling keeps the largest number of each window: that a feature is there, not exactly where.
# - In ceil mode the last window may hang over the edge; frames are made of −∞, never of zeros.
# - The gradient is routed to the winner, to the first of equal ones; where windows overlap it adds.
# - size + (k − 1)·step, then step · stride: fc6 of VGG16 sees 404 pixels, in steps of 32.
#
# *Sources.* The receptive field of 404 and the step of 32: J. Long, E. Shelhamer and T. Darrell, "Fully convolutional
# networks for semantic segmentation" (2015), table 1. The network: K. Simonyan and A. Zisserman, "Very deep
# convolutional networks for large-scale image recognition" (2015), table 1. How much of its field a number uses: W.
# Luo, Y. Li, R. Urtasun and R. Zemel, "Understanding the effective receptive field in deep convolutional neural
# networks" (2016).
