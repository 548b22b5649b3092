# %% [markdown]
# # 2. The order of the graph
#
# About 60 minutes. You need lesson 1: the chain rule, forward pass and backward pass.
#
# **The question.** In lesson 1 every number was used once, and the way back was a chain. Now let b = a + a and
# c = b + b. Then c = 4a, so the slope of c along a is 4. Can bookkeeping find this 4, without anybody simplifying the
# formula first?

# %%
from course import begin, check, open_library, show_solution

begin(2)

# %% [markdown]
# ## A number that remembers
#
# If the computer is to keep the books, each number must know what it was made from. So put it into an object with four
# entries:
#
# - `data`: the number itself;
# - `parents`: the numbers it was made from;
# - `pass_back`: a function that does one step of the backward pass: from the gradient of this number to those of its
#   parents, one for each;
# - `grad`: the place for its own gradient. It is None until something arrives.
#
# A sum passes its gradient on to both parents as it is. A product x · y passes grad · y to x and grad · x to y. With
# `__add__` and `__mul__`, Python does it whenever we write + and *.

# %%
import time

from course import graphs
from course.describing import described
from course.mine import tanh, tanh_backward


class Number:
    """A number that knows what it was made from."""

    def __init__(self, data, parents=(), pass_back=None):
        self.data = data
        self.parents = parents
        self.pass_back = pass_back
        self.grad = None

    def __add__(self, other):
        return Number(self.data + other.data, (self, other), lambda grad: (grad, grad))

    def __mul__(self, other):
        return Number(self.data * other.data, (self, other), lambda grad: (grad * other.data, grad * self.data))


def draw(root, names, alt):
    """The numbers behind root, with their gradients, if they have some."""

    def label(number):
        return f"{names[number]}\n{number.data:.4g}" + ("" if number.grad is None else f"\ngrad {number.grad:.4g}")

    return graphs.draw(root, parents=lambda number: number.parents, label=label, alt=alt, row_height=1.0)


# %% [markdown]
# The numbers, with an arrow from each to what was made from it, are a **graph**; the numbers are its nodes. A node
# without parents, such as an input or a weight, is a **leaf** of the graph. Here are our a, b and c, with a = 3.

# %%
a = Number(3.0)
b = a + a
c = b + b
draw(
    c,
    {a: "a", b: "b", c: "c"},
    alt=described(2, "doubled twice"),
)

# %% [markdown]
# There are two arrows from a to b: a is used twice.
#
# **Do the bookkeeping by hand, before you read on.** c has the gradient 1. What does it pass back to b, along each of
# the two arrows? And b to a?
#
# <details><summary>Answer</summary>
#
# c passes back 1 along each arrow. If b grows a little, c grows by that much through the first arrow *and* by that much
# through the second: the effects add up, so the gradient of b is 1 + 1 = 2. Then b passes back 2 along each of its two
# arrows, and the gradient of a is 2 + 2 = 4.
# </details>
#
# So this is the rule for a number that is used more than once: **its gradient is the sum of all parts that come back to
# it.** (In lesson 1 all pixels used the same four numbers. That is why their slopes were added.)

# %% [markdown]
# ## The obvious program
#
# Whoever receives something adds it to the gradient, and passes on the gradient to the parents, who do the same.
#
# **Before you run this:** what will it give for a? Go through it step by step. The 4 that we want?


# %%
def obvious(number, grad):
    """Add what arrives, and pass on."""
    number.grad = grad if number.grad is None else number.grad + grad
    if number.parents:
        for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
            obvious(parent, part)


obvious(c, 1.0)
print(f"c {c.grad}, b {b.grad}, a {a.grad}")

# %% [markdown]
# 6! What happened:
#
# 1. c has 1, and passes 1 to b along the first arrow.
# 2. b has 1, and passes on 1 and 1. Now a has 2.
# 3. c passes 1 to b along the second arrow. Now b has 2.
# 4. b passes on 2 and 2. Now a has 2 + 4 = 6.
#
# The 1 that arrived at b first has been passed on twice: in step 2, and again as a part of the 2 in step 4.
#
# ## A repair that is right, and useless
#
# Then let everybody pass on only what has *just* arrived. The function also counts its calls.


# %%
def every_way(number, grad):
    """Add what arrives, and pass on only that; returns the number of calls."""
    number.grad = grad if number.grad is None else number.grad + grad
    calls = 1
    if number.parents:
        for parent, part in zip(number.parents, number.pass_back(grad), strict=True):
            calls += every_way(parent, part)
    return calls


def doublings(count):
    """A leaf, and what becomes of it if it is doubled so many times."""
    leaf = number = Number(1.0)
    for _ in range(count):
        number = number + number
    return leaf, number


leaf, root = doublings(2)
calls = every_way(root, 1.0)
print(f"two doublings: the gradient is {leaf.grad}, after {calls} calls")

# %% [markdown]
# 4 is right. The function goes along each way from c to a separately, and there are four.
#
# **Predict:** how many ways are there with 16 doublings? And with 60?

# %%
for count in (4, 8, 12, 16):
    leaf, root = doublings(count)
    started = time.perf_counter()
    calls = every_way(root, 1.0)
    seconds = time.perf_counter() - started
    print(f"{count} doublings: gradient {leaf.grad:.0f}, {calls:,} calls, {1000 * seconds:.1f} ms")
years = seconds * 2 ** (60 - 16) / (3600 * 24 * 365)
print(f"at this speed, 60 doublings would take {years:,.0f} years")

# %% [markdown]
# With each doubling twice as many ways, and 60 additions are a tiny graph. In a segmenter each pixel of the answer
# depends on many pixels of the picture, and on each of them along many ways.
#
# ## Wait until everything has arrived
#
# The way out: a number waits until all parts of its gradient have arrived, and only then passes back, once. For this,
# the numbers must take turns in the right order: each after all those that were made from it.
#
# An order in which each number comes after its parents is called a **topological order** of the graph. The forward pass
# goes through it from the beginning, the backward pass from the end.
#
# Here is a graph to practise on: p = x · w, q = p + x, y = p · q.

# %%
x, w = Number(2.0), Number(3.0)
p = x * w
q = p + x
y = p * q
names = {x: "x", w: "w", p: "p", q: "q", y: "y"}
draw(
    y,
    names,
    alt=described(2, "practice"),
)

# %% [markdown]
# **Think first:** in which order must y, p and q pass back? What goes wrong if p comes before q? What are the
# gradients?
#
# <details><summary>Answer</summary>
#
# y, then q, then p. Two arrows leave p, to q and to y, so two parts come back to it. If p passed back before q, the
# part that comes by way of q would be missing.
#
# With the gradient 1 for y: q gets 1 · p = 6. p gets 1 · q = 8 from y and 6 from q, together 14. w gets 14 · x = 28. x
# gets 14 · w = 42 from p and 6 from q, together 48.
# </details>
#
# And how does a program find the order? By counting. **As many arrows as leave a number, so many parts must arrive.**
# In the graph above: none for y, 1 for q, 2 for p, 2 for x, 1 for w.
#
# - First walk: go through everything behind y, along all arrows, and count for each number the arrows that leave it.
# - Second walk: y misses nothing, so it is ready. Whoever is ready passes back. Each part is added to its parent's
#   gradient, and the parent now misses one part fewer. When it misses none, it is ready too.

# %% [markdown]
# ## Not by recursion
#
# One thing more. Both functions above call themselves, once for each step of the way. A graph is as deep as the
# computation was long, and Python does not let calls get deeper than a thousand or so.

# %%
one = Number(1.0)
deep = one
for _ in range(10_000):
    deep = deep + one
try:
    every_way(deep, 1.0)
except RecursionError as error:
    print(f"RecursionError: {error}")

# %% [markdown]
# Instead of calling oneself, one keeps a list of what is still to be done:
#
# ```python
# found = [root]
# while found:
#     number = found.pop()
#     ...                   # do something with it; append to found what it leads to
# ```
#
# ## Exercise: backward_pass
#
# `backward_pass(root, grad)` gives root the gradient `grad`, and each number behind it the sum of the parts that come
# back to it. It returns nothing: the results are in `.grad`.
#
# 1. First walk, with a list as above. Count in a dictionary, such as `missing`, how many parts each number misses. A
#    number can be a key: `missing[parent]`. Append a parent to the list only when you meet it for the first time. Set
#    its `.grad` to None then: what is left in there from an earlier backward pass is to be forgotten.
# 2. Give root its gradient.
# 3. Second walk, with a list of numbers that are ready. At first it holds only root.
# 4. Who is ready passes back: `number.pass_back(number.grad)` gives one part for each of its parents. A leaf has no
#    parents (and its pass_back is None).
# 5. Add each part to its parent's gradient; the first one is taken as it is. Write `x.grad = x.grad + part`, not
#    `x.grad += part`. For numbers this is the same. But from the next lesson on gradients are arrays, and then `+=`
#    would change an array that other numbers hold as well: a sum passes the very same array to both of its parents.
# 6. Count down, and if nothing is missing any more, the parent is ready.


# %% tags=["exercise"]
def backward_pass(root, grad):
    """Give `root` the gradient `grad`, and everything behind it the sum of what comes back to it on all ways."""
    raise NotImplementedError


# %%
backward_pass = check(backward_pass)

# %%
show_solution("backward_pass")

# %% [markdown]
# ## What it does with the three difficulties

# %%
backward_pass(c, 1.0)
print(f"b = a + a, c = b + b: the gradient of a is {a.grad}")

leaf, root = doublings(60)
started = time.perf_counter()
backward_pass(root, 1.0)
print(f"60 doublings: {leaf.grad:.0f}, in {1000 * (time.perf_counter() - started):.2f} ms")

started = time.perf_counter()
backward_pass(deep, 1.0)
print(f"10,000 additions in a row: {one.grad:.0f}, in {1000 * (time.perf_counter() - started):.0f} ms")

# %% [markdown]
# (10,001, because the first summand counts as well.) Each number passes back once, so the backward pass takes about as
# many steps as the forward pass.

# %%
backward_pass(y, 1.0)
draw(
    y,
    names,
    alt=described(2, "practice with gradients"),
)

# %% [markdown]
# ## The books of lesson 1, kept by the computer
#
# The smallest segmenter again: y = tanh(w · x + b), loss = (y − wanted)². tanh is a step like any other, with your two
# functions. For the square we need no new step: it is the difference times itself.
#
# **Predict:** the difference is −0.8026 here. What comes back to it along each of the two arrows, and what is the
# sum? Which rule for the square do you recognise?


# %%
def tanh_of(number):
    y = tanh(number.data)
    return Number(y, (number,), lambda grad: (tanh_backward(grad, y),))


x, w, b, minus_wanted = Number(0.8), Number(0.5), Number(-0.2), Number(-1.0)
product = w * x
total = product + b
y = tanh_of(total)
difference = y + minus_wanted
loss = difference * difference
backward_pass(loss, 1.0)
names = {
    x: "x",
    w: "w",
    b: "b",
    minus_wanted: "−wanted",
    product: "product",
    total: "total",
    y: "y",
    difference: "difference",
    loss: "loss",
}
draw(
    loss,
    names,
    alt=described(2, "books of lesson 1"),
)

# %% [markdown]
# −1.234 for w and −1.543 for b, as in lesson 1. Each of the two arrows brings −0.8026 to the difference, together
# 2 · difference: the derivative of a square has come out by itself.
#
# From now on nobody needs to derive a formula for a whole segmenter. It is enough to know, for each kind of step, how a
# gradient passes back through it. The rest is your `backward_pass`.

# %% [markdown]
# ## The same in the library
#
# The library's backward pass is in the first function, and the order in the second. It finds the order in another
# way: it goes as deep as it can, and writes down each node when it is done with all of its parents. What is written
# down, read from the end, is the order wanted. (PyTorch's engine counts, as you have done.) Gradients are in a
# dictionary there, and nodes forget what they have saved as soon as they have passed back, which frees memory.

# %%
from minifcn.autograd import tensor

open_library(tensor.backpropagate)
open_library(tensor._reverse_topological)

# %% [markdown]
# ## What stays
#
# - A computation is a graph. Each node needs to know only its parents and its own way back.
# - Used more than once: the parts that come back are added.
# - A node passes back once, when all parts have arrived: in topological order, from the end.
# - No recursion: graphs are deep.
#
# Where write-ups and small engines go wrong: some find the order by a function that calls itself, as micrograd does,
# and stop at graphs about a thousand deep. Some pass on whatever arrives. And in many, PyTorch among them, gradients
# of an earlier backward pass stay and are added to unless one clears them, which surprises people at the second call.
#
# A picture has some ten thousand pixels, and one object for each number would be far too slow. In the next lesson a
# node of the graph holds a whole array.
#
# *Sources.* The order by counting: A. B. Kahn, "Topological sorting of large networks" (Communications of the ACM 5,
# 1962). The backward pass through a graph, which is called reverse mode or reverse accumulation there: A. Griewank and
# A. Walther, "Evaluating Derivatives" (2nd edition, 2008); A. Baydin, B. Pearlmutter, A. Radul and J. Siskind,
# "Automatic differentiation in machine learning: a survey" (2018).
