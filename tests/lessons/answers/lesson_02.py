"""Answers to the exercise of lesson 2 as learners might write them."""

from collections import deque


def right_depth_first(root, grad):
    order, entered, stack = [], set(), [(root, False)]
    while stack:
        number, done = stack.pop()
        if done:
            order.append(number)
        elif number not in entered:
            entered.add(number)
            number.grad = 0
            stack.append((number, True))
            for parent in number.parents:
                stack.append((parent, False))
    root.grad = grad
    for number in order[::-1]:
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = parent.grad + part


def right_with_queues(root, grad):
    uses = {}
    queue, met = deque([root]), [root]
    seen = {id(root)}
    while queue:
        number = queue.popleft()
        for parent in number.parents:
            uses[id(parent)] = uses.get(id(parent), 0) + 1
            if id(parent) not in seen:
                seen.add(id(parent))
                met.append(parent)
                queue.append(parent)
    for number in met:
        number.grad = None
    root.grad = grad
    queue.append(root)
    while queue:
        number = queue.popleft()
        if number.pass_back is None:
            continue
        parts = list(number.pass_back(number.grad))
        for i in range(len(parts)):
            parent = number.parents[i]
            if parent.grad is None:
                parent.grad = parts[i]
            else:
                parent.grad = parent.grad + parts[i]
            uses[id(parent)] -= 1
            if not uses[id(parent)]:
                queue.append(parent)


def right_kept_in_a_dictionary(root, grad):
    """Gradients in a dictionary, written to the nodes at the end."""
    order, entered, stack = [], set(), [(root, False)]
    while stack:
        number, done = stack.pop()
        if done:
            order.append(number)
        elif number not in entered:
            entered.add(number)
            stack.append((number, True))
            stack.extend((parent, False) for parent in number.parents)
    grads = {root: grad}
    for number in reversed(order):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(grads[number]), strict=True):
                grads[parent] = grads[parent] + part if parent in grads else part
    for number, value in grads.items():
        number.grad = value


def obvious(root, grad):
    root.grad = grad if root.grad is None else root.grad + grad
    if root.parents:
        for parent, part in zip(root.parents, root.pass_back(root.grad), strict=True):
            obvious(parent, part)


def every_way(root, grad):
    root.grad = grad if root.grad is None else root.grad + grad
    if root.parents:
        for parent, part in zip(root.parents, root.pass_back(grad), strict=True):
            every_way(parent, part)


def recursive_order(root, grad):
    order, entered = [], set()

    def visit(number):
        if number not in entered:
            entered.add(number)
            for parent in number.parents:
                visit(parent)
            number.grad = None
            order.append(number)

    visit(root)
    root.grad = grad
    for number in reversed(order):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part if parent.grad is None else parent.grad + part


def _walk(root, grad, take):
    """Each node when it is first met."""
    waiting, met = [root], {root}
    root.grad = grad
    while waiting:
        number = waiting.pop(take)
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                if parent in met:
                    parent.grad = parent.grad + part
                else:
                    parent.grad = part
                    met.add(parent)
                    waiting.append(parent)


def breadth_first(root, grad):
    _walk(root, grad, 0)


def depth_first(root, grad):
    _walk(root, grad, -1)


def _in_order(root):
    order, entered, stack = [], set(), [(root, False)]
    while stack:
        number, done = stack.pop()
        if done:
            order.append(number)
        elif number not in entered:
            entered.add(number)
            stack.append((number, True))
            stack.extend((parent, False) for parent in number.parents)
    return order[::-1]


def overwrites(root, grad):
    root.grad = grad
    for number in _in_order(root):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part


def adds_in_place(root, grad):
    order = _in_order(root)
    for number in order:
        number.grad = None
    root.grad = grad
    for number in order:
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                if parent.grad is None:
                    parent.grad = part
                else:
                    parent.grad += part


def forgets_to_clear(root, grad):
    root.grad = grad
    for number in _in_order(root):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part if parent.grad is None else parent.grad + part


def begins_with_one(root, grad):
    order = _in_order(root)
    for number in order:
        number.grad = 0.0
    root.grad = 1.0
    for number in order:
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = parent.grad + part


def only_one_step(root, grad):
    root.grad = grad
    for parent in root.parents:
        parent.grad = None
    for parent, part in zip(root.parents, root.pass_back(grad) if root.parents else (), strict=True):
        parent.grad = part if parent.grad is None else parent.grad + part


def asks_leaves(root, grad):
    root.grad = grad
    for number in _in_order(root):
        for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
            parent.grad = part if parent.grad is None else parent.grad + part


def adds_to_none(root, grad):
    root.grad = grad
    for number in _in_order(root):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad += part


def from_the_wrong_end(root, grad):
    root.grad = grad
    for number in reversed(_in_order(root)):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part if parent.grad is None else parent.grad + part


def counts_each_parent_once(root, grad):
    missing, found = {root: 0}, [root]
    root.grad = grad
    while found:
        number = found.pop()
        for parent in set(number.parents):
            if parent not in missing:
                missing[parent], parent.grad = 0, None
                found.append(parent)
            missing[parent] += 1
    ready = [root]
    while ready:
        number = ready.pop()
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part if parent.grad is None else parent.grad + part
                missing[parent] -= 1
                if missing[parent] == 0:
                    ready.append(parent)


def counts_too_many(root, grad):
    missing, found = {root: 0}, [root]
    while found:
        number = found.pop()
        for parent in number.parents:
            if parent not in missing:
                missing[parent] = 1
                parent.grad = None
                found.append(parent)
            missing[parent] += 1
    root.grad = grad
    ready = [root]
    while ready:
        number = ready.pop()
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(number.grad), strict=True):
                parent.grad = part if parent.grad is None else parent.grad + part
                missing[parent] -= 1
                if missing[parent] == 0:
                    ready.append(parent)


def counts_from_nothing(root, grad):
    missing, found = {}, [root]
    while found:
        for parent in found.pop().parents:
            missing[parent] += 1
            found.append(parent)


def passes_back_the_argument(root, grad):
    for number in _in_order(root):
        number.grad = 0
    root.grad = grad
    for number in _in_order(root):
        if number.parents:
            for parent, part in zip(number.parents, number.pass_back(grad), strict=True):
                parent.grad = parent.grad + part


def counts_arrows_of_each_visit(root, grad):
    """A parent is put on the list each time it is met, so what lies behind it is counted again."""
    missing, found = {}, [root]
    while found:
        for parent in found.pop().parents:
            missing[parent] = missing.get(parent, 0) + 1
            parent.grad = None
            found.append(parent)
    root.grad, ready = grad, [root]
    while ready:
        number = ready.pop()
        for parent, part in zip(number.parents, number.pass_back(number.grad) if number.parents else (), strict=True):
            parent.grad = part if parent.grad is None else parent.grad + part
            missing[parent] -= 1
            if missing[parent] == 0:
                ready.append(parent)


CORRECT = {"backward_pass": [right_depth_first, right_with_queues, right_kept_in_a_dictionary]}
WRONG = {
    "backward_pass": [
        (obvious, "b has passed its gradient back 2 times (1, 2)"),
        (every_way, "the numbers are right, but b has passed its gradient back 2 times"),
        (recursive_order, "use a loop and a list"),
        (breadth_first, "before all parts had arrived"),
        (depth_first, "before all parts had arrived"),
        (overwrites, "only the last is kept"),
        (adds_in_place, "`a.grad = a.grad + part` makes a new one"),
        (forgets_to_clear, "the gradients of the first call are still in there"),
        (begins_with_one, "it is to be `grad`"),
        (only_one_step, "has not passed it back"),
        (asks_leaves, "a leaf was asked to pass back"),
        (adds_to_none, "take the first part as it is"),
        (from_the_wrong_end, "before anything had arrived"),
        (counts_each_parent_once, "before all parts had arrived"),
        (counts_too_many, "has not passed it back"),
        (counts_from_nothing, "KeyError: b."),
        (passes_back_the_argument, "the argument `grad`"),
        (counts_arrows_of_each_visit, "has an arrow been counted twice"),
    ],
}
