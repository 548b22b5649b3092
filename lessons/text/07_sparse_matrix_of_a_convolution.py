# %% [markdown]
# # 7. The sparse matrix of a convolution
#
# About 90 minutes. You need lessons 4 (checking a gradient) and 6 (convolution).
#
# **The question.** A layer can learn only if the gradient gets through it: back to its weights, and back to the pixels,
# which another layer has computed. Lesson 3 found the way back through a matrix product: the product with the
# transpose. But a convolution is a kernel that slides over a picture. What is the transpose of that?

# %%
from course import begin, check, open_library, show_solution

begin(7)

# %%
import numpy as np

from course.describing import described
from course.mine import conv2d, gradcheck, im2col, sgd_step
from minifcn import ops, visualize
from minifcn.data import Shapes

generator = np.random.default_rng(7)

# %% [markdown]
# ## A convolution is a matrix
#
# Take a picture of 4 × 4 pixels and a kernel of 3 × 3, with the numbers 1 to 9 so that they can be told apart. The
# kernel has four places, so four numbers come out. Each of them is a sum over all sixteen pixels: a pixel under the
# kernel counts with the kernel's number that lies on it, every other pixel counts with 0. Write these sixteen factors
# into a row, in the order in which one reads the picture. Four rows make a matrix of 4 × 16.
#
# **Before you run the next cell:** how many of its 64 entries are zero? The first row belongs to the kernel in the top
# left corner. In which of its sixteen places do the numbers 1, 2, 3, 4, … 9 stand?

# %%
kernel = np.arange(1.0, 10.0).reshape(3, 3)
C = ops.conv_matrix(kernel[None, None], (4, 4)).toarray()  # a weight has the axes (out, channels, kh, kw)
visualize.matrices(
    {"kernel": kernel, "C, one row for each place, one column for each pixel": C},
    alt=described(7, "matrix of a convolution"),
    outline={"C, one row for each place, one column for each pixel": [(1, column) for column in np.flatnonzero(C[1])]},
)

# %% [markdown]
# 36 entries are the kernel's numbers, nine in each row, and 28 are zero. Between 3 and 4 there is a zero, because the
# picture is one pixel wider than the kernel. One step of the kernel to the right moves the row by one column
# (outlined), one step down moves it by four, the width of the picture.

# %%
picture = generator.integers(0, 10, size=(4, 4)).astype(float)
as_matrix = (C @ picture.ravel()).reshape(2, 2)
as_convolution = conv2d(picture[None, None], kernel[None, None], np.zeros(1))[0, 0]
visualize.matrices(
    {"x": picture, "C x": as_matrix, "conv2d(x)": as_convolution},
    alt=described(7, "the product is the convolution"),
    shared_scale=False,
)

# %% [markdown]
# So a convolution, apart from its bias, is a product with a matrix: a very large one for a real picture, but almost
# empty. A matrix in which almost all entries are zero is called a **sparse matrix**. One stores only the other entries,
# each with its row and its column.

# %%
large = ops.conv_matrix(kernel[None, None], (96, 96), padding=1)
rows, columns = large.shape
print(f"96 × 96 pixels, padding 1: C is {rows} × {columns}, that is {rows * columns / 1e6:.0f} million entries,")
print(f"of which {large.nnz} are stored: {100 * large.nnz / (rows * columns):.1f} in a hundred.")

# %% [markdown]
# To compute a layer, lesson 6's product is the better way. C is for thinking: what is true of matrices is now true of
# convolutions.
#
# ## Exercise 1: how often is a pixel used?
#
# The pixel in a corner lies in one patch only. Look at the first column of C: one entry is not zero. Others lie in
# more.
#
# **Predict:** in how many of the four 3 × 3 patches does each pixel of the 4 × 4 picture lie? Type your answer in, as
# four lists of four numbers. Nothing needs to be computed: imagine the kernel in its four places, or look at C.


# %% tags=["exercise"]
def overlap_counts():
    """In how many 3×3 patches (stride 1, no padding) does each pixel of a 4×4 image lie?"""
    raise NotImplementedError


# %%
overlap_counts = check(overlap_counts)

# %%
show_solution("overlap_counts")

# %% [markdown]
# ## The way back
#
# Now let the loss L depend on the four numbers y = C x, and let g = dL/dy be given. What is dL/dx?
#
# A pixel reaches the loss on several ways: through each patch in which it lies. On the way through place p it is
# multiplied by the entry of C in row p and in the pixel's column, q. The chain rule adds over all ways:
#
# $$\frac{dL}{dx_q} = \sum_p C_{pq}\, g_p, \qquad\text{that is}\qquad \frac{dL}{dx} = C^\mathsf{T} g.$$
#
# The transpose spreads out what the convolution has gathered: each number of g goes back to the nine pixels of its
# patch, multiplied by the kernel's numbers.
#
# **Before you run the next cell:** with g = 1 at the first place and 0 at the others, Cᵀ g is the first row of C, laid
# out as a picture. How does it look? And what stands in the second column of the picture if g is 1 at the first *and*
# at the second place?

# %%
first, second = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.0])
visualize.matrices(
    {
        "Cᵀ g, first place": (C.T @ first).reshape(4, 4),
        "Cᵀ g, second place": (C.T @ second).reshape(4, 4),
        "Cᵀ g, both": (C.T @ (first + second)).reshape(4, 4),
    },
    alt=described(7, "rows of the transpose"),
    outline={"Cᵀ g, both": [(row, column) for row in range(3) for column in (1, 2)]},
)

# %% [markdown]
# Where patches overlap, what comes back *adds*: 2 + 1, 3 + 2, and so on. This is the whole secret of this lesson, and
# we shall see what happens to those who forget it.
#
# The map that goes back, Cᵀ, is the adjoint of C (lesson 3). Its mark is an equation of sums of products. Write ⟨a, b⟩
# for the sum of the products of all entries of a and b; then
#
# $$\langle C x, y\rangle = \sum_p \sum_q C_{pq}\, x_q\, y_p = \langle x, C^\mathsf{T} y\rangle \qquad\text{for all } x
# \text{ and } y.$$
#
# It is a test that needs no matrix, only the two maps: draw x and y at random, and compare two numbers.

# %%
x, y = generator.normal(size=16), generator.normal(size=4)
print(f"⟨C x, y⟩  = {(C @ x) @ y:.12f}")
print(f"⟨x, Cᵀ y⟩ = {x @ (C.T @ y):.12f}")

# %% [markdown]
# ## The adjoint is not the inverse
#
# Cᵀ leads from 2 × 2 numbers back to 4 × 4. It is tempting to believe that it undoes the convolution.
#
# **Before you run the next cell:** can anything undo it? The kernel here is `left_to_right` of lesson 6. What is C x
# for a picture that is the same everywhere? What is C (x + 100) compared to C x?

# %%
left_to_right = np.array([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])
E = ops.conv_matrix(left_to_right[None, None], (4, 4)).toarray()
brighter = picture + 100
visualize.matrices(
    {
        "x": picture,
        "C x": (E @ picture.ravel()).reshape(2, 2),
        "C (x + 100)": (E @ brighter.ravel()).reshape(2, 2),
        "Cᵀ C x": (E.T @ (E @ picture.ravel())).reshape(4, 4),
    },
    alt=described(7, "there and back"),
)

# %% [markdown]
# Two different pictures give the same C x, so no map whatever can tell from C x which one it was. Nothing is undone by
# Cᵀ: it has the right *shape* for the way back, and the right numbers for a gradient, but Cᵀ C x is not x.
#
# > Many write-ups call the product with Cᵀ a "deconvolution" and say that it reverses the convolution. It does not; you
# > have just seen it. Lesson 9 makes a layer of it, and gives it its proper name.

# %% [markdown]
# ## The matrix without the kernel
#
# C does two things in one: it copies pixels into patches, and it weighs them. Lesson 6 took the two apart: im2col
# copies, W weighs. Copying is linear as well, so im2col has a matrix of its own. It contains no weights, only zeros and
# ones, and is called G, for geometry. Here it is for 3 × 3 pixels and patches of 2 × 2: four patches of four numbers,
# so 16 rows.
#
# **Before you run the next cell:** how many ones are in a row? How many in the column of the pixel in the middle?

# %%
G = ops.patch_matrix((3, 3), (2, 2), dtype=np.float64).toarray()
visualize.matrices(
    {"G": G},
    alt=described(7, "gathering matrix"),
    outline={"G": [(row, 4) for row in np.flatnonzero(G[:, 4])]},
)

# %% [markdown]
# Each entry of the columns is a copy of one pixel: a single one in each row. The pixel in the middle was copied four
# times. (The rows are in im2col's order: first the patches' upper left pixels, of all four patches, then their upper
# right ones, and so on.)

# %%
small = np.arange(1.0, 10.0).reshape(3, 3)
small_columns = im2col(small[None, None], (2, 2))[0]  # (4, 4)
print("G x equals im2col(x):", np.array_equal((G @ small.ravel()).reshape(4, 4), small_columns))

# %% [markdown]
# So the way back through im2col is Gᵀ. Read it off the picture: Gᵀ takes the 16 numbers of the columns, and gives each
# pixel the *sum* of the numbers that stand where the pixel was copied to. This is called **col2im**, "columns to
# image".
#
# As a loop it lays one patch after the other onto an empty picture. Below are two versions, which differ in a single
# character.
#
# **Before you run the cell:** what will the two give for the columns of the picture with the numbers 1 to 9? Which of
# the two looks right?


# %%
def lay_back(columns, size, kernel_size, adding):
    """Columns (kh·kw, places) laid back onto one picture; stride 1, no padding."""
    kernel_height, kernel_width = kernel_size
    image = np.zeros(size)
    number = 0
    for row in range(size[0] - kernel_height + 1):
        for column in range(size[1] - kernel_width + 1):
            patch = columns[:, number].reshape(kernel_size)
            if adding:
                image[row : row + kernel_height, column : column + kernel_width] += patch
            else:
                image[row : row + kernel_height, column : column + kernel_width] = patch
            number += 1
    return image


visualize.matrices(
    {
        "x": small,
        "im2col(x)": small_columns,
        "laid back with =": lay_back(small_columns, (3, 3), (2, 2), adding=False),
        "laid back with +=": lay_back(small_columns, (3, 3), (2, 2), adding=True),
    },
    alt=described(7, "= and +="),
)

# %% [markdown]
# This is the famous mistake. With `=`, the picture comes back unharmed, which looks like success: im2col is *undone*.
# But undoing it is not what the gradient asks for. The pixel 5 stands in four columns; if it grows by a little, four
# entries grow, and each of them moves the loss. `=` keeps the last of these four ways and forgets the other three. With
# `+=`, each pixel comes back as often as it was used: 5 becomes 20.
#
# Which of the two is the adjoint? Let the test decide.

# %%
x, c = generator.normal(size=(3, 3)), generator.normal(size=(4, 4))
copied = im2col(x[None, None], (2, 2))[0]
print(f"⟨im2col(x), c⟩       = {(copied * c).sum():.6f}")
print(f"⟨x, laid back with =⟩  = {(x * lay_back(c, (3, 3), (2, 2), adding=False)).sum():.6f}")
print(f"⟨x, laid back with +=⟩ = {(x * lay_back(c, (3, 3), (2, 2), adding=True)).sum():.6f}")

# %% [markdown]
# ## Exercise 2: col2im
#
# `col2im(columns, input_size, kernel_size, *, stride=1, padding=0)` takes columns (N, C·kh·kw, Ho·Wo), in the order of
# your im2col, and returns (N, C, *input_size). It is im2col read backwards, and as there, one loop over the pixels of
# the kernel is enough:
#
# 1. Work out Ho and Wo from input_size, as im2col does.
# 2. Reshape the columns to (N, C, kh, kw, Ho, Wo).
# 3. Make a picture of zeros, (N, C, H + 2·padding, W + 2·padding).
# 4. For each (row, column) of the kernel, add `patches[:, :, row, column]` to the slice from which im2col took it.
# 5. Cut the frame of padding off again.
#
# **Predict:** why may what has come back into the frame be thrown away? And what do pixels get that lie in no patch?
#
# <details><summary>Answer</summary>
#
# The frame is not part of x. Its zeros are constants, and nobody asks for the gradient of a constant. A pixel in no
# patch has no influence on the result, so its gradient is 0.
# </details>


# %% tags=["exercise"]
def col2im(columns, input_size, kernel_size, *, stride=1, padding=0):
    """Columns added back into images: (N, C·kh·kw, Ho·Wo) -> (N, C, *input_size); the adjoint of im2col."""
    raise NotImplementedError


# %%
col2im = check(col2im)

# %%
show_solution("col2im")

# %% [markdown]
# First your prediction of exercise 1, now computed: a picture of ones into columns and back gives how often each pixel
# was used. And for any picture, col2im(im2col(x)) is these counts times x.

# %%
counts = col2im(im2col(np.ones((1, 1, 4, 4)), (3, 3)), (4, 4), (3, 3))[0, 0]
there_and_back = col2im(im2col(picture[None, None], (3, 3)), (4, 4), (3, 3))[0, 0]
visualize.matrices(
    {"counts": counts, "x": picture, "col2im(im2col(x))": there_and_back, "counts · x": counts * picture},
    alt=described(7, "counts"),
)

# %% [markdown]
# Then the mark of an adjoint, with your pair of functions: ⟨im2col(x), c⟩ = ⟨x, col2im(c)⟩, for kernels that are not
# square, with stride and padding.

# %%
for size, kernel_size, stride, padding in (((4, 4), (3, 3), 1, 0), ((7, 6), (3, 2), 2, 1), ((9, 8), (2, 5), 3, 2)):
    x = generator.normal(size=(2, 3, *size))
    copied = im2col(x, kernel_size, stride=stride, padding=padding)
    c = generator.normal(size=copied.shape)
    laid_back = col2im(c, size, kernel_size, stride=stride, padding=padding)
    left, right = (copied * c).sum(), (x * laid_back).sum()
    print(f"kernel {kernel_size}, stride {stride}, padding {padding}: {left:.9f} and {right:.9f}")

# %% [markdown]
# ## Drag it
#
# Kernel, stride and padding on a picture of 5 × 5: the size formula of lesson 6 for one axis, the matrix C (blue where
# a number of the kernel stands), and how often each pixel is used. In a live notebook there are sliders; otherwise you
# see a few settings one after the other.
#
# Questions to play with. With which strides does no pixel lie in two patches? How can it be that a pixel lies in none?
# When is C square? With kernel 3 and stride 1, which padding gives every pixel the same count?

# %%
from course.sliders import sliders


def draw(kernel_size, stride, padding):
    size = (5 + 2 * padding - kernel_size) // stride + 1
    kernel = np.arange(1.0, kernel_size**2 + 1).reshape(kernel_size, kernel_size)
    matrix = ops.conv_matrix(kernel[None, None], (5, 5), stride=stride, padding=padding).toarray()
    ones = im2col(np.ones((1, 1, 5, 5)), (kernel_size, kernel_size), stride=stride, padding=padding)
    counts = col2im(ones, (5, 5), (kernel_size, kernel_size), stride=stride, padding=padding)[0, 0]
    formula = f"⌊(5 + 2·{padding} − {kernel_size}) / {stride}⌋ + 1 = {size}"
    return visualize.matrices(
        {f"{formula}\nC is {size**2} × 25": matrix, "overlap counts": counts},
        alt=f"Kernel {kernel_size}, stride {stride}, padding {padding} on 5×5 pixels: {size} × {size} places, so C has "
        f"{size**2} rows and 25 columns. The pixels lie in {counts.min():.0f} to {counts.max():.0f} patches.",
        shared_scale=False,
    )


sliders(
    draw,
    kernel_size=(1, 5),
    stride=(1, 3),
    padding=(0, 2),
    examples=[
        {"kernel_size": 3, "stride": 1, "padding": 0},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 0},
        {"kernel_size": 2, "stride": 2, "padding": 0},
    ],
)

# %% [markdown]
# <details><summary>Answers</summary>
#
# No pixel lies in two patches if the stride is at least the kernel size (or if there is only one place). A pixel lies
# in none if the stride steps over it, or if a last step does not fit and the picture's edge is left over: kernel 2,
# stride 2 leaves out the last row and column. C is square if the size stays 5, as with kernel 3, stride 1, padding 1.
# With padding 2, every pixel lies under each of the kernel's nine numbers once: all counts are 9.
# </details>

# %% [markdown]
# ## The backward pass of a convolution, as a loop
#
# Each number of the result is y_p = Σ (kernel · patch at p) + b. Three things went into it, and each gets its share of
# g_p = dL/dy_p:
#
# - the kernel gets g_p times the patch,
# - the patch gets g_p times the kernel,
# - the bias gets g_p.
#
# The kernel and the bias were used at every place, so they add over all places. The patches overlap, so they add as
# well.


# %%
def backward_loops(grad, image, kernel):
    """(dL/dimage, dL/dkernel, dL/dbias) for one picture, one channel, stride 1, no padding."""
    grad_image, grad_kernel, grad_bias = np.zeros_like(image), np.zeros_like(kernel), 0.0
    for (row, column), g in np.ndenumerate(grad):
        patch = (slice(row, row + kernel.shape[0]), slice(column, column + kernel.shape[1]))
        grad_image[patch] += g * kernel
        grad_kernel += g * image[patch]
        grad_bias += g
    return grad_image, grad_kernel, grad_bias


g = generator.normal(size=(2, 2))
grad_image, grad_kernel, grad_bias = backward_loops(g, picture, kernel)
print(f"largest difference from Cᵀ g: {np.abs(grad_image.ravel() - C.T @ g.ravel()).max():.1e}")

# %% [markdown]
# ## Exercise 3: conv2d_backward
#
# The loops over places disappear as in lesson 6. There, with c = im2col(x), a picture became y = W c + b, where y is a
# matrix (out, Ho·Wo). It is a matrix product, and lesson 3 has its two gradients. For each picture, with g = dL/dy:
#
# $$\frac{dL}{dW} = g\, c^\mathsf{T} \qquad \frac{dL}{dc} = W^\mathsf{T} g \qquad \frac{dL}{dx} =
# \mathrm{col2im}\left(\frac{dL}{dc}\right) \qquad \frac{dL}{db} = \text{the row sums of } g$$
#
# `conv2d_backward(grad, x, weight, *, stride=1, padding=0)` takes grad (N, out, Ho, Wo), and returns the three
# gradients (dL/dx, dL/dweight, dL/dbias), in the shapes of x, of weight and of the bias:
#
# 1. Reshape grad to (N, out, Ho·Wo), and make the columns of x anew.
# 2. dL/dW is a sum over the pictures, since all of them used the same weights. Reshape it to the weight's shape.
# 3. dL/dc is a product for each picture; your col2im does the rest.
# 4. dL/db is a sum over pictures and places.
#
# **Predict:** which axes of grad (N, out, Ho, Wo) are summed over for the bias?


# %% tags=["exercise"]
def conv2d_backward(grad, x, weight, *, stride=1, padding=0):
    """(dL/dx, dL/dweight, dL/dbias) of conv2d, from grad = dL/dy (N, out, Ho, Wo)."""
    raise NotImplementedError


# %%
conv2d_backward = check(conv2d_backward)

# %%
show_solution("conv2d_backward")

# %% [markdown]
# The gradient check of lesson 4 knows nothing of matrices. It compares with slopes.

# %%
x, weight, bias = generator.normal(size=(2, 3, 6, 5)), generator.normal(size=(4, 3, 3, 2)), generator.normal(size=4)
passes = gradcheck(
    lambda x, weight, bias: conv2d(x, weight, bias, stride=2, padding=1),
    lambda grad, x, weight, bias: conv2d_backward(grad, x, weight, stride=2, padding=1),
    [x, weight, bias],
    generator,
)
print("conv2d and conv2d_backward belong together:", passes)

# %% [markdown]
# ## What it is good for: finding nine numbers
#
# "Nobody will choose these nine numbers", said lesson 6 of a kernel's weights: "learning finds them." Now it can. Here
# is a picture, and what an unknown kernel has made of it. The loss is the mean square of the difference between what
# our kernel makes and what the unknown one has made; ours begins with zeros.
#
# **Before you run the next cell:** which of your functions are needed for one step?

# %%
grey = Shapes("val", size=64)[3].image.mean(axis=2)
grey = ((grey - grey.mean()) / grey.std())[None, None]  # (1, 1, H, W), mean 0 and spread 1
wanted = conv2d(grey, left_to_right[None, None], np.zeros(1))

weight, bias = np.zeros((1, 1, 3, 3)), np.zeros(1)
velocities = [np.zeros_like(weight), np.zeros_like(bias)]
kernels = {"unknown": left_to_right}
for step in range(1, 301):
    difference = conv2d(grey, weight, bias) - wanted
    _, grad_weight, grad_bias = conv2d_backward(2 * difference / difference.size, grey, weight)
    sgd_step([weight, bias], [grad_weight, grad_bias], velocities, lr=0.02, momentum=0.9)
    if step in (3, 30, 300):
        kernels[f"after {step} steps"] = weight[0, 0].round(2)
        print(f"step {step}: loss {(difference**2).mean():.6f}")

# %%
visualize.matrices(
    kernels,
    alt=described(7, "a kernel learns"),
)

# %% [markdown]
# Nothing was said about edges. The gradient of the loss, sent back through the convolution, has found the kernel.
#
# ## The same in the library
#
# Open the library's versions. `conv_matrix` makes C, for any number of channels, from G. `scatter_columns` is your
# col2im for a few rows at a time: you will recognise the `+=`. `Conv2d` has the three gradients in its `backward`.

# %%
from minifcn import Tensor
from minifcn.ops.blocks import scatter_columns
from minifcn.ops.conv import Conv2d

open_library(ops.conv_matrix)
open_library(scatter_columns)
open_library(Conv2d)

# %%
shapes = ((2, 3, 9, 8), (4, 3, 3, 3), (4,))
x, weight, bias = (Tensor(generator.normal(size=shape), requires_grad=True) for shape in shapes)
y = ops.conv2d(x, weight, bias, stride=2, padding=1)
g = generator.normal(size=y.shape)
y.backward(g)
yours = conv2d_backward(g, x.data, weight.data, stride=2, padding=1)
for name, theirs, one in zip(("x", "weight", "bias"), (x.grad, weight.grad, bias.grad), yours, strict=True):
    print(f"dL/d{name}: largest difference {np.abs(theirs - one).max():.1e}")

# %% [markdown]
# ## What stays
#
# - A convolution is a product with a sparse matrix C; its way back is Cᵀ.
# - The adjoint is not the inverse: Cᵀ C x ≠ x. It is what ⟨C x, y⟩ = ⟨x, Cᵀ y⟩ says, and this can be tested.
# - im2col copies, so col2im adds. With `=` in place of `+=` the picture comes back, and the gradient is wrong.
# - col2im(im2col(x)) is x times the overlap counts.
#
# *Sources.* The 4 × 16 matrix and its transpose: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep
# learning" (2016), section 4.1. Patches as columns, forward and backward: K. Chellapilla, S. Puri and P. Simard, "High
# performance convolutional neural networks for document processing" (2006).
