"""Kernels of single elements, pixels and parameters; and of a sparse matrix, row by row."""

from minifcn.kernels.kernel import Kernel

ELEMENTS = {
    "pass_positive": Kernel(
        # grad where y > 0, else 0
        "const REAL* grad, const REAL* y, REAL* grad_x",
        """
        grad_x[i] = y[i] > 0 ? grad[i] : (REAL)0;
        """,
    ),
    "cross_entropy": Kernel(
        # logits (N, C, positions), labels and weight (N, positions) -> loss, max z and Σ e^(z - max z), all
        # (N, positions). An element is a pixel.
        "const REAL* logits, const long long* labels, const REAL* weight, REAL* loss, REAL* largest, REAL* sums, "
        "int classes, COUNT positions",
        """
        const REAL* z = logits + i / positions * classes * positions + i % positions;
        REAL most = z[0];
        for (int c = 1; c < classes; ++c) {
            const REAL value = z[c * positions];
            if (value > most || value != value) most = value;
        }
        REAL sum = 0;
        for (int c = 0; c < classes; ++c) sum += exp(z[c * positions] - most);
        largest[i] = most;
        sums[i] = sum;
        loss[i] = weight[i] * (log(sum) - (z[labels[i] * positions] - most));
        """,
    ),
    "cross_entropy_gradient": Kernel(
        # grad_logits = (p - [c = label]) · grad · weight, with p = e^(z - max z) / Σ. grad has an element for each
        # pixel, or one in all (grad_stride 0).
        "const REAL* logits, const REAL* largest, const REAL* sums, const long long* labels, const REAL* weight, "
        "const REAL* grad, int grad_stride, REAL* grad_logits, int classes, COUNT positions",
        """
        const int c = i / positions % classes;
        const COUNT pixel = i / positions / classes * positions + i % positions;
        const REAL p = exp(logits[i] - largest[pixel]) / sums[pixel];
        grad_logits[i] = (p - (labels[pixel] == c ? (REAL)1 : (REAL)0)) * grad[pixel * grad_stride] * weight[pixel];
        """,
    ),
    "sgd_step": Kernel(
        # v <- momentum v + (g + decay p);  p <- p - lr v
        "REAL* parameter, REAL* velocity, const REAL* grad, REAL lr, REAL momentum, REAL decay",
        """
        const REAL v = momentum * velocity[i] + (grad[i] + decay * parameter[i]);
        velocity[i] = v;
        parameter[i] -= lr * v;
        """,
    ),
    "adam_step": Kernel(
        # g' = g + decay p;  m <- beta1 m + (1 - beta1) g';  v <- beta2 v + (1 - beta2) g'²;
        # p <- p - lr m / (√v / correction + eps), the lr being divided by 1 - beta1ᵗ, and correction √(1 - beta2ᵗ)
        "REAL* parameter, REAL* mean, REAL* square, const REAL* grad, REAL lr, REAL beta1, REAL beta2, "
        "REAL correction, REAL eps, REAL decay",
        """
        const REAL g = grad[i] + decay * parameter[i];
        const REAL m = beta1 * mean[i] + ((REAL)1 - beta1) * g;
        const REAL v = beta2 * square[i] + ((REAL)1 - beta2) * (g * g);
        mean[i] = m;
        square[i] = v;
        parameter[i] -= lr * m / (sqrt(v) / correction + eps);
        """,
    ),
    "sparse_times_rows": Kernel(
        # A sparse matrix (M, K) in CSR form, and dense rows (R, K) -> products (R, M)
        "const REAL* data, const INDEX* indices, const INDEX* pointers, const REAL* rows, REAL* products, "
        "COUNT height, COUNT width",
        """
        const COUNT m = i % height, r = i / height;
        REAL sum = 0;
        for (INDEX entry = pointers[m]; entry < pointers[m + 1]; ++entry) {
            sum += data[entry] * rows[r * width + indices[entry]];
        }
        products[i] = sum;
        """,
    ),
}
