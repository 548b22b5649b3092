"""Kernels of Winograd's tiles, each transformed in the registers of one thread. The letters are ops/winograd.py's."""

from minifcn.kernels.kernel import Kernel


def _transform(store: str) -> str:
    """C that makes matrix · tile · matrixᵀ, and runs `store` for each `value` of it, at (row, column).

    The tile has BEFORE × BEFORE numbers, the result AFTER × AFTER; `half` is matrix · tile. The matrix (AFTER, BEFORE)
    and the lengths of the loops are constants: the compiler unrolls the loops, leaves out the zeros, and keeps all
    numbers in registers.
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


def _load(fill: str) -> str:
    """C that declares the tile, BEFORE × BEFORE numbers, and runs `fill` for each, which sets tile[row][column]."""
    return f"""
        REAL tile[BEFORE][BEFORE];
        #pragma unroll
        for (int row = 0; row < BEFORE; ++row) {{
            #pragma unroll
            for (int column = 0; column < BEFORE; ++column) {{
{fill}
            }}
        }}"""


# Some rows of Winograd's tiles, counted through the images that they are of: see winograd.Band.
ROWS_OF_TILES = "int rows_per_image, int tile_columns, int first_row, int tile_rows"

_TRANSFORM_TILES = Kernel(
    # x (N, C, H, W) -> (AFTER², C, t), or (AFTER², t, C) if channels_last: matrix · tile · matrixᵀ for some rows of
    # tiles, of BEFORE × BEFORE pixels each, `apart` from one to the next. An element is a tile of one channel.
    "const REAL* x, REAL* values, int channels, int height, int width, int apart, int padding_h, int padding_w, "
    f"int channels_last, {ROWS_OF_TILES}",
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

TILES = {
    "evaluate_tiles": _TRANSFORM_TILES,  # the matrix is Bᵀ
    "spread_tiles": _TRANSFORM_TILES,  # A
    "write_tiles": Kernel(
        # products (BEFORE², O, t) -> some rows of tiles of y (N, O, Ho, Wo): Aᵀ M A, plus bias (O,) if any; max(y, 0)
        # if relu. NaN stays. What reaches over the edge is dropped.
        "const REAL* products, const REAL* bias, REAL* y, int has_bias, int relu, int channels, int out_height, "
        f"int out_width, {ROWS_OF_TILES}",
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
        # weight (O, C, 3, 3) -> (AFTER², O, C): G w Gᵀ. An element is a filter of one channel.
        "const REAL* weight, REAL* filters",
        _load("                tile[row][column] = weight[(i * BEFORE + row) * BEFORE + column];")
        + _transform("                filters[(COUNT)(row * AFTER + column) * count + i] = value;"),
    ),
    "filter_gradient": Kernel(
        # totals (shares, BEFORE², O, C) -> (O, C, 3, 3): Gᵀ dU G, with dU the sum of the totals
        "const REAL* totals, REAL* grad_weight, int shares",
        _load("""
                REAL sum = 0;
                #pragma unroll 1  // there are BEFORE² copies of this loop already
                for (int share = 0; share < shares; ++share) {
                    sum += totals[((COUNT)(share * BEFORE + row) * BEFORE + column) * count + i];
                }
                tile[row][column] = sum;""")
        + _transform("                grad_weight[(i * AFTER + row) * AFTER + column] = value;"),
    ),
}
