# %% [markdown]
# # 9. Transposed convolution
#
# About 75 minutes. You need lesson 7 (col2im, and the sparse matrix of a convolution).
#
# **The question.** Pooling makes maps small: after three poolings, one number is left for each 8 × 8 pixels of the
# picture. A mask needs an answer for every pixel. How does a layer make a map *larger*, with weights that can be
# learned?

# %%
from course import begin, check, open_library, show_solution

begin(9)

# %%
import numpy as np

from course.describing import described
from course.mine import col2im, conv2d, gradcheck, im2col
from course.sliders import sliders
from minifcn import nn, ops, visualize
from minifcn.data import Shapes

generator = np.random.default_rng(9)
scene = Shapes("val", size=96)[5]
mask = (scene.labels != 0).astype(float)  # 1 on the objects and their borders, 0 on the background
coarse = mask.reshape(12, 8, 12, 8).mean(axis=(1, 3))  # (96, 96) -> (12, 12): the mean of each 8 × 8 pixels

visualize.feature_maps(
    {"the picture": scene.image.mean(axis=2), "what we have": coarse, "what we want": mask},
    alt=described(9, "coarse map and mask"),
)

# %% [markdown]
# The map in the middle has 12 × 12 numbers: which part of each 8 × 8 pixels belongs to an object. Here it is computed
# from the mask, to have something to work with; in a network it is what comes out after the poolings. To make a map
# larger is called **upsampling**.
#
# **Before you go on:** one way is to repeat each number 8 × 8 times. What would the objects' edges look like then?
# And what would you rather have between two numbers?
#
# ## Every number puts down a stamp
#
# A convolution *reads* a patch of the picture for each number of its output; with stride 2, the next patch begins 2
# pixels further. Turn that around. For each number of the input, *write* a patch into the output; the next patch
# begins 2 pixels further. What is written is the kernel times the number, like a stamp with more or with less ink.
# Where stamps overlap, they are added. This is a **transposed convolution**; why it has this name, we shall see.


# %%
def stamp(y, kernel, stride):
    """The plainest form: one stamp after the other, (H, W) -> ((H−1)·stride + kh, (W−1)·stride + kw)."""
    height, width = y.shape
    kernel_height, kernel_width = kernel.shape
    x = np.zeros(((height - 1) * stride + kernel_height, (width - 1) * stride + kernel_width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            x[top : top + kernel_height, left : left + kernel_width] += y[row, column] * kernel
    return x


# %% [markdown]
# **Before you run the next cell:** four numbers, a kernel of 3 × 3 ones, stride 2. How large is the result? What is the
# number in its middle, and what is written in its corners?

# %%
four = np.array([[1.0, 2.0], [3.0, 4.0]])
visualize.matrices(
    {"four numbers": four, "their stamps, added": stamp(four, np.ones((3, 3)), stride=2)},
    outline={
        "four numbers": [(0, 1)],
        "their stamps, added": [(row, column) for row in range(3) for column in range(2, 5)],
    },
    alt=described(9, "stamps"),
)

# %% [markdown]
# In the corners, one stamp lies alone. The row and the column in the middle are covered twice, and the 10 in the
# middle is 1 + 2 + 3 + 4: all four stamps meet there.
#
# ## Why stride 8 enlarges eight times
#
# The first stamp begins at pixel 0. Each further one begins stride pixels later, so the last of n begins at
# (n − 1)·stride, and it is as wide as the kernel. In a convolution, padding is a frame that is put around the picture
# before it begins. Here everything runs backwards: padding is a frame that is *cut off* in the end, on both sides.
#
# $$\text{output} = (n - 1)\cdot\text{stride} + \text{kernel} - 2\cdot\text{padding}$$
#
# For stride 8, kernel 16 and padding 4 that is (n − 1)·8 + 16 − 8 = 8·n: eight times as large, exactly. In general, one
# more number in the input gives *stride* more numbers in the output; kernel and padding only add a constant.
#
# > That is the whole reason why stride s enlarges s times. Many write-ups give none, or another.
#
# ## Exercise 1: six sizes
#
# Work out the output sizes of these six layers, with paper and pencil. Each has one axis of n numbers.
#
# | layer | n | kernel_size | stride | padding |
# |---|---|---|---|---|
# | 1 | 4 | 3 | 1 | 0 |
# | 2 | 4 | 4 | 2 | 1 |
# | 3 | 1 | 16 | 8 | 0 |
# | 4 | 5 | 4 | 2 | 0 |
# | 5 | 7 | 3 | 2 | 1 |
# | 6 | 10 | 16 | 8 | 4 |


# %% tags=["exercise"]
def transposed_sizes():
    """The six output sizes, as a list."""
    raise NotImplementedError


# %%
transposed_sizes = check(transposed_sizes)

# %%
show_solution("transposed_sizes")

# %% [markdown]
# ## The same as a matrix
#
# A transposed convolution multiplies and adds, and nothing else: so it is a matrix. Here it is for one axis with 4
# numbers, and a kernel (1, 2, 3, …). Each column is the stamp of one number of the input; each row is one pixel of the
# output. Beside it: how many stamps lie on each pixel, when there are two axes.
#
# Drag the sliders if your notebook is running; otherwise look at the examples. **Predict first:** what happens to the
# columns of the matrix when the stride grows? When are there rows without any number? What does padding do?


# %%
def one_axis(kernel_size, stride, padding, n=4):
    """The matrix of a transposed convolution along one axis, (output, n), with the kernel 1, 2, 3, …"""
    matrix = np.zeros(((n - 1) * stride + kernel_size, n))
    for column in range(n):
        matrix[column * stride : column * stride + kernel_size, column] = np.arange(1, kernel_size + 1)
    return matrix[padding : len(matrix) - padding]


def draw(kernel_size, stride, padding):
    size = (4 - 1) * stride + kernel_size - 2 * padding
    if size < 1:
        return f"(4 − 1)·{stride} + {kernel_size} − 2·{padding} = {size}: the padding cuts everything off."
    matrix = one_axis(kernel_size, stride, padding)
    stamps = (matrix != 0).sum(axis=1)
    return visualize.matrices(
        {
            f"(4 − 1)·{stride} + {kernel_size} − 2·{padding} = {size} rows": matrix,
            f"stamps on each of {size} × {size} pixels": np.outer(stamps, stamps),
        },
        alt=f"Kernel {kernel_size}, stride {stride}, padding {padding}: a matrix of {size} rows and 4 columns, each "
        f"column the kernel, lower than the one before by {stride}; and {size} by {size} counts. Along one axis, the "
        f"counts are {', '.join(map(str, stamps))}.",
    )


sliders(
    draw,
    kernel_size=(1, 6),
    stride=(1, 4),
    padding=(0, 2),
    examples=[
        {"kernel_size": 3, "stride": 1, "padding": 0},
        {"kernel_size": 3, "stride": 2, "padding": 0},
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 3, "padding": 0},
    ],
)

# %% [markdown]
# The stride moves each column down against the one before. Where the stride is larger than the kernel, there are
# gaps, and zeros in the output. Padding takes rows away at the top and at the bottom. And look at the counts for
# kernel 3 with stride 2: 1, 2, 4, in turns. We shall come back to them.
#
# ## Why it is called transposed
#
# In lesson 7 you saw the matrix C of a convolution: 4 × 16 for a kernel of 3 × 3 on a picture of 4 × 4 pixels. Each
# *row* of C holds the kernel, at the place where one output number reads. Flip C over its diagonal, and each *column*
# holds the kernel, at the place where one input number writes. This is our stamp.

# %%
kernel = np.arange(1.0, 10.0).reshape(3, 3)
C = ops.conv_matrix(kernel[None, None], (4, 4)).toarray()
visualize.matrices(
    {"Cᵀ": C.T, "C": C, "column 1 of Cᵀ as a picture": C.T[:, 1].reshape(4, 4)},
    outline={"Cᵀ": [(row, 1) for row in range(16)]},
    alt=described(9, "column of the transpose"),
)

# %%
by_matrix = (C.T @ four.ravel()).reshape(4, 4)
print(f"largest difference between Cᵀ y and the stamps: {np.abs(by_matrix - stamp(four, kernel, stride=1)).max():.1e}")

# %% [markdown]
# A transposed convolution multiplies by the *transpose of a convolution's matrix*. The convolution takes 16 numbers
# to 4, its transpose 4 to 16.
#
# ## Swap G and Gᵀ
#
# Nobody builds C for a picture of real size. A convolution is computed in two steps: im2col, which in lesson 7 became
# a matrix G of zeros and ones, and then a product with W, the weight as a matrix with one row for each kernel.
#
# $$\text{convolution:}\quad y = W\,(G\,x) \qquad\qquad \text{transposed:}\quad x = G^T\,(W^T y)$$
#
# A transpose reverses the order of a product. So first Wᵀ: at each place, the numbers of all channels become a stamp, a
# column of out·kh·kw numbers. Then Gᵀ, which is col2im, lays the columns down where they belong and adds them up.
#
# In our example there is one channel, and W has a single row of nine numbers:

# %%
W = kernel.reshape(1, 9)
x = generator.normal(size=(1, 1, 4, 4))
by_patches = W @ im2col(x, (3, 3))  # W (G x): (1, 9) @ (1, 9, 4) -> (1, 1, 4)
print(f"W (G x) and C x differ by {np.abs(by_patches.ravel() - C @ x.ravel()).max():.1e}")
columns = W.T @ four.reshape(1, 1, 4)  # Wᵀ y: (9, 1) @ (1, 1, 4) -> (1, 9, 4)
by_stamps = col2im(columns, (4, 4), (3, 3))  # Gᵀ (Wᵀ y): -> (1, 1, 4, 4)
print(f"Gᵀ (Wᵀ y) and Cᵀ y differ by {np.abs(by_stamps.ravel() - C.T @ four.ravel()).max():.1e}")

# %% [markdown]
# The weight is the array of the convolution whose transpose this is. That convolution went the other way, so what is
# out for it is in for us: the weight of a transposed convolution has the shape **(in, out, kh, kw)**, the other way
# round than in conv2d.
#
# ## Exercise 2: conv_transpose2d
#
# `conv_transpose2d(y, weight, *, stride=1, padding=0)` takes y (N, in, H, W) and weight (in, out, kh, kw), and returns
# (N, out, Ho, Wo). FCN uses no bias here, and so do we.
#
# 1. Work out Ho and Wo.
# 2. The weight as a matrix of in × out·kh·kw, and transposed: Wᵀ.
# 3. y as a matrix for each picture, in × H·W. The product with Wᵀ has a stamp in each column.
# 4. `col2im(stamps, (Ho, Wo), (kh, kw), stride=…, padding=…)` adds them up, and cuts the padding off.


# %% tags=["exercise"]
def conv_transpose2d(y, weight, *, stride=1, padding=0):
    """y (N, in, H, W), weight (in, out, kh, kw) -> (N, out, (H−1)·stride + kh − 2·padding, and likewise the width)."""
    raise NotImplementedError


# %%
conv_transpose2d = check(conv_transpose2d)

# %%
show_solution("conv_transpose2d")

# %% [markdown]
# Some write-ups describe the same layer in another way: put stride − 1 zeros between the numbers of the input and a
# wide frame of zeros around them, turn the kernel by 180°, swap its channels, and convolve with stride 1.
# **Predict:** does this give the same numbers? What share of its products are products with zero?

# %%
small = generator.normal(size=(1, 1, 20, 20))
spread = np.zeros((1, 1, 8 * 19 + 1, 8 * 19 + 1))
spread[:, :, ::8, ::8] = small  # 7 zeros between neighbours
wide_kernel = generator.normal(size=(1, 1, 16, 16))
turned = wide_kernel[:, :, ::-1, ::-1].swapaxes(0, 1).copy()
with_zeros = conv2d(spread, turned, np.zeros(1), padding=15)
with_stamps = conv_transpose2d(small, wide_kernel, stride=8)

print(f"largest difference: {np.abs(with_zeros - with_stamps).max():.1e}")
products, needed = with_zeros.size * 16 * 16, small.size * 16 * 16
print(f"products: {products:,} with zeros between, {needed:,} with stamps; {1 - needed / products:.1%} are with a zero")

# %% [markdown]
# The numbers are the same. But more than 63 of 64 products have a factor of zero: with stride 8, only every 64th
# place of the spread-out map holds a number, and none of the frame.
#
# ## The gradient
#
# A layer that is to be learned needs its gradients. Let `grad` be dL/dx, one number for each pixel of the output.
#
# **For y.** The layer is x = Cᵀ y, linear in y. Lesson 7: going back through a matrix multiplies by its transpose.
# The transpose of Cᵀ is C. So **dL/dy is the convolution of grad, with the same weight**, the same stride and
# padding: no kernel is turned, no axis moved. In lesson 7, going back through a convolution was a transposed
# convolution. The two are each other's way back.
#
# **For the weight.** Look at the two steps: stamps = Wᵀ y, then x = Gᵀ stamps. Back through the second:
# dL/dstamps = G grad, the patches of grad, by im2col. The first is a product of matrices, as in lesson 3:
#
# $$\frac{dL}{dW} = \sum_{\text{pictures}} y \cdot \mathrm{im2col}(\text{grad})^T \qquad
# (\text{in},\ H \cdot W) \cdot (H \cdot W,\ \text{out} \cdot kh \cdot kw)$$
#
# ## Exercise 3: conv_transpose2d_backward
#
# `conv_transpose2d_backward(grad, y, weight, *, stride=1, padding=0)` returns the pair (dL/dy, dL/dweight). conv2d
# wants a bias: give it zeros.


# %% tags=["exercise"]
def conv_transpose2d_backward(grad, y, weight, *, stride=1, padding=0):
    """(dL/dy, dL/dweight) of conv_transpose2d, from grad = dL/dx (N, out, Ho, Wo)."""
    raise NotImplementedError


# %%
conv_transpose2d_backward = check(conv_transpose2d_backward)

# %%
show_solution("conv_transpose2d_backward")

# %% [markdown]
# Two more witnesses: the gradient check of lesson 4, and the adjoint identity ⟨C x, y⟩ = ⟨x, Cᵀ y⟩ with the two
# functions conv2d and conv_transpose2d, which must hold for any x and y.

# %%
y, weight = generator.normal(size=(2, 3, 4, 5)), generator.normal(size=(3, 2, 4, 4))
agrees = gradcheck(
    lambda y, weight: conv_transpose2d(y, weight, stride=2, padding=1),
    lambda grad, y, weight: conv_transpose2d_backward(grad, y, weight, stride=2, padding=1),
    [y, weight],
    generator,
)
print(f"gradient check: {agrees}")

x = generator.normal(size=(2, 2, 8, 10))
left = (conv2d(x, weight, np.zeros(3), stride=2, padding=1) * y).sum()
right = (x * conv_transpose2d(y, weight, stride=2, padding=1)).sum()
print(f"⟨C x, y⟩ = {left:.10f}\n⟨x, Cᵀ y⟩ = {right:.10f}")

# %% [markdown]
# ## It is not the inverse
#
# The layer is often called *deconvolution*, which sounds as if it undid a convolution. It does not. **Predict:** we
# convolve a picture with a kernel that takes means, stride 2, and then apply the transposed convolution with the same
# kernel. The size is the old one again. Is the picture?

# %%
grey = scene.image.mean(axis=2)[None, None] / 255  # (1, 1, 96, 96)
mean_kernel = np.ones((1, 1, 4, 4)) / 16
down = conv2d(grey, mean_kernel, np.zeros(1), stride=2, padding=1)
back = conv_transpose2d(down, mean_kernel, stride=2, padding=1)
visualize.feature_maps(
    {"x": grey[0, 0], "C x": down[0, 0], "Cᵀ C x": back[0, 0]},
    shared_scale=True,
    alt=described(9, "convolved and back"),
)

# %%
print(f"mean brightness: {grey.mean():.3f} before, {back.mean():.3f} after")
best = (grey * back).sum() / (back * back).sum()  # the factor that brings it as near as possible
print(f"times {best:.2f}, it is still wrong by {np.abs(best * back - grey).mean():.3f} on average")

# %% [markdown]
# Cᵀ brings the *size* back, and says which pixels belong to which number. What was lost is lost: C took 9216 numbers
# to 2304, and no matrix can get them back from those. So we say transposed convolution; when you read "deconvolution"
# in the paper and elsewhere, this is what is meant.
#
# ## The kernel that interpolates
#
# Back to the question. Which kernel makes a good mask of the coarse map? The weights can be learned, but they have to
# begin somewhere. Here is a good beginning.
#
# Between two neighbours, take a mean of the two, weighted by how near each is: half-way, half of each; a quarter of
# the way from the first, three quarters of it and one quarter of the second. This is linear interpolation. In terms
# of stamps: each number puts down a *tent*, which is highest at its own place and falls to 0 where the next number
# has its place, one stride away. Between two places only these two tents are above 0, and their heights add up to 1.

# %%
tent = 1 - np.abs(np.arange(8) - 3.5) / 4  # kernel 8, stride 4
stamps = one_axis(8, 4, 0)  # (20, 4); its entries 1 to 8 say which number of the kernel lies there
stamps = np.where(stamps > 0, tent[stamps.astype(int) - 1], 0.0)
pixels = np.arange(len(stamps))
visualize.lines(
    {f"tent {number}": (pixels, stamps[:, number]) for number in range(4)}
    | {"all four together": (pixels, stamps.sum(axis=1))},
    x_label="pixel of the output",
    y_label="height",
    alt=described(9, "four tents"),
)

# %% [markdown]
# Inside, the sum is 1. At both ends it is not: a tent whose neighbour is missing stands alone there.
#
# The kernel of k numbers has its middle at (k − 1)/2, counted from its first number: on a number if k is odd, between
# two if k is even. The tent's height at a distance d from the middle is 1 − d/stride, and the stride that belongs to
# k is k/2, rounded up. For k = 4: stride 2, middle 1.5, distances 1.5, 0.5, 0.5, 1.5, heights ¼, ¾, ¾, ¼.
#
# With two axes, interpolate along the rows and then along the columns. The height of the stamp is the product of two
# tents, one for each axis. This is **bilinear interpolation**.
#
# ## Exercise 4: bilinear_kernel
#
# 1. The stride: k/2, rounded up.
# 2. The distances of the k places from the middle.
# 3. The tent.
# 4. The kernel (k, k): entry (row, column) is tent[row] · tent[column].


# %% tags=["exercise"]
def bilinear_kernel(kernel_size):
    """The kernel (kernel_size, kernel_size) that interpolates bilinearly with a stride of kernel_size/2, rounded up."""
    raise NotImplementedError


# %%
bilinear_kernel = check(bilinear_kernel)

# %%
show_solution("bilinear_kernel")

# %%
visualize.matrices(
    {f"bilinear_kernel({k})": bilinear_kernel(k) for k in (3, 4)},
    alt=described(9, "two kernels"),
)

# %% [markdown]
# ## A ramp stays a ramp, inside
#
# If the input rises evenly, 0, 1, 2, 3, …, then a good upsampling rises evenly, too. **Predict:** does it, everywhere?
#
# With kernel 8, stride 4 and padding 2, the stamp of number i reaches from pixel 4·i − 2 to 4·i + 5, so its middle
# lies at 4·i + 1.5. There we expect the value i, and in between the straight line.

# %%
ramp = np.tile(np.arange(6.0), (6, 1))  # (6, 6): each row 0, 1, …, 5
enlarged = conv_transpose2d(ramp[None, None], bilinear_kernel(8)[None, None], stride=4, padding=2)[0, 0]
row = enlarged[12]  # (24,): a row far from the upper and lower edge
pixels = np.arange(24)
straight = (pixels - 1.5) / 4
visualize.lines(
    {"a straight line": (pixels, straight), "the enlarged ramp": (pixels, row)},
    points={"the input": (4 * np.arange(6) + 1.5, np.arange(6))},
    x_label="pixel of the output",
    y_label="value",
    alt=described(9, "ramp"),
)

# %%
inside = slice(2, 22)
print(f"largest difference from the straight line: {np.abs(row - straight)[inside].max():.1e} inside,")
print(f"{np.abs(row - straight).max():.2f} at the edge")

# %% [markdown]
# Inside it does, exactly. At the edge the neighbour's tent is missing, and the values fade, as if zeros stood there.
# (The functions that resize pictures repeat the last number instead; with k = 2·stride they agree with our layer
# inside, but not at the edge.) For the classes that a segmenter chooses, fading does not matter by itself: the maps
# of all classes fade by the same factor, and the largest stays the largest.
#
# Now the map from the beginning, eight times larger.

# %%
weight = bilinear_kernel(16)[None, None]
bilinear = conv_transpose2d(coarse[None, None], weight, stride=8, padding=4)[0, 0]  # (12, 12) -> (96, 96)
visualize.feature_maps(
    {
        "each number repeated": np.kron(coarse, np.ones((8, 8))),
        "bilinear": bilinear,
        "larger than ½": bilinear > 0.5,
        "the mask": mask,
    },
    columns=4,
    alt=described(9, "three enlargements"),
)

# %% [markdown]
# A smooth map instead of blocks, and a rough mask. Fine parts are missing: they were averaged away before. Lesson 11
# brings them back from finer maps.
#
# In a segmenter there is one map for each class, and bilinear upsampling treats each by itself. The weight is then
# (classes, classes, k, k), with the bilinear kernel on its diagonal and zeros elsewhere. The paper fixes the last
# upsampling like this, and lets the others learn, from the same beginning.

# %%
three_classes = np.zeros((3, 3, 4, 4))
three_classes[np.arange(3), np.arange(3)] = bilinear_kernel(4)
print("equal to the library's:", np.array_equal(three_classes, nn.bilinear_weight(3, 4)))

# %% [markdown]
# ## Checkerboards
#
# Remember the counts of stamps. Here they are once more, for stride 2 with a kernel of 3 and with one of 4, made with
# your function: all inputs 1, all weights 1. **Predict** the second matrix when you have seen the first.


# %%
def enlarge_ones(kernel, stride, n=4):
    return conv_transpose2d(np.ones((1, 1, n, n)), kernel[None, None], stride=stride)[0, 0]


visualize.matrices(
    {
        "kernel 3, stride 2": enlarge_ones(np.ones((3, 3)), 2),
        "kernel 4, stride 2": enlarge_ones(np.ones((4, 4)), 2),
    },
    alt=described(9, "counts of two kernels"),
)

# %% [markdown]
# With kernel 3, some pixels get four stamps, some two, some one. From an even input comes an uneven output, a
# **checkerboard**. If the stride divides the kernel's size, all pixels inside get equally many.
#
# But it is not the count that matters in the end, it is the sum of the weights that arrive. Along one axis with
# stride 2, the even pixels are reached by the weights number 0, 2, 4, …, the odd ones by 1, 3, 5, …; with two axes
# there are four kinds of pixels, and each has its own share of the kernel. The output of an even input is even if the
# four shares have equal sums.
#
# **Predict:** which of these five kernels are even? Mind the third.


# %%
def shares(kernel, stride):
    """The sums of the weights that arrive at each kind of pixel, (stride, stride)."""
    return np.array([[kernel[row::stride, column::stride].sum() for column in range(stride)] for row in range(stride)])


kernels = {
    "ones, 3": np.ones((3, 3)),
    "ones, 4": np.ones((4, 4)),
    "bilinear, 3": bilinear_kernel(3),
    "bilinear, 4": bilinear_kernel(4),
    "random, 4": generator.normal(size=(4, 4)),
}
visualize.matrices(
    {name: shares(kernel, 2) for name, kernel in kernels.items()},
    alt=described(9, "sums of kernels"),
)

# %%
visualize.feature_maps(
    {
        name: conv_transpose2d(coarse[None, None], kernel[None, None], stride=2)[0, 0]
        for name, kernel in kernels.items()
        if name != "ones, 4"
    },
    columns=4,
    alt=described(9, "a grid in the picture"),
)

# %% [markdown]
# The bilinear kernel of 3 is even, though its stamps overlap unevenly: its weights make up for it. The random kernel
# of 4 is not, though its stamps overlap evenly. So a kernel whose size the stride divides makes evenness *easy*, as
# equal weights will do; it does not make it certain. FCN takes k = 2·stride, begins bilinear, and has no
# checkerboards at the start; what it learns may have some.
#
# ## The same in the library
#
# The first file holds the transposed convolution, as Gᵀ (Wᵀ y), with the sparse matrix itself where you have col2im. It
# has one more argument, output_padding. With stride 2, a convolution makes the same size of 7 and of 8 pixels; which of
# the two to go back to, the transposed convolution cannot know, so one may tell it.

# %%
open_library(ops.conv_transpose2d)
open_library(nn.bilinear_filter)

# %%
from minifcn import Tensor

y, weight = generator.normal(size=(2, 3, 5, 4)), generator.normal(size=(3, 2, 4, 4))
theirs = ops.conv_transpose2d(Tensor(y), Tensor(weight), stride=2, padding=1).numpy()
print(f"largest difference from yours: {np.abs(theirs - conv_transpose2d(y, weight, stride=2, padding=1)).max():.1e}")

# %% [markdown]
# ## What stays
#
# - A transposed convolution puts down a stamp for each number, stride pixels apart, and adds: x = Gᵀ (Wᵀ y).
# - output = (n − 1)·stride + kernel − 2·padding: one more number in, *stride* more numbers out.
# - Convolution and transposed convolution are each other's gradient. They are not each other's inverse.
# - The bilinear kernel is a product of tents. It keeps ramps inside, and fades at the edge.
# - Where the shares of the kernel have unequal sums, there are checkerboards.
#
# The next lesson gets the coarse maps from a classifier, the one after that joins both to a segmenter.
#
# *Sources.* The layer, as "backwards convolution": J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks
# for semantic segmentation" (2015), section 3.3; the bilinear beginning: section 4.3; the name deconvolution goes back
# to M. Zeiler and others, "Deconvolutional networks" (2010), where it means something else: features are inferred such
# that a convolution of them gives the picture. The matrices: V. Dumoulin and F. Visin, "A guide to convolution
# arithmetic for deep learning" (2016), chapter 4. Checkerboards: A. Odena, V. Dumoulin and C. Olah, "Deconvolution and
# checkerboard artifacts" (2016).
