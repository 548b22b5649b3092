def backward_pass(root, grad):
    """Give `root` the gradient `grad`, and everything behind it the sum of what comes back to it on all ways."""
    root.grad = grad
    missing = {root: 0}  # how many parts of each gradient have not yet arrived
    found = [root]
    while found:
        node = found.pop()
        for parent in node.parents:
            if parent not in missing:
                missing[parent], parent.grad = 0, None
                found.append(parent)
            missing[parent] += 1
    ready = [root]
    while ready:
        node = ready.pop()
        parts = node.pass_back(node.grad) if node.parents else ()
        for parent, part in zip(node.parents, parts, strict=True):
            parent.grad = part if parent.grad is None else parent.grad + part
            missing[parent] -= 1
            if missing[parent] == 0:
                ready.append(parent)
