# %% [markdown]
# # 4. Checking a gradient
#
# About 45 minutes. You need lesson 3 (tensors).
#
# **The question.** A backward with a mistake in it does not crash. Its shapes are right, its numbers look like
# numbers, and a network may even learn with it, only worse. How do you find out whether a gradient is right?

# %%
from course import begin, check, open_library, show_solution

begin(4)

# %%
import numpy as np

from course.describing import described
from course.mine import matmul_backward, tanh, tanh_backward
from minifcn import visualize

generator = np.random.default_rng(4)

# %% [markdown]
# ## Which line touches?
#
# Take y = x · tanh(x). Two people have worked out the slope. One has used the product rule, the other has forgotten
# one of its two terms. Here is the curve, and through one of its points a line with each of the two slopes.


# %%
def curve(x):
    return x * np.tanh(x)


def slope_a(x):
    return x * (1 - np.tanh(x) ** 2)


def slope_b(x):
    return np.tanh(x) + x * (1 - np.tanh(x) ** 2)


at, near = 0.8, np.linspace(0.2, 1.4, 50)
visualize.lines(
    {
        "x · tanh(x)": (np.linspace(-0.5, 1.8, 100), curve(np.linspace(-0.5, 1.8, 100))),
        "with slope_a": (near, curve(at) + slope_a(at) * (near - at)),
        "with slope_b": (near, curve(at) + slope_b(at) * (near - at)),
    },
    points={"x = 0.8": ([at], [curve(at)])},
    x_label="x",
    y_label="y",
    alt=described(4, "two lines"),
)

# %% [markdown]
# The line with `slope_b` touches the curve. The other crosses it: `slope_a` lacks the term tanh(x). Near the point,
# the right line and the curve are hardly to be told apart, and *that* can be measured: go a small step ε to both
# sides, and see how much the curve rises. You have done it in lesson 1. Such a slope is called a **finite
# difference**.
#
# $$\text{two sides:}\quad \frac{f(x + ε) - f(x - ε)}{2ε} \qquad\qquad \text{one side:}\quad \frac{f(x + ε) - f(x)}{ε}$$
#
# The second looks simpler, and needs only one evaluation more than f(x), which one often has anyway.
#
# **Before you run the next cell:** ε should be small. Is smaller always better? Will 1e-2, 1e-6 or 1e-12 be best? And
# which of the two formulas is the better one, by how much?


# %%
def errors_of_the_slope(dtype, two_sided):
    """For each ε, the error of the measured slope of x · tanh(x), typical of 500 values of x."""
    x = np.linspace(0.5, 1.5, 500).astype(dtype)
    typical = []
    for eps in steps.astype(dtype):
        behind, distance = (x - eps, 2 * eps) if two_sided else (x, eps)
        measured = (curve(x + eps) - curve(behind)) / distance
        typical.append(np.sqrt(np.mean((measured.astype(float) - slope_b(x.astype(float))) ** 2)))
    return typical


steps = 10.0 ** np.linspace(-13, -1, 49)
visualize.lines(
    {
        "one side": (steps, errors_of_the_slope(np.float64, two_sided=False)),
        "two sides": (steps, errors_of_the_slope(np.float64, two_sided=True)),
        "two sides, float32": (steps[24:], errors_of_the_slope(np.float32, two_sided=True)[24:]),
    },
    x_label="ε",
    y_label="error of the slope",
    log_scale=True,
    alt=described(4, "errors of the slope"),
)

# %% [markdown]
# Each curve has two branches. (Both axes are logarithmic: a straight line is a power of ε.)
#
# - On the right, ε is too large: the curve bends away from the line. On one side the error is proportional to ε. On
#   two sides the bends left and right cancel for the most part, and the error is proportional to ε²: a tenth of the
#   ε, a hundredth of the error.
# - On the left, ε is too small: f(x + ε) and f(x − ε) agree in most of their digits, and what is left of their
#   difference is rounding, about 1e-16, which is then divided by ε.
#
# So: **two sides, ε = 1e-6, and float64**. That gives some ten right digits. float32, in which networks are trained,
# has only seven digits to begin with: even at its best ε, which one would have to hit, only five digits of a slope are
# right.

# %%
for eps in (1e-2, 1e-6, 1e-12):
    measured = (curve(at + eps) - curve(at - eps)) / (2 * eps)
    print(f"ε = {eps:.0e}: measured {measured:.12f}, right {slope_b(at):.12f}")

# %% [markdown]
# ## Many numbers
#
# The steps of a network map arrays to an array: y = function(x). Their backward is called as `backward(grad, x)`. It
# gets the gradient of the loss with respect to y, and returns the one with respect to x. To check one such step alone
# we need a loss, and we may choose it, as long as it is one number. Let us weigh the entries of y with some numbers v
# and add them up:
#
# $$L = \sum_i v_i\, y_i \qquad\text{so}\qquad \frac{dL}{dy_i} = v_i$$
#
# The gradient with respect to y is v itself: v is what backward gets as its `grad`. An array like this, in the shape
# of the output and sent into backward, is called a **cotangent**.
#
# Here is the plain loop. It moves one entry of x after the other, and measures the slope of L.


# %%
def slopes_one_by_one(function, x, v, eps=1e-6):
    """The slope of Σ v · function(x) with respect to each entry of x."""
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += eps
        behind[index] -= eps
        slopes[index] = (v * (function(ahead) - function(behind))).sum() / (2 * eps)
    return slopes


x, v = generator.normal(size=(2, 3)), generator.normal(size=(2, 3))
visualize.matrices(
    {
        "measured": slopes_one_by_one(tanh, x, v).round(4),
        "tanh_backward": tanh_backward(v, tanh(x)).round(4),
    },
    alt=described(4, "tanh checked"),
)

# %% [markdown]
# (Your `tanh_backward` takes y instead of x. Here we pass it tanh(x).) It is right. But is the check?
#
# ## A check that lies
#
# In the next lesson a network will give a score to each class, any number, and these have to become probabilities.
# That is what the **softmax** does. It makes each score positive, with the exponential function, and divides by the
# sum:
#
# $$y_c = \frac{e^{x_c}}{\sum_k e^{x_k}} \qquad\qquad \frac{dL}{dx_c} = y_c \Bigl(\frac{dL}{dy_c} - \sum_k
# \frac{dL}{dy_k}\, y_k\Bigr)$$
#
# On the right is its gradient, by the quotient rule. You need not derive it, as we are about to check it. And then
# there is somebody who had no patience for the quotient rule, and returns zeros.


# %%
def softmax(x):
    """Each row of scores (N, C) as probabilities."""
    exponentials = np.exp(x)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def softmax_backward(grad, x):
    y = softmax(x)
    return (y * (grad - (grad * y).sum(axis=1, keepdims=True)),)


def lazy_backward(grad, x):
    return (np.zeros_like(x),)


scores = generator.normal(size=(2, 4))
visualize.matrices(
    {"scores": scores.round(2), "softmax": softmax(scores).round(2)},
    alt=described(4, "softmax"),
)

# %% [markdown]
# Which v shall we take? The first thing that comes to mind is 1 everywhere. Then L is just the sum of all outputs.
#
# **Before you run this:** `lazy_backward` claims that the scores do not matter at all. Will the loop above find it
# out, with v = 1?

# %%
ones = np.ones_like(scores)
visualize.matrices(
    {
        "measured": slopes_one_by_one(softmax, scores, ones).round(6),
        "softmax_backward": softmax_backward(ones, scores)[0].round(6),
        "lazy_backward": lazy_backward(ones, scores)[0],
    },
    alt=described(4, "ones as cotangent"),
)

# %% [markdown]
# All three agree, and they are right! Each row of the softmax adds up to 1, whatever the scores. So the sum of all
# outputs is always 2 here. It has no slope. The check has asked for the one thing about which `lazy_backward` tells
# the truth.
#
# Now with a v drawn at random.

# %%
v = generator.normal(size=scores.shape)
visualize.matrices(
    {
        "measured": slopes_one_by_one(softmax, scores, v).round(3),
        "softmax_backward": softmax_backward(v, scores)[0].round(3),
        "lazy_backward": lazy_backward(v, scores)[0],
    },
    alt=described(4, "random cotangent"),
)

# %% [markdown]
# Caught. The lesson of this lesson: a check asks a question, and a wrong gradient may know the answer to that one.
# **Draw the cotangent at random.**
#
# ## All entries in one go
#
# The loop calls the function twice for each entry of x. FCN-8s has 134 million weights, and a single pass through it
# takes seconds. There must be another way.
#
# Take an array u in the shape of x, a direction, and move all entries at once: from x − ε·u to x + ε·u. By the chain
# rule each entry contributes its own slope times how fast it moves:
#
# $$\frac{\sum v \cdot \bigl(f(x + εu) - f(x - εu)\bigr)}{2ε} \;\approx\; \sum_i u_i\, \frac{dL}{dx_i}$$
#
# On the left two evaluations, however large x is. On the right what backward says. If its gradient is wrong by d, the
# two sides differ by Σ u·d.
#
# **Predict:** the function below turns the order of the entries around, and `forgetful_backward` forgets to turn them
# back. For which direction u does nobody notice?


# %%
def turn_around(x):
    return x[::-1]


def forgetful_backward(grad, x):
    return (grad,)


x, v = generator.normal(size=5), generator.normal(size=5)
for name, u in (("u = 1", np.ones(5)), ("u random", generator.normal(size=5))):
    eps = 1e-6
    measured = (v * (turn_around(x + eps * u) - turn_around(x - eps * u))).sum() / (2 * eps)
    claimed = (u * forgetful_backward(v, x)[0]).sum()
    print(f"{name}: measured {measured:+.6f}, backward says {claimed:+.6f}")

# %% [markdown]
# With u = 1, Σ u·d is the sum of all errors, and where numbers only stand in the wrong places it is zero. With only
# one entry moved, errors in the others stay unseen. A u drawn at random (from a normal distribution) has no such
# blind spot: that Σ u·d is zero for it has the probability zero, unless d itself is zero. That it is *nearly* zero
# can happen now and then, so we draw three.
#
# This is the adjoint of lesson 3 again. There you had ⟨R b, g⟩ = ⟨b, Rᵀ g⟩: either b goes forward, or g goes back,
# and the result is the same. Here u goes forward through the function, or v goes back through backward:
#
# $$\langle v,\ \text{slope of } f \text{ along } u \rangle = \langle \text{backward}(v),\ u \rangle$$
#
# ## How close is close enough?
#
# The measured slope has some ten right digits, not sixteen, so the two sides are hardly ever *equal*. A wrong
# gradient mostly differs in the first digits. There is much room between the two: ask for five equal digits.
#
# $$|\text{measured} - \text{claimed}| \;\le\; 10^{-7} + 10^{-5} \cdot |\text{claimed}|$$
#
# The second part measures the difference against the size of the slopes: 0.001 is nothing if the slopes are 30,000,
# and everything if they are 0.0001. The first part is for slopes of zero, one of which may come out as 1e-11 and the
# other as 1e-17. `np.isclose(measured, claimed, rtol=1e-5, atol=1e-7)` is this formula; and if one of them is NaN, it
# is False.
#
# ## Exercise: gradcheck
#
# `gradcheck(function, backward, inputs, generator)` answers True or False. `inputs` is a list of float64 arrays.
# `function(*inputs)` is an array, and `backward(grad, *inputs)` returns a tuple with one gradient for each input.
# True means: these are the gradients of this function. That is a **gradient check**.
#
# 1. Draw the cotangent v with `generator.normal(size=…)`, in the shape of `function(*inputs)`.
# 2. Ask backward for the gradients.
# 3. For each input: return False if its gradient does not have its shape. (A forgotten un-broadcast of lesson 3 would
#    otherwise hide in the product with u, which broadcasts.)
# 4. Three times: draw a direction u for this input; move the input by ε·u to both sides, with the others as they are;
#    compare the measured slope with Σ u·gradient; return False if they are not close.
# 5. True, if all inputs have passed.
#
# Leave `inputs` as they are: make new arrays.


# %% tags=["exercise"]
def gradcheck(function, backward, inputs, generator):
    """Whether backward(grad, *inputs) -> (one gradient for each input) belongs to function(*inputs) -> array."""
    raise NotImplementedError


# %%
gradcheck = check(gradcheck)

# %%
show_solution("gradcheck")

# %% [markdown]
# ## Put to work
#
# First on what you have built so far, and on the two softmaxes.

# %%
weights = generator.normal(size=(4, 3))
rows = generator.normal(size=(5, 4))
print("matmul_backward: ", gradcheck(np.matmul, matmul_backward, [rows, weights], generator))
print("tanh_backward:   ", gradcheck(tanh, lambda grad, x: (tanh_backward(grad, tanh(x)),), [rows], generator))
print("softmax_backward:", gradcheck(softmax, softmax_backward, [rows], generator))
print("lazy_backward:   ", gradcheck(softmax, lazy_backward, [rows], generator))

# %% [markdown]
# Now a contest. `quick_check` is how such checks are often written: it sums the outputs, looks at one entry drawn at
# random, and is content with one percent. Here are six wrong backwards. **Predict** which of them it lets pass.


# %%
def quick_check(function, backward, inputs, generator):
    y = function(*inputs)
    for position, gradient in enumerate(backward(np.ones_like(y), *inputs)):
        u = np.zeros_like(inputs[position])
        u.flat[generator.integers(u.size)] = 1e-6  # one entry
        ahead, behind = list(inputs), list(inputs)
        ahead[position], behind[position] = inputs[position] + u, inputs[position] - u
        measured = (function(*ahead).sum() - function(*behind).sum()) / 2e-6
        if not np.isclose(measured, (u * gradient).sum() / 1e-6, rtol=1e-2, atol=1e-2):
            return False
    return True


def last_forgotten(grad, x):  # of np.diff, the differences of neighbours
    gradient = np.append(0, grad) - np.append(grad, 0)
    gradient[-1] = 0
    return (gradient,)


one, two = [generator.normal(size=8)], [generator.normal(size=(3, 3)), generator.normal(size=(3, 3))]
wrong_backwards = {
    "softmax: zeros": (softmax, lazy_backward, [rows]),
    "cos: wrong sign": (np.cos, lambda grad, x: (grad * np.sin(x),), one),
    "x · tanh(x): one term missing": (curve, lambda grad, x: (grad * slope_a(x),), one),
    "sin(πx): 3.14 for π": (lambda x: np.sin(np.pi * x), lambda grad, x: (grad * 3.14 * np.cos(np.pi * x),), one),
    "x @ w: wrong in w only": (np.matmul, lambda grad, x, w: (grad @ w.T, x @ grad), two),
    "np.diff: last entry forgotten": (np.diff, last_forgotten, one),
}
print(f"{'accepted in 20 trials by':32} quick_check  gradcheck")
for name, wrong in wrong_backwards.items():
    quick = sum(quick_check(*wrong, generator) for _ in range(20))
    yours = sum(gradcheck(*wrong, generator) for _ in range(20))
    print(f"{name:32} {quick:11} {yours:10}")

# %% [markdown]
# A wrong sign is found by both, and so are other errors that are large and everywhere. What slips through the quick
# check is what errors in real code are like: an edge forgotten, a digit lost, a sum that never changes. And what
# comes and goes from one trial to the next looks like bad luck.
#
# ## What a gradient check cannot see
#
# It compares function and backward. If the *function* computes the wrong thing, and backward is its true gradient,
# all is well. It looks only where you look: if all your inputs are square, a backward that takes the height for the
# width is right there. And it believes in slopes. Where a function has a kink there is none.
#
# **Predict:** max(x, 0) has the slope 0 on the left of 0, and 1 on the right. What is measured at x = 0?

# %%
measured = (np.maximum(1e-6, 0) - np.maximum(-1e-6, 0)) / 2e-6
print(measured)

# %% [markdown]
# Half. A backward may answer 0 or 1 there, both are accepted practice, and the check would call either wrong. Random
# inputs practically never lie on a kink, so draw them at random; and where a result depends on which of two numbers
# is the larger, as in the pooling of lesson 8, take inputs that are far apart.
#
# ## The same in the library
#
# The library's gradcheck works on the tensors of its own graph. It draws three directions for each input, as yours
# does. When it finds a difference, it goes on to single entries and shows the worst of them: a direction says *that*
# something is wrong, the entries say *where*.

# %%
from minifcn import Tensor, ops
from minifcn.autograd import gradcheck as library_gradcheck

print(library_gradcheck(ops.tanh, [Tensor(rows, requires_grad=True)]))
open_library(library_gradcheck)

# %% [markdown]
# Each operation of the library is checked in this way, with odd sizes and with several inputs. In the coming lessons
# you will do the same with yours.
#
# ## What stays
#
# - A measured slope: two sides, ε = 1e-6, float64. Smaller is not better.
# - A check asks questions. Ask them at random: a random cotangent, random directions, all inputs.
# - Two evaluations for each direction, however many weights there are.
# - Compare by size, about five digits, and never let a NaN pass.
#
# In the next lesson a network learns, and you check the gradient of its loss with your own check.
#
# *Sources.* How the error depends on ε: A. Baydin, B. Pearlmutter, A. Radul and J. Siskind, "Automatic
# differentiation in machine learning: a survey" (2018), where it is drawn as here. Random cotangents and directions:
# the note "Gradcheck mechanics" in the documentation of PyTorch, whose gradcheck does the same with `fast_mode=True`.
# A teaching library whose check lets a softmax without gradient pass is minitorch: its `grad_check` sums the outputs
# and compares one entry of each input, with a tolerance of 0.01, relative and absolute; `quick_check` above does the
# same.
