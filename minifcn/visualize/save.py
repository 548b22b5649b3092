"""Pictures as files."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minifcn.errors import UsageError
from minifcn.files import write_atomically
from minifcn.visualize.style import checked_palette, checked_picture, label_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_mask(labels: np.ndarray, palette: np.ndarray, path: str | Path) -> None:
    """Write a label map as a palette PNG, as VOC's masks are: coloured to look at, and np.asarray gives the ids."""
    from PIL import Image

    mask = Image.fromarray(label_map(labels))
    mask.putpalette(checked_palette(palette).tobytes())
    content = io.BytesIO()
    mask.save(content, format="PNG")
    _write_png(path, content.getvalue())


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture, uint8 (H, W, 3), as PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(checked_picture(picture)).save(content, format="PNG")
    _write_png(path, content.getvalue())


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a matplotlib figure as PNG, without the version and date that would make equal pictures differ."""
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    _write_png(path, content.getvalue())


def _write_png(path: str | Path, content: bytes) -> None:
    """Write a picture, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures and masks are written as PNG, without loss; let the name end in .png.")
    write_atomically(path, content)
