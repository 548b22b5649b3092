import numpy as np


def gradcheck(function, backward, inputs, generator):
    """Whether backward(grad, *inputs) -> (one gradient for each input) belongs to function(*inputs) -> array."""
    eps = 1e-6
    v = generator.normal(size=function(*inputs).shape)  # the cotangent
    for position, gradient in enumerate(backward(v, *inputs)):
        x = inputs[position]
        if np.shape(gradient) != x.shape:
            return False
        for _ in range(3):
            u = generator.normal(size=x.shape)  # a direction
            ahead, behind = list(inputs), list(inputs)
            ahead[position], behind[position] = x + eps * u, x - eps * u
            measured = (v * (function(*ahead) - function(*behind))).sum() / (2 * eps)
            claimed = (u * gradient).sum()
            if not np.isclose(measured, claimed, rtol=1e-5, atol=1e-7):  # not close either if one is NaN
                return False
    return True
