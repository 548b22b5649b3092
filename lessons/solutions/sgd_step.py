def sgd_step(parameters, gradients, velocities, lr, momentum):
    """v ← momentum · v + g, then p ← p − lr · v, in place, for each parameter, its gradient and its velocity."""
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity *= momentum
        velocity += gradient
        parameter -= lr * velocity
