"""The kernels in CUDA C, one thread for each element of the result, none of which adds with atomics.

Each result is gathered by the thread that owns it, in one fixed order, so that equal inputs give equal bits: col2im and
the backward pass of pooling look up who contributes to a pixel, in place of scattering to it. None uses shared memory
or waits for other threads. What each computes is said in NumPy by the function of its name (see device.py).

REAL is float or double, PLACE the type of a place in a pooling window, INDEX that of a sparse matrix's indices. They
are replaced in the text. Every kernel ends with `long long count`, the number of elements, and runs over them in a
loop whose stride is the size of the grid, so that any grid is right.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One kernel: the declarations of its parameters, and what is done for element i of `count`."""

    parameters: str
    body: str


# The sizes of a convolution or pooling, in this order, height before width.
GEOMETRY = (
    "int channels, int batch, int height, int width, int out_height, int out_width, int kernel_h, int kernel_w, "
    "int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w"
)
BAND = "int first_row, int rows"  # of the output rows, those that are computed


def _for_windows_around_pixel(body: str) -> str:
    """C that runs `body` for each window, of output (first_row + a, b), whose place (k, l) shows the pixel (h, w).

    Window a begins at pixel a·stride - padding, and its place k lies k·dilation further on; so place k shows h in
    a = (h + padding - k·dilation) / stride, if that is a whole number and one of the outputs.
    """
    return f"""
        for (int k = 0; k < kernel_h; ++k) {{
            const int down = h + padding_h - k * dilation_h;
            const int a = down / stride_h - first_row;
            if (down < 0 || down % stride_h || a < 0 || a >= rows) continue;
            for (int l = 0; l < kernel_w; ++l) {{
                const int right = w + padding_w - l * dilation_w;
                const int b = right / stride_w;
                if (right < 0 || right % stride_w || b >= out_width) continue;
{body}
            }}
        }}"""


KERNELS = {
    "gather_columns": Kernel(
        # im2col: x (N, C, H, W) -> columns (C, kh·kw, rows, N, Wo), the layout of ops/blocks.py
        f"const REAL* x, REAL* columns, {GEOMETRY}, {BAND}",
        """
        long long rest = i;
        const int b = rest % out_width;        rest /= out_width;
        const int n = rest % batch;            rest /= batch;
        const int a = rest % rows + first_row; rest /= rows;
        const int tap = rest % (kernel_h * kernel_w);
        const int c = rest / (kernel_h * kernel_w);
        const int row = a * stride_h - padding_h + tap / kernel_w * dilation_h;
        const int column = b * stride_w - padding_w + tap % kernel_w * dilation_w;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        columns[i] = inside ? x[(((long long)n * channels + c) * height + row) * width + column] : (REAL)0;
        """,
    ),
    "scatter_columns": Kernel(
        # col2im: columns (C, kh·kw, rows, N, Wo) added to x (N, C, H, W)
        f"const REAL* columns, REAL* x, {GEOMETRY}, {BAND}",
        """
        long long rest = i;
        const int w = rest % width;    rest /= width;
        const int h = rest % height;   rest /= height;
        const int c = rest % channels;
        const int n = rest / channels;
        REAL sum = 0;"""
        + _for_windows_around_pixel("""
                const long long place = (long long)c * kernel_h * kernel_w + k * kernel_w + l;
                sum += columns[((place * rows + a) * batch + n) * out_width + b];""")
        + """
        x[i] += sum;
        """,
    ),
    "max_pool": Kernel(
        # x (N, C, H, W) -> largest and winners (N, C, Ho, Wo), a winner being its place in the window. A NaN wins, of
        # several the last; among equals the first, and the first inside the image if nothing exceeds -infinity.
        f"const REAL* x, REAL* largest, PLACE* winners, {GEOMETRY}",
        """
        const int b = i % out_width, a = i / out_width % out_height;
        const REAL* image = x + i / out_width / out_height * height * width;
        REAL best = 0;
        int winner = -1;  // of none so far: the first inside the image wins, whatever it is
        for (int k = 0; k < kernel_h; ++k) {
            const int row = a * stride_h - padding_h + k * dilation_h;
            if (row < 0 || row >= height) continue;
            for (int l = 0; l < kernel_w; ++l) {
                const int column = b * stride_w - padding_w + l * dilation_w;
                if (column < 0 || column >= width) continue;
                const REAL value = image[(long long)row * width + column];
                if (winner < 0 || value > best || value != value) { best = value; winner = k * kernel_w + l; }
            }
        }
        largest[i] = best;
        winners[i] = winner;
        """,
    ),
    "max_pool_gradient": Kernel(
        # grad and winners (N, C, Ho, Wo) -> grad_x (N, C, H, W)
        f"const REAL* grad, const PLACE* winners, REAL* grad_x, {GEOMETRY}",
        """
        const int w = i % width, h = i / width % height;
        const long long outputs = i / width / height * out_height * out_width;
        const int first_row = 0, rows = out_height;
        REAL sum = 0;"""
        + _for_windows_around_pixel("""
                const long long output = outputs + (long long)a * out_width + b;
                if (winners[output] == k * kernel_w + l) sum += grad[output];""")
        + """
        grad_x[i] = sum;
        """,
    ),
    "write_product": Kernel(
        # product (O, rows, N, Wo) -> some rows of y (N, O, Ho, Wo), plus bias (O,) if any; max(y, 0) if relu. NaN stays
        "const REAL* product, const REAL* bias, REAL* y, int has_bias, int relu, int channels, int batch, "
        f"int out_height, int out_width, {BAND}",
        """
        long long rest = i;
        const int b = rest % out_width; rest /= out_width;
        const int n = rest % batch;     rest /= batch;
        const int a = rest % rows;
        const int o = rest / rows;
        REAL value = product[i];
        if (has_bias) value += bias[o];
        if (relu) value = value > 0 || value != value ? value : (REAL)0;
        y[(((long long)n * channels + o) * out_height + first_row + a) * out_width + b] = value;
        """,
    ),
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
        "int classes, long long positions",
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
        "const REAL* grad, int grad_stride, REAL* grad_logits, int classes, long long positions",
        """
        const int c = i / positions % classes;
        const long long pixel = i / positions / classes * positions + i % positions;
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
        "long long height, long long width",
        """
        const long long m = i % height, r = i / height;
        REAL sum = 0;
        for (INDEX entry = pointers[m]; entry < pointers[m + 1]; ++entry) {
            sum += data[entry] * rows[r * width + indices[entry]];
        }
        products[i] = sum;
        """,
    ),
}

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
}
_LETTERS = ("REAL", "PLACE", "INDEX")


def cuda_source(name: str, types: dict[str, str]) -> str:
    """The whole text of a kernel for `nvcc` or NVRTC; types: {"REAL": "float32", …}, NumPy's names."""
    kernel = KERNELS[name]
    text = (
        f'extern "C" __global__ void {name}({kernel.parameters}, long long count) {{\n'
        "    const long long step = (long long)gridDim.x * blockDim.x;\n"
        "    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {"
        f"{kernel.body}    }}\n}}\n"
    )
    for letter in _LETTERS:
        if re.search(rf"\b{letter}\b", text):
            text = re.sub(rf"\b{letter}\b", C_TYPES[types[letter]], text)
    return text


def letters(name: str) -> tuple[str, ...]:
    """The types that a kernel leaves open."""
    return tuple(letter for letter in _LETTERS if re.search(rf"\b{letter}\b", KERNELS[name].parameters))
