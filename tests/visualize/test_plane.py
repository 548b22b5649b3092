"""Points and regions in a plane, and lines on logarithmic axes."""

import numpy as np
import pytest

from minifcn.errors import ShapeError
from minifcn.visualize import lines, plane

POINTS = np.array([[0.0, 0.5], [0.2, -0.5], [-0.3, 0.1], [0.9, 0.9]])
LABELS = np.array([0, 1, 255, 1])


def test_points_are_drawn_by_their_class_and_void_apart():
    """Void drawn as class 0 would say that it is background."""
    figure = plane(POINTS, LABELS, extent=1, alt="four points").figure
    (axes,) = figure.axes
    drawn = [collection.get_offsets().tolist() for collection in axes.collections]
    assert drawn == [[[0, 0.5]], [[0.2, -0.5], [0.9, 0.9]], [[-0.3, 0.1]]]
    colours = {tuple(collection.get_edgecolor()[0][:3]) for collection in axes.collections[2:]}
    assert colours == {(0, 0, 0)}


def test_the_top_row_of_a_region_lies_at_the_top_of_the_plane():
    """Upside down, the regions would not fit their points."""
    region = np.array([[1.0, 1.0], [0.0, 0.0]])
    picture = plane(POINTS, LABELS, extent=2, regions={"first": region, "second": 1 - region}, alt="two planes")
    assert [axes.get_title() for axes in picture.figure.axes] == ["first", "second"]
    image = picture.figure.axes[0].images[0]
    assert image.get_extent() == [-2, 2, -2, 2]
    assert image.origin == "upper"
    assert image.get_array().tolist() == region.tolist()
    assert 'alt="two planes"' in picture._repr_html_()


def test_points_and_labels_must_fit():
    with pytest.raises(ShapeError, match=r"4 labels need \(4, 2\)"):
        plane(POINTS.T, LABELS, extent=1, alt="")


@pytest.mark.parametrize(("log_scale", "scale"), [(True, "log"), (False, "linear")])
def test_lines_on_logarithmic_axes(log_scale, scale):
    x = np.array([1e-3, 1e-1, 1.0])
    figure = lines({"x²": (x, x**2)}, x_label="x", y_label="y", log_scale=log_scale, alt="a power").figure
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == (scale, scale)
