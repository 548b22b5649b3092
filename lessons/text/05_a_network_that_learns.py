# %% [markdown]
# # 5. A network that learns
#
# About 75 minutes. You need lessons 3 (tensors) and 4 (checking a gradient).
#
# **The question.** Some points in a plane belong to one class, some to another, and no straight line separates them.
# How does a network find out, from nothing but examples, where one class ends and the other begins?

# %%
from course import begin, check, open_library, show_solution

begin(5)

# %%
import numpy as np

from course import engine
from course.describing import described
from course.engine import Tensor
from course.mine import gradcheck
from minifcn import visualize

generator = np.random.default_rng(5)


def spiral(count):
    """Points (count, 2) on two arms of a spiral, and the arm of each (count,): 0 or 1."""
    labels = np.arange(count) % 2
    radius = np.sqrt(generator.uniform(0.01, 1, count))
    angle = 1.6 * 2 * np.pi * radius + np.pi * labels  # the second arm is the first, turned by half a turn
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points + generator.normal(scale=0.02, size=points.shape), labels


points, labels = spiral(360)
radius = np.hypot(points[:, 0], points[:, 1])
unsure = (labels == 1) & (radius > 0.55) & (radius < 0.85) & (generator.uniform(size=360) < 0.7)
labels[unsure] = 255
visualize.plane(
    points,
    labels,
    extent=1.1,
    alt=described(5, "spiral"),
)

# %% [markdown]
# It is segmentation in small. A point is a pixel that is known by its place only, two numbers, and has a class, 0
# (blue) or 1 (orange).
#
# The crosses are points that nobody was able to label. In masks too there are such pixels: at the edge of an object,
# or where something is too small to be told. They carry the number 255, which is no class, and are called **void**.
# "We do not know" is not a class of its own, and least of all is it background.

# %% [markdown]
# ## From scores to one number
#
# A network is to give two numbers for each point: a score for each class. A higher score says "rather this one".
# Scores that go into a softmax are called **logits**. For N points and C classes they are an array (N, C); the
# softmax of lesson 4 makes probabilities of each row.
#
# Now the loss, one number that says how wrong the network is. Look at the probability p that it gives to the *right*
# class. It should be 1. Take −ln p.

# %%
p = np.linspace(0.005, 1, 200)
visualize.lines(
    {"−ln p": (p, -np.log(p))},
    points={
        "sure, and right: p = 0.99": ([0.99], [-np.log(0.99)]),
        "no idea, of two: p = 1/2": ([0.5], [-np.log(0.5)]),
        "sure, and wrong: p = 0.01": ([0.01], [-np.log(0.01)]),
    },
    x_label="p, the probability of the right class",
    y_label="loss",
    alt=described(5, "cross entropy"),
)

# %% [markdown]
# Being right and sure costs nothing, having no idea costs ln 2, and being sure of the wrong class costs a lot. This
# is the **cross entropy**. The loss of many points is the mean of theirs.
#
# **Before you run the next cell:** FCN tells 21 classes apart, and begins with all logits zero. What is its loss,
# before it has seen anything?

# %%
logits = np.zeros(21)
probabilities = np.exp(logits) / np.exp(logits).sum()
print(f"p = 1/{1 / probabilities[0]:.0f}, loss {-np.log(probabilities[0]):.4f}")

# %% [markdown]
# ln 21 = 3.0445. It is worth knowing by heart: if the first loss of a training with 21 classes is far from it,
# something is wrong before it has begun.
#
# ## Its gradient
#
# Write z for the logits of one point and y for its label. The logarithm takes the softmax apart:
#
# $$\text{loss} = -\ln \frac{e^{z_y}}{\sum_k e^{z_k}} = -z_y + \ln \sum_k e^{z_k}$$
#
# The derivative of the second term with respect to $z_c$ is $e^{z_c} / \sum_k e^{z_k}$, and that is the softmax
# again, $p_c$. The first term adds −1 where c is the label. So
#
# $$\frac{d\,\text{loss}}{dz_c} = p_c - [c = y]$$
#
# where [c = y] is 1 if c is the label, and else 0. The probabilities, and minus 1 at the label: nothing more.
#
# **Predict:** three points, all of label 0. Of the first the network has no idea, of the second it is sure and right,
# of the third sure and wrong. Which point has a large gradient? What is the sum of a row?

# %%
logits = np.array([[0.0, 0.0, 0.0], [6.0, 1.0, 0.0], [0.0, 1.0, 6.0]])
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
gradient = probabilities - [1, 0, 0]
visualize.matrices(
    {"logits": logits, "probabilities": probabilities.round(2), "gradient": gradient.round(2)},
    alt=described(5, "gradient of the loss"),
    outline={"gradient": [(0, 0), (1, 0), (2, 0)]},
)

# %% [markdown]
# The label's entry is outlined. Its gradient is negative: going downhill, the network raises the score of the right
# class and lowers the others, as much as it still has to. Where it is right already, it is left alone. Each row adds
# up to 0.
#
# ## Trap 1: large logits
#
# **Before you run this:** what is the softmax of the logits 1000, 1001, 999, to two digits? And what will NumPy say?


# %%
def softmax_as_written(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def softmax_shifted(z):
    return softmax_as_written(z - z.max(axis=1, keepdims=True))


large = np.array([[1000.0, 1001.0, 999.0]])
with np.errstate(all="ignore"):  # without this line, NumPy would warn
    print("as written:", softmax_as_written(large))
print("shifted:   ", softmax_shifted(large).round(2))

# %% [markdown]
# As with tanh in lesson 1: e¹⁰⁰⁰ is ∞, and ∞/∞ is not a number. But softmax sees only *differences* of logits: with
# the same number m taken from all of them, numerator and denominator shrink by the same factor. With the largest
# logit of the position as m, no exponential is more than 1, and one of them is exactly 1, so that the sum is not 0
# either.
#
# Is that enough? Let the network be sure, and wrong: logits 1000 and 0, and the label is the second class.

# %%
with np.errstate(all="ignore"):
    print("−ln p:", -np.log(softmax_shifted(np.array([[1000.0, 0.0]])))[0, 1])

# %% [markdown]
# The loss should be 1000. The probability is e⁻¹⁰⁰⁰, which is rounded to 0, and its logarithm is −∞. (Some add a
# small number to p then, such as 0.00001. This gives 11.5, and a network that is wrong by 1000 looks no worse than
# one that is wrong by 12.) Do not take the logarithm of a probability. Take it apart, as above, and nothing can
# happen:
#
# $$\ln p_c = (z_c - m) - \ln \sum_k e^{z_k - m}$$
#
# ## Trap 2: void
#
# A void position has no label, so it has no loss, and its logits get no gradient. And it does not count in the mean:
# the sum of the losses is divided by the number of *labelled* positions. If it were divided by all, a picture with
# much void would weigh less.
#
# What is the mean if *nothing* is labelled? 0/0. A small picture, or a part of one, can be all void. Then there is
# nothing to learn: the loss is 0, and so is the gradient.
#
# ## Shapes
#
# For points, logits are (N, C) and labels (N,). For pictures, logits are (N, C, H, W) and labels (N, H, W). The
# classes are always axis 1. All other axes are positions. If you write `axis=1, keepdims=True` everywhere, both are
# the same.
#
# To pick each position's own label from an array along axis 1 there is `np.take_along_axis`. The labels need an axis
# of length 1 in the place of the classes:

# %%
table = np.array([[10, 11, 12], [20, 21, 22]])  # (N, C)
of_label = np.take_along_axis(table, np.array([2, 0])[:, None], axis=1)
print(of_label.tolist(), of_label.shape)

# %% [markdown]
# ## Exercise 1: softmax cross entropy
#
# `softmax_cross_entropy(logits, labels, ignore_index=255)` returns two things, the loss (one number) and its gradient
# with respect to the logits (an array of their shape). logits (N, C, …), labels (N, …) are integers; those that equal
# `ignore_index` are void. Do not change logits or labels.
#
# 1. Which positions count? And how many are they; take at least 1, so that 0/0 becomes 0/1.
# 2. A copy of the labels in which void is replaced by 0, so that every entry can be an index. (It does not become
#    background: its weight will be 0.) Give it the axis of length 1.
# 3. ln p of all classes, as above.
# 4. The loss: pick ln p of the labels, make those of void 0, add, divide by the count.
# 5. The gradient: p is `np.exp` of ln p. Subtract 1 at the labels, make the rows of void 0, divide by the count.
#    (`np.arange(C)` in the shape (C, 1, 1) can be compared with labels (N, 1, H, W).)


# %% tags=["exercise"]
def softmax_cross_entropy(logits, labels, ignore_index=255):
    """(mean loss over the labelled positions, its gradient): logits (N, C, …), labels (N, …) -> (number, (N, C, …))."""
    raise NotImplementedError


# %%
softmax_cross_entropy = check(softmax_cross_entropy)

# %%
show_solution("softmax_cross_entropy")

# %% [markdown]
# The gradient has been compared with the right one. But you own a gradient check now, and need nobody to tell you. On
# two pictures of 4 × 5 pixels, with some void:

# %%
some_labels = generator.integers(3, size=(2, 4, 5))
some_labels[0, 1] = 255


def loss_of(z):
    return np.asarray(softmax_cross_entropy(z, some_labels)[0])


def gradient_of(grad, z):
    return (grad * softmax_cross_entropy(z, some_labels)[1],)


print(gradcheck(loss_of, gradient_of, [generator.normal(size=(2, 3, 4, 5))], generator))

# %% [markdown]
# ## Downhill
#
# The gradient says in which direction the loss grows. So go the other way, by a small step. How small is the
# **learning rate**, lr: each parameter p with its gradient g becomes
#
# $$p \leftarrow p - \text{lr} \cdot g$$
#
# (The weights and biases of a network, all that is learned, are called its **parameters**.) The trouble with this rule
# shows in a valley that is steep across and nearly flat along. Take the loss ½·(x² + 25·y²), with its lowest point at
# (0, 0), and start far away.
#
# **Before you run the next cell:** with lr = 0.07, does the path go to the right place? By which way? And what if lr
# is twice as large?


# %%
def walk(lr, momentum, steps):
    """The places that gradient descent visits in the valley ½·(x² + 25·y²)."""
    place, velocity = np.array([-10.0, 1.5]), np.zeros(2)
    places = [place.copy()]
    for _ in range(steps):
        velocity = momentum * velocity + np.array([1.0, 25.0]) * place  # the second term is the gradient
        place = place - lr * velocity
        places.append(place.copy())
    return np.array(places).T


round_ = np.linspace(0, 2 * np.pi, 100)
visualize.lines(
    {
        "lr 0.07": walk(0.07, 0, 25),
        "lr 0.01": walk(0.01, 0, 25),
        "one height of the valley": (10 * np.cos(round_), 2 * np.sin(round_)),
    },
    points={"lowest point": ([0], [0])},
    x_label="x",
    y_label="y",
    alt=described(5, "two learning rates"),
)

# %%
for lr in (0.07, 0.079, 0.081, 0.14):
    x, y = walk(lr, 0, 60)[:, -1]
    print(f"lr {lr}: after 60 steps x = {x:.3g}, y = {y:.3g}")

# %% [markdown]
# Across the valley each step multiplies y by 1 − 25·lr. Above lr = 0.08 that is beyond −1: y grows with each step,
# and soon the numbers are astronomical. This is what a learning rate that is too large looks like: a loss that grows,
# and then NaN. But a small one takes ages along the valley, where the gradient is small, though it points the same
# way at each step.
#
# ## Momentum
#
# So let the steps remember. Keep for each parameter a velocity v, which begins with 0. In each step a part of it is
# kept, the **momentum**, and the gradient is added:
#
# $$v \leftarrow \text{momentum} \cdot v + g \qquad\qquad p \leftarrow p - \text{lr} \cdot v$$
#
# Gradients that point the same way each time add up: with momentum 0.9 a steady g becomes a velocity of $g\,(1 + 0.9
# + 0.81 + \dots) = 10\,g$. Those that point to and fro cancel. Like a ball, which does not stop where the ground gets
# flat.
#
# **By hand:** p = 1, the loss is p², so g = 2p. lr = 0.1, momentum = 0.5. Where is p after one step, after two, after
# three?

# %%
p, v = 1.0, 0.0
for step in range(3):
    g = 2 * p
    v = 0.5 * v + g
    p = p - 0.1 * v
    print(f"step {step + 1}: g = {g:.3f}, v = {v:.3f}, p = {p:.3f}")

# %%
visualize.lines(
    {
        "lr 0.01": walk(0.01, 0, 50),
        "lr 0.01, momentum 0.9": walk(0.01, 0.9, 50),
        "one height of the valley": (10 * np.cos(round_), 2 * np.sin(round_)),
    },
    points={"lowest point": ([0], [0])},
    x_label="x",
    y_label="y",
    alt=described(5, "momentum"),
)

# %% [markdown]
# With momentum the path swings, and overshoots a little; but after the same 50 steps it is at x = 0.6, where without
# it it would be at x = −6.05.
#
# ## Exercise 2: a step
#
# `sgd_step(parameters, gradients, velocities, lr, momentum)` takes three lists of arrays, one for each parameter, and
# makes one step. What makes the steps is called an optimiser. This one is SGD, stochastic gradient descent:
# "stochastic" as each step usually sees only a few examples, drawn at random.
#
# It returns nothing. It changes the arrays of parameters and velocities *in place*, since it is these very arrays
# that the network computes with. **Think first:** what does `p = p - lr * v` do to the network, and what `p -= lr *
# v`?


# %% tags=["exercise"]
def sgd_step(parameters, gradients, velocities, lr, momentum):
    """v ← momentum · v + g, then p ← p − lr · v, in place, for each parameter, its gradient and its velocity."""
    raise NotImplementedError


# %%
sgd_step = check(sgd_step)

# %%
show_solution("sgd_step")

# %% [markdown]
# `p = p - lr * v` makes a new array and calls it p. The network does not know of it, and keeps the old one.
#
# ## A network of two layers
#
# A step of a network that has weights of its own is called a **layer**. Here a layer is a matrix product and a bias. A
# straight line does not separate the arms, and one matrix product makes nothing but straight lines. So take two, and
# bend what is between them:
#
# $$\text{hidden} = \tanh(x\, W_1 + b_1) \qquad\qquad \text{logits} = \text{hidden}\; W_2 + b_2$$
#
# x is (N, 2). There are 48 hidden numbers for each point. Each is a tanh across the plane, an edge somewhere, and the
# second product puts a shape together from 48 edges. Which edges? Random ones at first. Learning will move them.
#
# `Tensor`, its products and sums, its tanh and its way back are what you have built in lessons 1 to 3.


# %%
def new_network(seed):
    random = np.random.default_rng(seed)
    weight_1, bias_1 = random.normal(scale=4, size=(2, 48)), random.normal(scale=1, size=48)
    weight_2, bias_2 = np.zeros((48, 2)), np.zeros(2)
    return [Tensor(array) for array in (weight_1, bias_1, weight_2, bias_2)]


def compute_logits(network, x):
    weight_1, bias_1, weight_2, bias_2 = network
    return engine.tanh(Tensor(x) @ weight_1 + bias_1) @ weight_2 + bias_2


# %% [markdown]
# And this is how it learns. Ten lines: forward, loss, backward, step, again. (The last two lines are only for the
# diagram.) FCN-8s in lesson 12 is trained by lines like these.


# %%
def learn(network, labels, steps):
    arrays = [parameter.data for parameter in network]
    velocities = [np.zeros_like(array) for array in arrays]
    losses = []
    for _ in range(steps):
        loss = engine.softmax_cross_entropy(compute_logits(network, points), labels)
        loss.backward()
        sgd_step(arrays, [parameter.grad for parameter in network], velocities, lr=0.3, momentum=0.9)
        losses.append(float(loss.data))
    return losses


# %% [markdown]
# **Before you run it:** the weights of the second layer are 0. What is the loss at the first step?


# %%
def probability_map(network, size=80):
    """The probability of class 1 over the plane (size, size), its top row first."""
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, size), np.linspace(1.1, -1.1, size))
    logits = compute_logits(network, np.stack([x.ravel(), y.ravel()], axis=1)).data
    return softmax_shifted(logits)[:, 1].reshape(size, size)


network = new_network(seed=0)
losses, pictures = [], {}
for steps in (0, 30, 170, 400):
    losses += learn(network, labels, steps)
    pictures[f"after {len(losses)} steps"] = probability_map(network)

print(f"first loss {losses[0]:.4f}, ln 2 = {np.log(2):.4f}; last loss {losses[-1]:.4f}")
visualize.lines(
    {"the loss": (np.arange(len(losses)), losses)},
    x_label="steps",
    y_label="loss, the mean over the labelled points",
    alt=described(5, "loss of the spiral"),
)

# %%
visualize.plane(
    points,
    labels,
    regions=pictures,
    extent=1.1,
    columns=4,
    alt=described(5, "the plane as it learns"),
)

# %% [markdown]
# Nobody has told the network what a spiral is. Among the crosses only a few points have a label. They were enough:
# the orange band goes on through them, since nothing has told it not to.
#
# ## What if void were background?
#
# **Predict:** in the labels, replace 255 by 0, the blue class. What will the picture look like?

# %%
as_background = np.where(labels == 255, 0, labels)
misled = new_network(seed=0)
learn(misled, as_background, 600)
for name, one in (("void ignored", network), ("void as background", misled)):
    answers = compute_logits(one, points[labels == 255]).data.argmax(axis=1)
    print(f"{name}: {np.mean(answers == 1):.0%} of the unlabelled points are put on the second arm, where they belong")

visualize.plane(
    points,
    labels,
    regions={"void ignored": probability_map(network), "void as background": probability_map(misled)},
    extent=1.1,
    columns=2,
    alt=described(5, "void as background"),
)

# %% [markdown]
# The arm is cut where the crosses are. The network has learned exactly what it was told. The same happens to masks: in
# the data set Pascal VOC a band of void runs around each object. Make it background, and the network learns that
# objects end before they do.
#
# > In "Dive into Deep Learning" (d2l.ai, in the section on semantic segmentation and its data set) a table gives each
# > colour of a mask its class, and begins with zeros everywhere. The colour of void is not in the list, so it gets a
# > 0: background.

# %% [markdown]
# ## Sum or mean
#
# The loss here is a mean. The authors of FCN have published training settings in which it is a *sum* over all pixels.
# **Predict:** a picture has 500 × 500 pixels. With which learning rate does a sum make the same steps as a mean with
# lr = 0.0001?

# %%
print(f"{1e-4 / (500 * 500):.0e}")

# %% [markdown]
# The gradient of the sum is 250,000 times as large, so the learning rate must be as much smaller. The published
# settings have 1e-10 with the sum, and 1e-4 in the paper goes with the mean. Take the one with the other and you get
# NaN, or nothing is learned. A learning rate is worth nothing without the loss that it belongs to.
#
# ## The same in the library
#
# The library's loss is yours, with weights for classes and for pixels, and with sums. Its optimiser is yours as well.

# %%
from minifcn import Tensor as LibraryTensor
from minifcn import ops
from minifcn.training.optim import SGD

z = generator.normal(size=(2, 3, 4, 5))
theirs = ops.softmax_cross_entropy(LibraryTensor(z), some_labels).item()
print(f"difference of the losses: {abs(theirs - softmax_cross_entropy(z, some_labels)[0]):.1e}")
open_library(ops.softmax_cross_entropy)
open_library(SGD)

# %% [markdown]
# ## What stays
#
# - Logits become probabilities by the softmax; the loss is the mean of −ln p of the right classes.
# - Its gradient is p, minus 1 at the label. The first loss is ln C, if all logits are 0.
# - Take the largest logit away first, and never the logarithm of a probability.
# - Void is not a class: no loss, no gradient, no part in the mean.
# - Forward, loss, backward, step: ten lines, whatever the network.
# - A learning rate belongs to its loss: mean or sum.
#
# What this network sees of a pixel is where it lies. A segmenter has to see what is *around* it, and that is the next
# lesson.
#
# *Sources.* The loss, with void ignored, and SGD with momentum for segmentation: J. Long, E. Shelhamer and T.
# Darrell, "Fully convolutional networks for semantic segmentation" (2015), section 4. Softmax, its gradient and its
# rounding: I. Goodfellow, Y. Bengio and A. Courville, "Deep Learning" (2016), sections 4.1 and 6.2; momentum: section
# 8.3. Its origin: B. Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
