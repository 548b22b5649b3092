def matmul_backward(grad, x, w):
    """(dL/dx, dL/dw) of y = x @ w, for matrices x (N, K) and w (K, M)."""
    grad_x = grad @ w.T  # (N, M) @ (M, K) -> (N, K)
    grad_w = x.T @ grad  # (K, N) @ (N, M) -> (K, M)
    return grad_x, grad_w
