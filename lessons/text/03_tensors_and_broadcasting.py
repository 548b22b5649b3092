# %% [markdown]
# # 3. Tensors and broadcasting
#
# About 60 minutes. You need lesson 2: the graph, and how gradients go back through it.
#
# **The question.** In lesson 1 four numbers made a mask: `colours @ weights + b`, for nine thousand pixels at once.
# There, b is *one* number that is added to nine thousand. What comes back from these is an array of nine thousand
# gradients. How does it become the gradient of one number?

# %%
from course import begin, check, open_library, show_solution

begin(3)

# %%
import time

import numpy as np

from course.describing import described
from minifcn import visualize
from minifcn.data import Shapes

generator = np.random.default_rng(3)

# %% [markdown]
# ## What fits and what is repeated
#
# Here x has four rows, b has one. NumPy adds them all the same.

# %%
x = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]])
b = np.array([10.0, 20, 30])
visualize.matrices(
    {"x, shape (4, 3)": x, "b, shape (3,)": b, "x + b": x + b},
    alt=described(3, "a row added to all"),
)

# %% [markdown]
# b has been repeated in every row. NumPy calls this **broadcasting**. The rule: write the two shapes one below the
# other, aligned from the right. Where one of them has length 1, or no axis at all, it is repeated. Everywhere else
# the lengths must agree.
#
#     (4, 3)       (4, 3)       (2, 4, 3)       (4, 3)
#        (3,)      (4, 1)          (4, 1)          (4,)
#
# **Before you run this:** which of these can be added, what is the shape of the sum, and how many times is each entry
# of the second used? (The last line of the output adds a single number, which has the shape ().)

# %%
for first, second in (((4, 3), (3,)), ((4, 3), (4, 1)), ((2, 4, 3), (4, 1)), ((4, 3), (4,)), ((4, 3), ())):
    try:
        shape = np.broadcast_shapes(first, second)
        print(f"{first} + {second}: {shape}, each entry is used {np.prod(shape) // np.prod(second, dtype=int)} times")
    except ValueError:
        print(f"{first} + {second}: does not fit")

# %% [markdown]
# ## An array in each node
#
# First, why we want arrays in the graph at all. An object that holds an array, and knows what it was made from, is
# called a **tensor**. (A single number is a tensor of shape ().) The class Tensor of this course, in the file
# `course/engine.py`, is your Number of lesson 2 with arrays; you will read it below. Now multiply the 27,648 numbers
# of a picture of 96 × 96 pixels by 2: once with a tensor for each number, and once with one tensor for all.
#
# **Predict:** how many times faster is the second?

# %%
from course.engine import Tensor

numbers = generator.normal(size=(96, 96, 3))
two = Tensor(2.0)

one_each = [Tensor(number) for number in numbers.ravel()]
started = time.perf_counter()
products = [one * two for one in one_each]
seconds_each = time.perf_counter() - started

one_for_all = Tensor(numbers)
started = time.perf_counter()
product = one_for_all * two
seconds_all = time.perf_counter() - started
print(f"27,648 nodes {1000 * seconds_each:.0f} ms, one node {1000 * seconds_all:.3f} ms")

# %% [markdown]
# So a node is a whole array, and pass_back takes an array and gives arrays. For a sum of equal shapes nothing is new:
# each entry of the gradient is passed on as it is. But x + b above has the shape (4, 3), so grad has this shape as
# well. The gradient of b must have the shape of b, (3,): one number for each number that can be changed.
#
# ## What comes back to something that was repeated
#
# Take two rows only, and this gradient of the sum:

# %%
grad = np.array([[1.0, 2, 3], [10, 20, 30]])
visualize.matrices(
    {"grad, shape (2, 3)": grad},
    alt=described(3, "a gradient"),
)

# %% [markdown]
# **Before you run the next cell:** what is the gradient of b = (b₀, b₁, b₂), which was added to both rows? Lesson 2
# has a rule for things that are used more than once.


# %%
def grad_of_b_loops(grad):
    """What comes back to b, which was added to every row."""
    grad_b = np.zeros(grad.shape[1])
    for row in range(grad.shape[0]):
        for column in range(grad.shape[1]):
            grad_b[column] += grad[row, column]  # b[column] was used here
    return grad_b


print(grad_of_b_loops(grad))

# %% [markdown]
# b₀ was used in both rows, so both parts come back to it, and they are added. Along the axis along which something was
# repeated, its gradient is the **sum**. With NumPy: `grad.sum(axis=0)`.
#
# ## The same as a matrix
#
# There is a picture behind it that will come back throughout this course. To repeat is to multiply by a matrix R of
# zeros and ones. Here the six numbers of the repeated b stand in one column, row after row:
#
# $$\text{repeated} = R \cdot b$$

# %%
R = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
visualize.matrices(
    {"R repeats": R, "Rᵀ adds up": R.T},
    alt=described(3, "repeat and add up"),
    outline={"R repeats": [(row, 0) for row in range(6)], "Rᵀ adds up": [(0, column) for column in range(6)]},
)

# %% [markdown]
# The outlined column of R says where b₀ is written to: to the places 0 and 3. What comes back to b₀ is what comes
# back to these places, so the same ones stand in the *row* of Rᵀ, and the product with the gradient g adds:
#
# $$\frac{dL}{db_j} = \sum_i \frac{dL}{d\,\text{repeated}_i} \cdot R_{ij} = \left(R^T g\right)_j$$
#
# This holds for every step that is a product with a matrix: forward with the matrix, backward with its transpose. The
# transpose is called the **adjoint** of the step. So, in one sentence: **the adjoint of a broadcast is a sum.** And
# the other way round, a sum over an axis is a product with a row of ones; its adjoint is a column of ones, which
# repeats: the adjoint of a sum is a broadcast.
#
# The sign by which one knows an adjoint: for *all* b and g,
#
# $$\langle R b,\ g \rangle = \langle b,\ R^T g \rangle$$
#
# where ⟨ , ⟩ multiplies entry by entry and adds. Try it with random numbers, without any matrix:

# %%
b, g = generator.normal(size=3), generator.normal(size=(2, 3))
repeated = np.broadcast_to(b, (2, 3))
print(f"⟨repeated b, g⟩ = {np.sum(repeated * g):.12f}")
print(f"⟨b, summed g⟩   = {np.sum(b * g.sum(axis=0)):.12f}")

# %% [markdown]
# ## Exercise 1: unbroadcast
#
# `unbroadcast(grad, shape)`: grad has the shape of a result; one of the tensors that went into it had the shape
# `shape`, and may have been repeated. Give back its gradient, in exactly this shape.
#
# There are two ways to be repeated, and both may occur at once. For `shape` (4, 1) and a grad of shape (2, 4, 3):
#
# 1. grad has more axes than `shape`. The additional ones are in front. Sum over them: (2, 4, 3) → (4, 3).
# 2. Where `shape` has length 1, grad may be longer. Sum over these axes too, but keep them, with length 1
#    (`keepdims=True`): (4, 3) → (4, 1).
#
# `axis` of `grad.sum` may be a tuple of axes. An empty one, `()`, sums over none.


# %% tags=["exercise"]
def unbroadcast(grad, shape):
    """`grad` summed over the axes along which an array of `shape` was repeated; the result has that shape."""
    raise NotImplementedError


# %%
unbroadcast = check(unbroadcast)

# %%
show_solution("unbroadcast")

# %% [markdown]
# What if somebody forgets it? One would wish for an error. But:

# %%
b = np.zeros(3)
b = b - 0.1 * grad  # grad as it came back, not summed
print(f"b was of shape (3,), and now it is of shape {b.shape}")

# %% [markdown]
# NumPy has broadcast once more, without a word: from now on, each row has a b of its own. Therefore the library sums in
# one place, for all operations, and refuses a gradient that does not fit.
#
# Many write-ups have a mean here, db = (1/m) · sum. The 1/m belongs to their loss, which is a mean over m examples,
# and has been left out on the way until there. It is no part of the way back through an addition: here the step that
# takes the mean divides, and grad arrives divided. Who mixes the two divides twice.

# %% [markdown]
# ## The matrix product
#
# The other step that everything here is made of is y = x @ w. Let x be (N, K) and w (K, M):
#
# $$y_{nm} = \sum_k x_{nk}\, w_{km}$$
#
# **Think first:** which entries of y does x₀₁ go into, and with which factors?

# %%
x = np.array([[1.0, 2, 3], [4, 5, 6]])
w = np.array([[1.0, -1], [2, 0], [3, 1]])
visualize.matrices(
    {"x": x, "w": w, "y = x @ w": x @ w},
    alt=described(3, "matrix product"),
    outline={"x": [(0, 1)], "w": [(1, 0), (1, 1)], "y = x @ w": [(0, 0), (0, 1)]},
)

# %% [markdown]
# x₀₁ goes into all of row 0 of y: into y₀₀ with the factor w₁₀, into y₀₁ with w₁₁. It is used M times, so M parts
# come back to it, each with its factor, and they are added. In the same way w₁₀ goes into all of *column* 0 of y. In
# loops:


# %%
def matmul_backward_loops(grad, x, w):
    """(dL/dx, dL/dw) of y = x @ w."""
    grad_x, grad_w = np.zeros(x.shape), np.zeros(w.shape)
    for n in range(x.shape[0]):
        for m in range(w.shape[1]):
            for k in range(x.shape[1]):
                grad_x[n, k] += grad[n, m] * w[k, m]  # y[n, m] contains x[n, k] · w[k, m]
                grad_w[k, m] += grad[n, m] * x[n, k]
    return grad_x, grad_w


grad = np.array([[1.0, 0], [0, 10]])
grad_x, grad_w = matmul_backward_loops(grad, x, w)
visualize.matrices(
    {"grad": grad, "dL/dx": grad_x, "dL/dw": grad_w},
    alt=described(3, "backward of the product"),
)

# %% [markdown]
# ## Exercise 2: matmul_backward
#
# `matmul_backward(grad, x, w)` returns the same two arrays, in this order, without loops. Both are matrix products:
#
# 1. dL/dx is the sum over m of grad_nm · w_km. In a matrix product, the index that is summed over stands last in the
#    first factor and first in the second. What must become of w?
# 2. dL/dw is the sum over n of x_nk · grad_nm. What must become of x, and which factor comes first?
# 3. Compare the shapes: dL/dx (N, K), dL/dw (K, M). With N, K and M all different, there is only one way that fits.
#    But shapes are only a hint. In a square, everything fits.


# %% tags=["exercise"]
def matmul_backward(grad, x, w):
    """(dL/dx, dL/dw) of y = x @ w, for matrices x (N, K) and w (K, M)."""
    raise NotImplementedError


# %%
matmul_backward = check(matmul_backward)

# %%
show_solution("matmul_backward")

# %% [markdown]
# As a function of x, the product x @ w multiplies each row of x by a matrix, so backward comes its transpose: once
# more the adjoint.
#
# ## The engine of this course
#
# Now read the class Tensor. It is short, and there is nothing in it that you have not met:
#
# - the four entries of Number: `data`, `parents`, `pass_back` and `grad`;
# - `backward`, which calls your `backward_pass`, with ones;
# - `+` and `*`, which pass back as in lesson 2, and then `unbroadcast` to the shape of each parent;
# - `@` with your `matmul_backward`;
# - `sum`, which adds up everything; backward it repeats;
# - at the end three lines for Python, so that a number or an array may stand to the left of + and *.
#
# `mine.name` is your function if you have solved that exercise, and the library's if not.

# %%
open_library(Tensor)

# %% [markdown]
# ## The mask of lesson 1 once more
#
# In lesson 1 the backward pass for four numbers was written by hand. The engine needs only the forward pass.
#
# **Before you run this:** which shapes will the gradients of `weights` and `b` have? Through which steps does the
# gradient come back to b?

# %%
from course.engine import tanh
from course.graphs import draw

study, labels, _ = Shapes("val")[28]
judged = labels.reshape(-1) != 255  # all but the outlines
pixels = Tensor((study.reshape(-1, 3) / 255 - 0.5)[judged])  # (pixels, 3)
wanted = np.where(labels.reshape(-1)[judged] > 0, 1.0, -1.0)[:, None]  # (pixels, 1)

weights, b = Tensor(np.zeros((3, 1))), Tensor(np.zeros(1))
y = tanh(pixels @ weights + b)  # (pixels, 3) @ (3, 1) + (1,) -> (pixels, 1)
difference = y + (-wanted)
loss = (difference * difference).sum() * (1 / len(wanted))
loss.backward()
print(f"weights {weights.grad.ravel()}, b {b.grad}")

grad_y = 2 * (0 - wanted) / len(wanted)  # by hand, as in lesson 1; y is 0 everywhere
grad_total = grad_y * (1 - 0**2)
print(f"by hand {(pixels.data.T @ grad_total).ravel()}, {grad_total.sum(axis=0)}")

# %%
names = {pixels: "pixels", weights: "weights", b: "b", y: "y", difference: "difference", loss: "loss"}


def label(tensor):
    shape = "×".join(map(str, tensor.shape)) or "number"
    return f"{names[tensor]}\n{shape}" if tensor in names else shape


draw(
    loss,
    parents=lambda tensor: tensor.parents,
    label=label,
    alt=described(3, "graph of the mask"),
)

# %% [markdown]
# The same numbers, to the last digit that is printed. The graph has a dozen nodes, and would have no more for a
# picture of a million pixels.

# %% [markdown]
# ## The same in the library
#
# Open the library's two places for what you have just built. The first is the only place that sums, whatever the
# operation. The second also takes stacks of matrices, (…, N, K) times (…, K, M), whose leading axes are broadcast;
# what they need then is done by the first.

# %%
from minifcn.autograd import tensor as library
from minifcn.ops.linalg import MatMul

open_library(library._unbroadcast)
open_library(MatMul)

# %% [markdown]
# ## What stays
#
# - A node of the graph holds an array. The gradient of an array has its shape.
# - Broadcasting repeats; its adjoint is a sum.
# - y = x @ w: backward dL/dx = grad @ wᵀ and dL/dw = xᵀ @ grad.
# - Forward with a matrix, backward with its transpose.
#
# You now have all that a small network needs. But how can one be sure of a gradient that nobody has computed by hand?
# The next lesson measures, and shows how a measurement can lie.
#
# *Sources.* The way back through a product of matrices: M. Giles, "Collected matrix derivative results for forward
# and reverse mode algorithmic differentiation" (2008). Adjoints and the backward pass: A. Griewank and A. Walther,
# "Evaluating Derivatives" (2nd edition, 2008). Broadcasting: the NumPy manual, "Broadcasting".
