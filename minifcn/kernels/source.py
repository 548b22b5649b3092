"""The kernels in CUDA C, one thread for each element of the result, none of which adds with atomics.

Each result is gathered by the thread that owns it, in one fixed order, so that equal inputs give equal bits: col2im and
the backward pass of pooling look up who contributes to a pixel, in place of scattering to it. None uses shared memory
or waits for other threads. What each computes is said in NumPy by the function of its name (see device.py).

REAL is float or double, PLACE the type of a place in a pooling window, INDEX that of a sparse matrix's indices, COUNT
that of a number of elements: int, whose division a GPU does in a third of the time, or long long for arrays that need
it. They are replaced in the text. Every kernel ends with `COUNT count`, the number of elements, and runs over them in a
loop whose stride is the size of the grid, so that any grid is right.
"""

import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """One kernel: the declarations of its parameters, and what is done for element i of `count`.

    `_transform` in the body needs a matrix, which `cuda_source` writes into the text.
    """

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

    Window a begins at pixel a·stride - padding, and its place k lies k·dilation further on; so a shows h, if at all, in
    place k = (h + padding - a·stride) / dilation. The last window that begins at or before h is tried first.
    """
    return f"""
        const int down = h + padding_h, right = w + padding_w;
        const int last_a = min(down / stride_h - first_row, rows - 1), last_b = min(right / stride_w, out_width - 1);
        for (int a = last_a; a >= 0; --a) {{
            const int below = down - (first_row + a) * stride_h;
            if (below > (kernel_h - 1) * dilation_h) break;
            if (dilation_h > 1 && below % dilation_h) continue;
            const int k = dilation_h > 1 ? below / dilation_h : below;
            for (int b = last_b; b >= 0; --b) {{
                const int beyond = right - b * stride_w;
                if (beyond > (kernel_w - 1) * dilation_w) break;
                if (dilation_w > 1 && beyond % dilation_w) continue;
                const int l = dilation_w > 1 ? beyond / dilation_w : beyond;
{body}
            }}
        }}"""


def _transform(store: str) -> str:
    """C that makes matrix · tile · matrixᵀ of a tile, in registers, and runs `store` for each `value` (row, column).

    The matrix is a constant with AFTER rows and BEFORE columns, and so is each loop's length: nothing is left of the
    loops, nor of the zeros in the matrix.
    """
    return f"""
        const REAL matrix[AFTER][BEFORE] = MATRIX;
        REAL half[AFTER][BEFORE];
        #pragma unroll
        for (int row = 0; row < AFTER; ++row) {{
            #pragma unroll
            for (int column = 0; column < BEFORE; ++column) {{
                REAL sum = 0;
                #pragma unroll
                for (int k = 0; k < BEFORE; ++k) if (matrix[row][k] != 0) sum += matrix[row][k] * tile[k][column];
                half[row][column] = sum;
            }}
        }}
        #pragma unroll
        for (int row = 0; row < AFTER; ++row) {{
            #pragma unroll
            for (int column = 0; column < AFTER; ++column) {{
                REAL value = 0;
                #pragma unroll
                for (int k = 0; k < BEFORE; ++k) if (matrix[column][k] != 0) value += half[row][k] * matrix[column][k];
{store}
            }}
        }}"""


def _load(number: str) -> str:
    """C that fills the tile of BEFORE × BEFORE numbers, (row, column) with `number`."""
    return f"""
        REAL tile[BEFORE][BEFORE];
        #pragma unroll
        for (int row = 0; row < BEFORE; ++row) {{
            #pragma unroll
            for (int column = 0; column < BEFORE; ++column) {{
{number}
            }}
        }}"""


# Some rows of Winograd's tiles, counted through all images: see winograd.Band.
TILES = "int rows_per_image, int tile_columns, int first_row, int tile_rows"

_TRANSFORM_TILES = Kernel(
    # x (N, C, H, W) -> (AFTER², C, t), or (AFTER², t, C) if channels_last: matrix · tile · matrixᵀ of the tiles of
    # some rows, each so many pixels further on. An element is a tile of one channel.
    f"const REAL* x, REAL* values, int channels, int height, int width, int apart, int padding_h, int padding_w, "
    f"int channels_last, {TILES}",
    """
    const COUNT tiles = (COUNT)tile_rows * tile_columns;
    const COUNT c = channels_last ? i % channels : i / tiles, t = channels_last ? i / channels : i % tiles;
    const int line = first_row + t / tile_columns, n = line / rows_per_image;
    const int top = line % rows_per_image * apart - padding_h, left = t % tile_columns * apart - padding_w;
    const REAL* image = x + (n * (COUNT)channels + c) * height * width;"""
    + _load("""
            const int h = top + row, w = left + column;
            const bool inside = h >= 0 && h < height && w >= 0 && w < width;
            tile[row][column] = inside ? image[(COUNT)h * width + w] : (REAL)0;""")
    + _transform("                values[(COUNT)(row * AFTER + column) * count + i] = value;"),
)

KERNELS = {
    "gather_columns": Kernel(
        # im2col: x (N, C, H, W) -> columns (C, kh·kw, rows, N, Wo), the layout of ops/blocks.py. An element is a
        # position of one channel, whose whole patch is copied: what is divided to find it is divided once.
        f"const REAL* x, REAL* columns, {GEOMETRY}, {BAND}",
        """
        const COUNT positions = (COUNT)rows * batch * out_width, c = i / positions, position = i % positions;
        const COUNT line = position / out_width;
        const int n = line % batch, top = (first_row + line / batch) * stride_h - padding_h;
        const int left = position % out_width * stride_w - padding_w;
        const REAL* image = x + (n * (COUNT)channels + c) * height * width;
        REAL* column = columns + c * kernel_h * kernel_w * positions + position;
        for (int k = 0; k < kernel_h; ++k) {
            const int row = top + k * dilation_h;
            const bool is_row = row >= 0 && row < height;
            for (int l = 0; l < kernel_w; ++l, column += positions) {
                const int w = left + l * dilation_w;
                *column = is_row && w >= 0 && w < width ? image[(COUNT)row * width + w] : (REAL)0;
            }
        }
        """,
    ),
    "scatter_columns": Kernel(
        # col2im: columns (C, kh·kw, rows, N, Wo) added to x (N, C, H, W)
        f"const REAL* columns, REAL* x, {GEOMETRY}, {BAND}",
        """
        COUNT rest = i;
        const int w = rest % width;    rest /= width;
        const int h = rest % height;   rest /= height;
        const int c = rest % channels;
        const int n = rest / channels;
        REAL sum = 0;"""
        + _for_windows_around_pixel("""
                const COUNT place = (COUNT)c * kernel_h * kernel_w + k * kernel_w + l;
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
                const REAL value = image[(COUNT)row * width + column];
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
        const COUNT outputs = i / width / height * out_height * out_width;
        const int first_row = 0, rows = out_height;
        REAL sum = 0;"""
        + _for_windows_around_pixel("""
                const COUNT output = outputs + (COUNT)a * out_width + b;
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
        const COUNT positions = (COUNT)rows * batch * out_width, o = i / positions, position = i % positions;
        REAL value = product[i];
        if (has_bias) value += bias[o];
        if (relu) value = value > 0 || value != value ? value : (REAL)0;
        COUNT image = o, place = position;  // of one image: its rows follow one another
        if (batch > 1) {
            const COUNT line = position / out_width;
            image += line % batch * channels;
            place = line / batch * out_width + position % out_width;
        }
        y[(image * out_height + first_row) * out_width + place] = value;
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
    "evaluate_tiles": _TRANSFORM_TILES,
    "spread_tiles": _TRANSFORM_TILES,
    "write_tiles": Kernel(
        # products (BEFORE², O, t) -> some rows of tiles of y (N, O, Ho, Wo): matrix · tile · matrixᵀ, plus bias (O,) if
        # any; max(y, 0) if relu. NaN stays. What reaches over the edge is dropped.
        "const REAL* products, const REAL* bias, REAL* y, int has_bias, int relu, int channels, int out_height, "
        f"int out_width, {TILES}",
        """
        const COUNT tiles = (COUNT)tile_rows * tile_columns, o = i / tiles, t = i % tiles;
        const int line = first_row + t / tile_columns, n = line / rows_per_image;
        const int top = line % rows_per_image * AFTER, left = t % tile_columns * AFTER;
        const REAL more = has_bias ? bias[o] : (REAL)0;
        REAL* image = y + (n * (COUNT)channels + o) * out_height * out_width;"""
        + _load("                tile[row][column] = products[(COUNT)(row * BEFORE + column) * count + i];")
        + _transform("""
                value += more;
                if (relu) value = value > 0 || value != value ? value : (REAL)0;
                const int a = top + row, b = left + column;
                if (a < out_height && b < out_width) image[(COUNT)a * out_width + b] = value;"""),
    ),
    "transform_filters": Kernel(
        # weight (O, C, 3, 3) -> (AFTER², O, C): matrix · w · matrixᵀ. An element is a filter of one channel.
        "const REAL* weight, REAL* filters",
        _load("                tile[row][column] = weight[(i * BEFORE + row) * BEFORE + column];")
        + _transform("                filters[(COUNT)(row * AFTER + column) * count + i] = value;"),
    ),
    "filter_gradient": Kernel(
        # totals (shares, BEFORE², O, C) -> (O, C, 3, 3): matrix · Σ totals · matrixᵀ
        "const REAL* totals, REAL* grad_weight, int shares",
        _load("""
                REAL sum = 0;
                #pragma unroll 1
                for (int share = 0; share < shares; ++share) {
                    sum += totals[((COUNT)(share * BEFORE + row) * BEFORE + column) * count + i];
                }
                tile[row][column] = sum;""")
        + _transform("                grad_weight[(i * AFTER + row) * AFTER + column] = value;"),
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

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
}
_LETTERS = ("REAL", "PLACE", "INDEX", "COUNT")


def cuda_source(name: str, types: dict[str, str], matrix: np.ndarray | None = None) -> str:
    """The whole text of a kernel for `nvcc` or NVRTC; types: {"REAL": "float32", "COUNT": "int32", …}, NumPy's names.

    matrix: by which a kernel with `_transform` multiplies its tiles, from both sides.
    """
    kernel = KERNELS[name]
    text = (
        f'extern "C" __global__ void {name}({kernel.parameters}, COUNT count) {{\n'
        "    const COUNT step = (COUNT)gridDim.x * blockDim.x;\n"
        "    for (COUNT i = (COUNT)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {"
        f"{kernel.body}    }}\n}}\n"
    )
    words = {letter: C_TYPES[types[letter]] for letter in (*letters(name), "COUNT")}
    if matrix is not None:
        rows = ", ".join("{" + ", ".join(f"(REAL){number!r}" for number in row) + "}" for row in matrix.tolist())
        text = re.sub(r"\bMATRIX\b", f"{{{rows}}}", text)
        words |= {"AFTER": str(len(matrix)), "BEFORE": str(matrix.shape[1])}
    for word, meaning in words.items():
        text = re.sub(rf"\b{word}\b", meaning, text)
    return text


def letters(name: str) -> tuple[str, ...]:
    """The types that a kernel leaves open, but COUNT, which each does."""
    text = KERNELS[name].parameters
    return tuple(letter for letter in _LETTERS[:-1] if re.search(rf"\b{letter}\b", text))


def needs_matrix(name: str) -> bool:
    """Whether a kernel transforms tiles."""
    return "MATRIX" in KERNELS[name].body
