# %% [markdown]
# # 6. Convolution: from loops to im2col
#
# About 75 minutes. You need lesson 3 (tensors); the gradients come in lesson 7.
#
# **The question.** A picture of 96 × 96 pixels has 27,648 numbers. A matrix that maps all of them to as many others
# would have 764 million entries, and would have to learn anew, at each place, what an edge is. How can a layer look
# for the same small thing everywhere, with a handful of numbers?

# %%
from course import begin, check, open_library, show_solution

begin(6)

# %%
import time

import numpy as np

from course.describing import described
from minifcn import ops, visualize
from minifcn.data import Shapes

generator = np.random.default_rng(6)
picture = Shapes("val", size=64)[3].image  # uint8 (H, W, 3)
grey = picture.mean(axis=2) / 255  # (H, W), from 0 to 1

# %% [markdown]
# ## A small window that slides
#
# Take nine numbers, the **kernel**, and lay them on nine pixels of the picture. Multiply each pixel by the number that
# lies on it, and add the nine products: one number comes out. Move the kernel by one pixel, and do it again. This is a
# **convolution**.
#
# Here are two kernels.

# %%
left_to_right = np.array([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])
top_to_bottom = left_to_right.T
visualize.matrices(
    {"left_to_right": left_to_right, "top_to_bottom": top_to_bottom},
    alt=described(6, "two kernels"),
)

# %% [markdown]
# **Before you run the next cell:** where in the picture will the result of `left_to_right` be far from zero, and what
# comes out where the picture is of one brightness? Which of the two kernels sees a horizontal line?


# %%
def slide(image, kernel):
    """The plainest form: one number for each place of the kernel."""
    kernel_height, kernel_width = kernel.shape
    rows, columns = image.shape[0] - kernel_height + 1, image.shape[1] - kernel_width + 1
    result = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            patch = image[row : row + kernel_height, column : column + kernel_width]
            result[row, column] = (patch * kernel).sum()
    return result


visualize.feature_maps(
    {
        "picture": grey,
        "left_to_right": slide(grey, left_to_right),
        "top_to_bottom": slide(grey, top_to_bottom),
    },
    alt=described(6, "what they see"),
)

# %% [markdown]
# Where the brightness does not change, the −1 and the 1 cancel and the result is 0, the middle grey. At an upright edge
# the first kernel answers: white where it becomes brighter from left to right, black where it becomes darker. What a
# kernel leaves behind is called a **feature map**: a map of where its feature is.
#
# Nobody will choose these nine numbers. They are weights, and learning finds them. The same nine are used everywhere,
# which answers the question: a layer looks for the same thing everywhere, with nine numbers.
#
# > Mathematicians call this operation a correlation: their convolution turns the kernel by 180° first. Since the
# > weights are learned, it makes no difference which of the two a network computes. All frameworks compute the one
# > without turning, and call it convolution, and so do we. (Write-ups that turn the kernel "because it is a
# > convolution" give results that no framework gives.)

# %% [markdown]
# ## Three more words: channel, stride, padding
#
# A colour picture has three numbers at each pixel, in three **channels**. A kernel then has three layers of nine
# numbers, one for each channel, and the sum runs over all 27 products. A layer has many kernels, and each makes one
# channel of the output. So the weight of a layer has the shape (out_channels, in_channels, kernel_height,
# kernel_width), and each output channel has a bias that is added. Several pictures that go through the network
# together are a **batch**, an array of shape (N, channels, height, width).
#
# The **stride** is how many pixels the kernel moves on from one place to the next: 2 halves the picture. **Padding** is
# a frame of zeros put around the picture before, so that the kernel also finds places at the edge.
#
# How many places are there along an axis of n pixels? The padded axis has n + 2·padding. The kernel's first pixel can
# stand at 0, stride, 2·stride, … as long as its last one is still inside:
#
# $$\text{output} = \left\lfloor \frac{n + 2\cdot\text{padding} - \text{kernel}}{\text{stride}} \right\rfloor + 1$$
#
# **Before you run the next cell**, work out the three sizes by hand.


# %%
def output_size(n, kernel, stride, padding):
    return (n + 2 * padding - kernel) // stride + 1


for n, kernel, stride, padding in ((64, 3, 1, 0), (64, 3, 1, 1), (7, 3, 2, 0)):
    size = output_size(n, kernel, stride, padding)
    print(f"{n} pixels, kernel {kernel}, stride {stride}, padding {padding}: {size}")

# %% [markdown]
# The second is the reason why VGG's layers have padding 1: with a kernel of 3 the size stays.
#
# In the library, sizes are pairs (height, width), in that order, since nothing says that a kernel must be square. (It
# also takes one number, for both.)
#
# Here is the whole operation as loops. It is short, it is right, and it is the measure for everything after.


# %%
def conv2d_loops(x, weight, bias, *, stride=1, padding=0):
    """x (N, C, H, W), weight (out, C, kh, kw), bias (out,) -> (N, out, Ho, Wo)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, _, height, width = x.shape
    out_channels, _, kernel_height, kernel_width = weight.shape
    rows = (height - kernel_height) // stride + 1
    columns = (width - kernel_width) // stride + 1
    y = np.zeros((batch, out_channels, rows, columns))
    for n in range(batch):
        for channel in range(out_channels):
            for row in range(rows):
                for column in range(columns):
                    top, left = row * stride, column * stride
                    patch = x[n, :, top : top + kernel_height, left : left + kernel_width]
                    y[n, channel, row, column] = (patch * weight[channel]).sum() + bias[channel]
    return y


batch = (picture / 255).transpose(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
weight, bias = generator.normal(size=(8, 3, 3, 3)), np.zeros(8)
started = time.perf_counter()
slow = conv2d_loops(batch, weight, bias, padding=1)
seconds_loops = time.perf_counter() - started
print(f"8 kernels on one picture of 64 × 64 pixels: {seconds_loops:.2f} s")

# %% [markdown]
# The products themselves are few: 64 · 64 · 8 · 27 is under a million, which the machine does in a millisecond. The
# time goes into 32,768 rounds of Python. What is needed is one large product.

# %% [markdown]
# ## Every patch becomes a column
#
# At each place the layer computes a sum of products of the patch with a kernel. A sum of products is what a matrix
# product is made of: row times column. So write each kernel as a row, and each patch as a column, and put the columns
# side by side. Then *one* matrix product computes all sums: every kernel with every patch.
#
# Taking the patches out and laying them side by side is called **im2col**, "image to columns". Take a picture of 3 × 3
# pixels and a kernel of 2 × 2. There are four places.

# %%
small = np.arange(1.0, 10.0).reshape(3, 3)
places = [(0, 0), (0, 1), (1, 0), (1, 1)]
small_columns = np.stack([small[row : row + 2, column : column + 2].ravel() for row, column in places], axis=1)
visualize.matrices(
    {"the picture": small, "its four patches as columns": small_columns},
    alt=described(6, "patches as columns"),
    outline={
        "the picture": [(0, 1), (0, 2), (1, 1), (1, 2)],
        "its four patches as columns": [(row, 1) for row in range(4)],
    },
)

# %% [markdown]
# The 5 in the middle lies in all four patches, so it stands in all four columns.
#
# **Before you go on:** of a batch of 2 pictures with 3 channels and 5 × 6 pixels, kernel (2, 3), stride 1, no padding:
# how long is a column, and how many columns are there for one picture?
#
# <details><summary>Answer</summary>
#
# A column holds one patch with all its channels: 3 · 2 · 3 = 18 numbers. There are 4 · 4 = 16 places. So the result has
# the shape (2, 18, 16): for each picture a matrix of its own.
# </details>

# %% [markdown]
# ## Exercise 1: im2col
#
# `im2col(x, kernel_size, *, stride=1, padding=0)` takes x (N, C, H, W) and a pair kernel_size = (kh, kw), and returns
# (N, C·kh·kw, Ho·Wo). Down a column, the order is channel, kernel row, kernel column; from column to column, the
# places go along the rows, as one reads.
#
# One loop over the places would be as slow as before. Loop over the kernel's pixels instead: there are only kh·kw. The
# pixel (row, column) of *all* patches at once is a slice of the picture with a step:
#
# 1. Pad the two last axes with zeros.
# 2. Work out Ho and Wo.
# 3. Make an empty array of shape (N, C, kh, kw, Ho, Wo).
# 4. For each (row, column) of the kernel, fill `patches[:, :, row, column]` with the slice that begins at
#    (row, column), goes on by stride, and has Ho × Wo entries.
# 5. Reshape to (N, C·kh·kw, Ho·Wo).


# %% tags=["exercise"]
def im2col(x, kernel_size, *, stride=1, padding=0):
    """All patches of x as columns: (N, C, H, W) -> (N, C·kh·kw, Ho·Wo); rows ordered (C, kh, kw)."""
    raise NotImplementedError


# %%
im2col = check(im2col)

# %%
show_solution("im2col")

# %% [markdown]
# ## Exercise 2: conv2d
#
# Now the layer is one product. With W the weight as a matrix, one row for each kernel:
#
# $$y = W \cdot \mathrm{im2col}(x) + b$$
#
# in shapes: (out, C·kh·kw) times (C·kh·kw, Ho·Wo) gives (out, Ho·Wo).
#
# **Predict first:** what shape does W · columns have for a batch of N pictures, and what must be done with it at the
# end?
#
# 1. The columns, from your `im2col`.
# 2. W: reshape the weight so that each kernel becomes a row.
# 3. One product, `@`. The columns have one axis more than W, the batch; `@` does the same for each picture.
# 4. Add the bias. It belongs to the rows of the product: which axis of length 1 does it need?
# 5. Work out Ho and Wo, and reshape to (N, out, Ho, Wo).


# %% tags=["exercise"]
def conv2d(x, weight, bias, *, stride=1, padding=0):
    """x (N, C, H, W), weight (out, C, kh, kw), bias (out,) -> (N, out, Ho, Wo)."""
    raise NotImplementedError


# %%
conv2d = check(conv2d)

# %%
show_solution("conv2d")

# %%
started = time.perf_counter()
fast = conv2d(batch, weight, bias, padding=1)
seconds_product = time.perf_counter() - started
print(f"loops {1000 * seconds_loops:.0f} ms, one product {1000 * seconds_product:.1f} ms")
print(f"largest difference of the results: {np.abs(fast - slow).max():.1e}")

# %% [markdown]
# ## What eight kernels see
#
# These weights are random numbers, as they are before learning.

# %%
visualize.feature_maps(
    {f"channel {number}": one for number, one in enumerate(fast[0])},
    columns=4,
    alt=described(6, "eight kernels"),
)

# %% [markdown]
# Even random kernels tell edges and colours apart. Learning will sharpen them. (The frame that some maps have is the
# padding: at the edge a part of the patch is zeros.)
#
# ## What it costs
#
# Nothing is free: columns repeat each pixel once for every patch it lies in, nine times for a kernel of 3 × 3.
#
# **Predict:** VGG's second layer has 64 channels; how many megabytes do the columns of one picture of 500 × 500 pixels
# take, at 4 bytes for a number?

# %%
pixels, channels, patch_size = 500 * 500, 64, 3 * 3
print(f"the picture's channels: {pixels * channels * 4 / 1e6:.0f} MB")
print(f"their columns: {pixels * channels * patch_size * 4 / 1e6:.0f} MB")

# %% [markdown]
# That is why the library never makes all columns at once. It makes those of a few rows of the picture, multiplies, and
# uses the same memory for the next few rows: the same product, in blocks that fit into the processor's cache.
#
# ## The same in the library
#
# Open the library's files for what you have just built. The first has your im2col and what belongs to it, the second
# the convolution in blocks, the third what you call, with two arguments more: dilation, which leaves gaps between the
# kernel's pixels, and groups, which let a kernel see only some of the channels. For kernels of 3×3 the library also
# knows a way with fewer multiplications; `docs/convolution.md` tells it, for later.

# %%
from minifcn.ops import im2col_route

open_library(ops.im2col)
open_library(im2col_route.convolve)
open_library(ops.conv2d)

# %%
from minifcn import Tensor

y = ops.conv2d(Tensor(batch), Tensor(weight), Tensor(bias), padding=1)
print(f"largest difference from yours: {np.abs(y.numpy() - fast).max():.1e}")

# %% [markdown]
# ## What stays
#
# - A convolution looks for the same small thing everywhere, with one kernel of weights for each feature map.
# - output = ⌊(n + 2·padding − kernel) / stride⌋ + 1.
# - With every patch as a column, convolution is *one matrix product*.
# - Columns are kh·kw times as large as the picture.
#
# In the next lesson im2col itself becomes a matrix, of zeros and ones; its transpose is what the gradient needs.
#
# *Sources.* Patches as columns and one product: K. Chellapilla, S. Puri and P. Simard, "High performance
# convolutional neural networks for document processing" (2006). Convolution over whole pictures of any
# size, as in this course: J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic
# segmentation" (2015), section 3.
