"""Pictures for people: label maps in colour, overlays, legends, sheets of predictions, curves, confusion matrices,
and diagrams that explain.

One visual language: every picture brings its own light panel with dark text, so that it is legible on light and dark
pages; lines have the colours of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell
apart; classes have the colours of the data set's palette, and void (255) has its own, named "void".

Pictures are uint8 (H, W, 3) RGB, label maps integers (H, W) from 0 to 255, palettes uint8 (256, 3), sizes in pixels.
Nothing here needs a display: matplotlib is used through Figure, without pyplot and its global state. Files appear whole
or not at all, and the same content gives the same bytes.
"""

from minifcn.visualize.confusion import confusion_picture
from minifcn.visualize.diagrams import Picture, feature_maps, gallery, lines, matrices, picture, plane
from minifcn.visualize.label_maps import add_legend, colorize, legend, overlay
from minifcn.visualize.plots import curves
from minifcn.visualize.positions import positions
from minifcn.visualize.save import bands, pixel_counts, save_figure, save_mask, save_overlay, save_picture
from minifcn.visualize.sheets import comparison_sheet, contact_sheet, prediction_sheet
from minifcn.visualize.style import LINE_COLORS, PANEL, TEXT

__all__ = [
    "LINE_COLORS",
    "PANEL",
    "TEXT",
    "Picture",
    "add_legend",
    "bands",
    "colorize",
    "comparison_sheet",
    "confusion_picture",
    "contact_sheet",
    "curves",
    "feature_maps",
    "gallery",
    "legend",
    "lines",
    "matrices",
    "overlay",
    "picture",
    "pixel_counts",
    "plane",
    "positions",
    "prediction_sheet",
    "save_figure",
    "save_mask",
    "save_overlay",
    "save_picture",
]
