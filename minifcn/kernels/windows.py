"""Kernels of what slides over images: a convolution's columns, and pooling."""

from minifcn.kernels.kernel import Kernel

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


WINDOWS = {
    "gather_columns": Kernel(
        # im2col: x (N, C, H, W) -> columns (C, kh·kw, rows, N, Wo), the layout of ops/blocks.py. An element is a
        # position of one channel, whose whole patch is copied, so that the slow divisions are made once for all of it.
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
            #pragma unroll 3  // the width of most kernels: so many loads on their way at a time
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
    "write_product": Kernel(
        # product (O, rows, N, Wo) -> some rows of y (N, O, Ho, Wo), plus bias (O,) if any; max(y, 0) if relu. NaN stays
        "const REAL* product, const REAL* bias, REAL* y, int has_bias, int relu, int channels, int batch, "
        f"int out_height, int out_width, {BAND}",
        """
        const COUNT positions = (COUNT)rows * batch * out_width, o = i / positions, position = i % positions;
        REAL value = product[i];
        if (has_bias) value += bias[o];
        if (relu) value = value > 0 || value != value ? value : (REAL)0;
        COUNT image = o, place = position;  // of a single image, whose rows follow one another: without a division
        if (batch > 1) {
            const COUNT line = position / out_width;
            image += line % batch * channels;
            place = line / batch * out_width + position % out_width;
        }
        y[(image * out_height + first_row) * out_width + place] = value;
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
}
