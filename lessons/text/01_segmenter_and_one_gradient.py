# %% [markdown]
# # 1. What a segmenter does; one number's gradient
#
# About 40 minutes. You need Python, NumPy, and to know what a derivative is.
#
# **The question.** A program looks at a picture and says of every pixel what it shows. Nobody has written rules into
# it. There are some 60,000 numbers in it, and a computer has found them. How can it know, for each of 60,000 numbers,
# in which direction to change it?

# %%
from course import begin, check, open_library, show_solution

begin(1)

# %% [markdown]
# This is FCN-8s, the segmenter that you will have built and trained by the end of lesson 12. A box becomes blue when
# what it computes is yours. Here is a much smaller one, at work on a picture that it has never seen.
#
# (Every picture has a description in words, for those who cannot see it: that is what `described(…)` fetches.)

# %%
import time

import numpy as np

from course.describing import described
from course.graphs import draw
from minifcn import Tensor, models, no_grad, ops, visualize
from minifcn.data import Shapes
from minifcn.training import label_pixels

shapes = Shapes("val")
picture, labels, _ = shapes[46]  # uint8 (H, W, 3) and (H, W)
# made in minutes by: python -m minifcn.train --recipe from-scratch --data shapes --model fcn-basic --width 16
#     --loss cross-entropy --class-weights none --steps 800 --batch-size 8 --lr 3e-3 --threads 1
segmenter = models.from_weights("models/first_segmenter.safetensors")
mask = label_pixels(segmenter, picture, segmenter.preprocessing)

sheet = visualize.contact_sheet(
    [picture, visualize.colorize(mask, shapes.palette), visualize.colorize(labels, shapes.palette)],
    ["the picture", "what the segmenter says", "what is right"],
    columns=3,
)
sheet = visualize.add_legend(sheet, shapes.classes, shapes.palette, np.unique(mask))
visualize.picture(
    sheet,
    alt=described(1, "masks"),
)

# %% [markdown]
# ## A class for every pixel
#
# This task is **semantic segmentation**: every pixel is to get a class, from a list that was fixed before. Here there
# are nine: background and eight kinds of shapes. The answer is a **mask**, an array as high and wide as the picture,
# whose entries are the numbers of classes. The colours are only for us. (The pale outlines on the right are pixels in
# which shape and ground mix. No answer is asked for there.)
#
# **Before you run the next cell:** it shows the numbers in a small part of the mask. Which numbers can occur? Can
# there be one between 1 and 2?

# %%
print(", ".join(f"{number} {name}" for number, name in enumerate(shapes.classes)))
visualize.matrices(
    {"a part of the mask, 14 by 18 pixels": mask[66:80, 45:63]},
    alt=described(1, "part of a mask"),
)

# %% [markdown]
# Class numbers are names, not amounts. Half-way between a disc (1) and a ring (3) there is no triangle (2), so nobody
# may average masks, or blur them when they are enlarged: each pixel takes the class of the nearest. Pictures are
# amounts of light, and are interpolated. Some write-ups treat both alike, and take the nearest pixel of the picture
# too, which only makes it ragged.
#
# "Semantic" means by kind: two discs that touch are one region of discs. To tell one disc from the other is a different
# task, instance segmentation.

# %% [markdown]
# ## Sixty thousand numbers
#
# How does the segmenter do it? It is a long formula, of additions and multiplications mostly. The pixels' brightness
# goes in, and for each pixel nine numbers come out, its scores, one for each class; the class of the largest is the
# answer. The other numbers in the formula are called **weights**. They were random at first, and then a computer has
# changed them, little by little, so that the masks became right. This is called training, and such a formula with
# weights is called a **network**.

# %%
count = sum(array.size for array in segmenter.parameters() if array.requires_grad)
judged = labels != 255  # all but the outlines
print(f"{count:,} weights")
print(f"{np.mean(mask[judged] == labels[judged]):.1%} of the pixels of this picture are right")

# %% [markdown]
# To improve something little by little one must be able to tell better from worse. So we need one number that says how
# wrong the mask is: the **loss**. It is small when the right class has by far the largest score at every pixel, and
# grows the less that is so. Lesson 5 says how this one is computed. Here it is enough that it can be.
#
# Now take a single one of the weights, turn it up and down, leave all others as they are, and watch the loss.
#
# **Before you run this:** what will the curve look like, and where on it is the value that training has found?


# %%
def compute_loss():
    """How wrong the segmenter is on this picture. Lessons 3 and 5 explain these lines."""
    scores = segmenter(Tensor(segmenter.preprocessing.apply(picture)[None]))
    return ops.softmax_cross_entropy(scores, labels[None])


first_weights, place = segmenter.conv1.weight.data, (3, 1, 3, 3)
found = float(first_weights[place])


def loss_at(value):
    """The loss with another value of this one weight."""
    first_weights[place] = value
    with no_grad():  # only compute, and take no notes for later
        loss = compute_loss().item()
    first_weights[place] = found
    return loss


values = found + np.linspace(-1, 1, 41)
visualize.lines(
    {"the loss": (values, [loss_at(value) for value in values])},
    points={"what training has found": ([found], [loss_at(found)])},
    x_label="one of the weights",
    y_label="the loss on this picture",
    alt=described(1, "valley"),
)

# %% [markdown]
# A valley. Training has brought this weight near its bottom. Not exactly there: it was trained on 4,000 other pictures,
# and each has a valley of its own.
#
# If you stood somewhere on the slope with your eyes closed, you would find the way down: feel which way the ground
# falls, and take a step. What you feel is the derivative of the loss with respect to this weight. It says the direction
# (negative: a larger weight makes the loss smaller) and how much it matters. The derivatives for all weights together
# are the **gradient** of the loss. The one for a single weight is called the gradient of that weight, too.
#
# ## The long way
#
# Derivatives can be measured. Turn the weight a little up, then a little down, and see what that does to the loss:
#
# $$\text{slope} \approx \frac{L(w + h) - L(w - h)}{2h}$$
#
# That takes two evaluations for each weight, and one evaluation takes some hundredths of a second. **Predict:** how
# long for all 60,000 weights?

# %%
started = time.perf_counter()
step = 0.01
measured = (loss_at(found + step) - loss_at(found - step)) / (2 * step)
seconds_one = time.perf_counter() - started
print(f"the slope of one weight, measured: {measured:.4f}, in {1000 * seconds_one:.0f} ms")
print(f"for all weights that makes {count * seconds_one / 60:.0f} minutes")

# %% [markdown]
# And this for a single small step, with one picture, where training takes thousands of steps. Now the way that you will
# have understood after three lessons, and which your own code will take from then on:

# %%
started = time.perf_counter()
compute_loss().backward()
seconds_all = time.perf_counter() - started
print(f"the same slope, computed: {segmenter.conv1.weight.grad[place]:.4f}")
print(f"with those of all other {count - 1:,} weights, in {1000 * seconds_all:.0f} ms,")
print(f"as long as measuring {seconds_all / seconds_one:.1f} of them")

# %% [markdown]
# All slopes at once, in the time that it takes to measure a few. What is the trick?

# %% [markdown]
# ## Something small enough to see through
#
# Let us take the smallest segmenter there is. It looks at one pixel only, at its brightness x, and is to answer with
# a number y: +1 for shape, −1 for background. It has two weights, w and b (b, which is only added, is also called the
# **bias**):
#
# $$y = \tanh(w \cdot x + b) \qquad\qquad \text{loss} = (y - \text{wanted})^2$$
#
# It needs a function that makes every number one between −1 and 1, and tanh does this: it is steep around 0, and flat
# where the answer is clear.
#
# $$\tanh(x) = \frac{e^x - e^{-x}}{e^x + e^{-x}}$$


# %%
def tanh_as_written(x):
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


x = np.linspace(-4, 4, 81)
visualize.lines(
    {"tanh(x)": (x, tanh_as_written(x))},
    x_label="x",
    y_label="tanh(x)",
    alt=described(1, "tanh"),
)

# %% [markdown]
# **Before you run the next cell:** what is tanh(1000), to a few digits? And what will the function above say?

# %%
with np.errstate(all="ignore"):  # without this line, NumPy would warn
    print(tanh_as_written(1000.0))

# %% [markdown]
# e¹⁰⁰⁰ is larger than any number that the computer can hold; it becomes ∞, and ∞/∞ is "not a number". Numbers within
# a segmenter do become large now and then, and a single nan spoils everything after it. So formulas are rearranged
# until nothing can become too large. Multiply numerator and denominator by e⁻ˣ:
#
# $$\tanh(x) = \frac{1 - e^{-2x}}{1 + e^{-2x}}$$
#
# For x ≥ 0 the exponential now lies between 0 and 1. And tanh(−x) = −tanh(x) does the other half.
#
# ## Exercise 1: tanh
#
# `tanh(x)` of a number, or of each entry of an array of any shape. It never becomes nan.
#
# 1. Compute e^(−2|x|), with `np.exp` and `np.abs`.
# 2. From this, tanh(|x|).
# 3. Give it the sign of x: `np.sign` is −1, 0 or 1.


# %% tags=["exercise"]
def tanh(x):
    """(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), of a number or of each entry of an array."""
    raise NotImplementedError


# %%
tanh = check(tanh)

# %%
show_solution("tanh")

# %% [markdown]
# ## Forward
#
# Take a pixel of brightness 0.8 that belongs to a shape, so that 1 is wanted. The weights are w = 0.5 and b = −0.2.
# Computing the loss from them, step by step, is the **forward pass**.

# %%
x, wanted = 0.8, 1.0
w, b = 0.5, -0.2

product = w * x
total = product + b
y = tanh(total)
difference = y - wanted
loss = difference**2

made_from = {
    "product": ["w", "x"],
    "total": ["product", "b"],
    "y": ["total"],
    "difference": ["y", "wanted"],
    "loss": ["difference"],
}
numbers = {
    "w": w,
    "x": x,
    "b": b,
    "product": product,
    "total": total,
    "y": y,
    "difference": difference,
    "wanted": wanted,
    "loss": loss,
}
draw(
    "loss",
    parents=lambda name: made_from.get(name, ()),
    label=lambda name: f"{name}\n{numbers[name]:.4g}",
    alt=described(1, "forward"),
)

# %% [markdown]
# **Predict:** if w goes up by 0.001, by how much will the loss change? Follow the change through the boxes:
#
# - the product is w · x, so it changes x = 0.8 times as much as w;
# - the total changes exactly as much as the product: 1 times;
# - y = tanh(total) changes tanh′(total) times as much;
# - the difference changes exactly as much as y: 1 times;
# - the loss, difference², changes 2 · difference times as much.
#
# Each step needs to know only itself: its own slope, at the numbers that have just passed through it. And factors that
# follow one another are multiplied. That is the **chain rule**:
#
# $$\frac{dL}{dw} = \underbrace{2 \cdot \text{difference}}_{\text{square}} \cdot \underbrace{1}_{\text{minus}} \cdot
# \underbrace{\tanh'(\text{total})}_{\text{tanh}} \cdot \underbrace{1}_{\text{plus}} \cdot
# \underbrace{x}_{\text{times}}$$
#
# Only tanh′ is missing. With the rule for a quotient, s = eˣ − e⁻ˣ and c = eˣ + e⁻ˣ (so s′ = c and c′ = s):
#
# $$\tanh' = \left(\frac{s}{c}\right)' = \frac{s'c - s c'}{c^2} = \frac{c^2 - s^2}{c^2} = 1 - \tanh^2$$
#
# How convenient: the forward pass has already computed y = tanh(x), so the slope is 1 − y², without another
# exponential.
#
# ## Exercise 2: the way back through tanh
#
# Somebody behind tanh has already found out how the loss changes with y: this number is `grad`, dL/dy. Your function
# is to say how the loss changes with what went *into* tanh.
#
# 1. The slope of tanh, from y.
# 2. The chain rule: times grad.
#
# **Check it in your head first:** what must come out for y = 0, and what for y very near 1?


# %% tags=["exercise"]
def tanh_backward(grad, y):
    """dL/dx from grad = dL/dy and y = tanh(x)."""
    raise NotImplementedError


# %%
tanh_backward = check(tanh_backward)

# %%
show_solution("tanh_backward")

# %% [markdown]
# At y = 0 tanh is steepest: grad passes on as it is. Near y = 1 tanh is flat, whatever you change before it: hardly
# anything passes.
#
# ## Backward
#
# Now the bookkeeping. Begin at the loss, whose slope with respect to itself is 1. Go from box to box, against the
# arrows, and multiply by the slope of each step. Write beside each number how the loss changes with it. This is the
# **backward pass**.

# %%
grad_loss = 1.0
grad_difference = grad_loss * 2 * difference
grad_y = grad_difference * 1
grad_total = tanh_backward(grad_y, y)
grad_product, grad_b = grad_total * 1, grad_total * 1
grad_w = grad_product * x

gradients = {
    "loss": grad_loss,
    "difference": grad_difference,
    "y": grad_y,
    "total": grad_total,
    "product": grad_product,
    "b": grad_b,
    "w": grad_w,
}
draw(
    "loss",
    parents=lambda name: made_from.get(name, ()),
    label=lambda name: f"{name}\n{numbers[name]:.4g}" + (f"\nslope {gradients[name]:.4g}" if name in gradients else ""),
    row_height=1.0,
    alt=described(1, "backward"),
)

# %% [markdown]
# (x and wanted have slopes as well. Nobody is going to change them, so nobody needs them.)
#
# Is it right? Measure:


# %%
def loss_of(w, b):
    return (tanh(w * x + b) - wanted) ** 2


h = 1e-5
print(f"w: computed {grad_w:.6f}, measured {(loss_of(w + h, b) - loss_of(w - h, b)) / (2 * h):.6f}")
print(f"b: computed {grad_b:.6f}, measured {(loss_of(w, b + h) - loss_of(w, b - h)) / (2 * h):.6f}")

# %% [markdown]
# Both are negative: make w and b larger, and the loss becomes smaller. Of course: y is 0.2, and 1 is wanted. And to
# the prediction above: if w goes up by 0.001, the loss changes by −1.234 · 0.001, so it falls by about 0.0012.
#
# And now the trick. The factors up to `grad_total` were computed once, and then used for w *and* for b. In a
# segmenter with 60,000 weights it is the same: the backward pass goes through each step once, however many weights
# lie behind it. That is why all slopes together cost about as much as a few forward passes, while measuring needs two
# for *each* weight.
#
# > "Backpropagation" is just this bookkeeping: the chain rule, from the loss backward. Many write-ups use the word for
# > the whole of learning. But what to do with the gradient (how large a step, and which way) is another matter, and
# > comes in lesson 5. Here is a first taste.

# %% [markdown]
# ## Four numbers that make a mask
#
# The colour of a pixel is three numbers, red, green and blue. So give the small segmenter three weights, one for
# each, and b. Start with zeros. For all pixels of a picture: forward pass, backward pass, and then each of the four
# numbers takes a small step down its slope. Again and again.
#
# All pixels use the same four numbers, so each pixel has a slope to contribute, and these are added up. (Lesson 2 says
# why; the matrix product `inputs.T @ …` is a sum over pixels.)
#
# **Before you run this:** what can a segmenter find that sees only the colour of a single pixel? What not?

# %%
study, study_labels, _ = shapes[28]
colours, answers = study.reshape(-1, 3) / 255 - 0.5, study_labels.reshape(-1)  # (H, W, 3) -> (pixels, 3)
judged = answers != 255  # all but the outlines
inputs, wanted = colours[judged], np.where(answers[judged] > 0, 1.0, -1.0)  # 1: any shape

weights, b = np.zeros(3), 0.0
step = 1.0  # how far to go for a slope of 1; lesson 5 has more to say about it
losses = []
for _ in range(300):
    y = tanh(inputs @ weights + b)  # forward: (pixels, 3) @ (3,) -> (pixels,)
    difference = y - wanted
    losses.append(np.mean(difference**2))
    grad_y = 2 * difference / len(wanted)  # backward
    grad_total = tanh_backward(grad_y, y)
    weights = weights - step * inputs.T @ grad_total  # (3, pixels) @ (pixels,) -> (3,)
    b = b - step * grad_total.sum()

print(f"red {weights[0]:.2f}, green {weights[1]:.2f}, blue {weights[2]:.2f}, b {b:.2f}")
print(f"{np.mean((y > 0) == (wanted > 0)):.1%} of the pixels are right; {np.mean(wanted < 0):.1%} are background")
visualize.lines(
    {"the loss": (np.arange(300), losses)},
    x_label="steps",
    y_label="loss, the mean over the pixels",
    alt=described(1, "four numbers learn"),
)

# %%
by_colour = (tanh(colours @ weights + b) > 0).reshape(study_labels.shape)
truth = np.where(study_labels == 255, 255, study_labels > 0)
sheet = visualize.contact_sheet(
    [study, visualize.colorize(by_colour, shapes.palette), visualize.colorize(truth, shapes.palette)],
    ["the picture", "by colour alone", "what is right"],
    columns=3,
)
visualize.picture(
    sheet,
    alt=described(1, "by colour"),
)


# %%
def share_right(picture, labels):
    """How many of the judged pixels the four numbers get right."""
    found = (picture / 255 - 0.5) @ weights + b > 0  # tanh has the sign of what goes in
    return np.mean((found == (labels > 0))[labels != 255])


others = [shapes[index] for index in range(60, 80)]
print(f"on 20 other pictures: {np.mean([share_right(image, truth) for image, truth, _ in others]):.1%}")
print(f"background alone: {np.mean([np.mean(truth[truth != 255] == 0) for _, truth, _ in others]):.1%}")

# %% [markdown]
# Four numbers, found by going downhill. Nobody has told them which colours shapes have. The blue star is missing: blue
# counts against being a shape here, because the ground is bluer than most shapes. And what they have learned holds for
# this picture only: on others they do worse than calling everything background.
#
# Besides, they know nothing of outlines and neighbours, and could never tell a disc from a star. For this, the answer
# for a pixel must depend on the pixels around it. That begins in lesson 6, and takes sixty thousand numbers instead
# of four. The way to find them stays the same.
#
# ## The same in the library
#
# Open the library's tanh. You will find your two functions in one class: `forward`, which keeps y for later, and
# `backward`, which uses it.

# %%
from minifcn.ops.elementwise import Tanh

open_library(Tanh)

# %% [markdown]
# ## What stays
#
# - A segmenter answers with a mask: for every pixel the number of a class.
# - The loss is one number for how wrong it is; the gradient says how the loss changes with each weight.
# - Each step of a computation knows its own slope. The chain rule multiplies them: that is bookkeeping.
# - Backward, from the loss to the weights, every slope is computed once and serves all weights behind it.
#
# Here the books were kept by hand, along a chain in which every number was used once. In the next lesson the computer
# keeps them; and a number that is used twice makes trouble.
#
# *Sources.* J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic segmentation" (2015),
# sections 1 and 3. The backward pass: D. Rumelhart, G. Hinton and R. Williams, "Learning representations by
# back-propagating errors" (Nature 323, 1986). On the word backpropagation: I. Goodfellow, Y. Bengio and A. Courville,
# "Deep Learning" (2016), section 6.5. On tanh: Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient BackProp"
# (1998).
