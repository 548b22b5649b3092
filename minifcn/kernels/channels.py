"""Kernels of whole channels: sums over all images and positions, and batch normalisation.

A sum over a channel may have half a million numbers. It is cut into `parts`, as many as keep a GPU busy, and an element
is one part of one channel: part p takes the positions p, p + parts, p + 2·parts, … of every image, so that neighbouring
threads read neighbours in memory. The sums (C, parts) that are left are added up in device.py.
"""

from minifcn.kernels.kernel import Kernel


def _for_positions_of_part(body: str) -> str:
    """C that runs `body` for each position of element i, a part of channel c; it is `at` in x (N, C, positions)."""
    return f"""
        const int c = i / parts;
        for (int n = 0; n < batch; ++n) {{
            const COUNT first = (n * (COUNT)channels + c) * positions;
            #pragma unroll 4  // so many loads on their way at a time
            for (COUNT at = first + i % parts; at < first + positions; at += parts) {{
{body}
            }}
        }}"""


SIZES = "int channels, int batch, COUNT positions, int parts"

CHANNELS = {
    "sum_channels": Kernel(
        # x (N, C, positions) -> sums (C, parts)
        f"const REAL* x, REAL* sums, {SIZES}",
        """
        REAL sum = 0;"""
        + _for_positions_of_part("                sum += x[at];")
        + """
        sums[i] = sum;
        """,
    ),
    "sum_squares": Kernel(
        # x (N, C, positions), mean (C,) -> Σ (x - mean)² (C, parts)
        f"const REAL* x, const REAL* mean, REAL* sums, {SIZES}",
        """
        REAL sum = 0;"""
        + _for_positions_of_part("""
                const REAL centred = x[at] - mean[c];
                sum += centred * centred;""")
        + """
        sums[i] = sum;
        """,
    ),
    "normalise": Kernel(
        # (x - mean) scale + bias for each channel of x (N, C, positions); max(y, 0) if relu. NaN stays
        "const REAL* x, const REAL* mean, const REAL* scale, const REAL* bias, REAL* y, int relu, int channels, "
        "COUNT positions",
        """
        const int c = i / positions % channels;
        const REAL value = (x[i] - mean[c]) * scale[c] + bias[c];
        y[i] = !relu || value > 0 || value != value ? value : (REAL)0;
        """,
    ),
    "sum_gradients": Kernel(
        # g' = g where y > 0 (everywhere if not relu): Σ g' and Σ g' (x - mean), both (C, parts)
        "const REAL* grad, const REAL* y, const REAL* x, const REAL* mean, REAL* sums, REAL* products, int relu, "
        f"{SIZES}",
        """
        REAL sum = 0, product = 0;"""
        + _for_positions_of_part("""
                const REAL g = !relu || y[at] > 0 ? grad[at] : (REAL)0;
                sum += g;
                product += g * (x[at] - mean[c]);""")
        + """
        sums[i] = sum;
        products[i] = product;
        """,
    ),
    "batch_norm_gradient": Kernel(
        # (g' - shift - (x - mean) slope) scale, with g' as above: the formula of BatchNorm, with shift = Σ g' / M,
        # slope = r Σ g' x̂ / M and scale = γ r, each (C,)
        "const REAL* grad, const REAL* y, const REAL* x, const REAL* mean, const REAL* shift, const REAL* slope, "
        "const REAL* scale, REAL* grad_x, int relu, int channels, COUNT positions",
        """
        const int c = i / positions % channels;
        const REAL g = !relu || y[i] > 0 ? grad[i] : (REAL)0;
        grad_x[i] = (g - shift[c] - (x[i] - mean[c]) * slope[c]) * scale[c];
        """,
    ),
}
