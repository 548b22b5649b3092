"""The sparse matrices G and C themselves, their cache, and the coordinate maps from which the crops follow."""

import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import oracles
import pytest
import scipy.sparse
from devices import assert_allclose, assert_array_equal, to_host
from hypothesis import given
from strategies import ConvCase, convolutions, random_cases

from minifcn import Tensor, ops
from minifcn.backend import get_backend
from minifcn.errors import ShapeError
from minifcn.ops import ConvGeometry, CoordinateMap
from minifcn.ops import geometry as geometry_module

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture
def cache(monkeypatch):
    """A cache of this test's own."""
    fresh = geometry_module._ByteBoundedCache(2**20)
    monkeypatch.setattr(geometry_module, "_cache", fresh)
    return fresh


def test_the_matrix_of_the_textbooks():
    """4×4 image, 3×3 kernel: 4×16 with 36 entries; row (0, 0) shows the kernel's rows with a zero between them."""
    matrix = ops.conv_matrix(np.arange(1.0, 10.0).reshape(1, 1, 3, 3), 4)
    assert matrix.shape == (4, 16)
    assert matrix.nnz == 36
    first = [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0, 0]
    assert_array_equal(matrix.toarray()[0], first)
    assert_array_equal(matrix.toarray()[1], np.roll(first, 1))
    assert_array_equal(matrix.toarray()[2], np.roll(first, 4))
    assert_array_equal(matrix.toarray()[3], np.roll(first, 5))


def test_the_patch_matrix_by_hand():
    """Rows ordered (kh, kw, Ho, Wo); a place in the padding has an empty row."""
    matrix = ops.patch_matrix((1, 3), (1, 2), padding=(0, 1)).toarray()
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert_array_equal(matrix, expected)


@random_cases
@given(convolutions())
def test_a_row_of_g_has_one_one_or_nothing(case: ConvCase):
    """An entry of 2 (a place listed twice), a row with two pixels, or padding that points at a pixel."""
    arguments = {key: case.arguments[key] for key in ("stride", "padding", "dilation")}
    size, kernel = case.x_shape[2:], case.weight_shape[2:]
    matrix = to_host(ops.patch_matrix(size, kernel, **arguments, dtype=np.float64))
    counts = oracles.output_size(size, kernel, **arguments)
    assert matrix.shape == (math.prod(kernel) * math.prod(counts), math.prod(size))
    assert set(matrix.data) <= {1.0}
    assert set(np.asarray(matrix.sum(axis=1)).ravel()) <= {0.0, 1.0}
    image = case.arrays()[0][0, 0]
    columns = oracles.im2col(image[None, None], kernel, **arguments)
    assert_array_equal((matrix @ image.ravel()).reshape(columns.shape[1:]), columns[0])
    assert_allclose(matrix.T @ columns.ravel(), oracles.col2im(columns, size, kernel, **arguments).ravel())


@random_cases
@given(convolutions())
def test_c_is_the_convolution(case: ConvCase):
    """The Kronecker factors in the wrong order, or groups that are not blocks on the diagonal."""
    x, weight, _ = case.arrays()
    matrix = to_host(ops.conv_matrix(Tensor(weight), x.shape[2:], **case.arguments))
    expected = oracles.conv2d(x, weight, None, **case.arguments)
    assert matrix.shape == (expected[0].size, x[0].size)
    for image, result in zip(x, expected, strict=True):
        assert_allclose(matrix @ image.ravel(), result.ravel(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_have_the_dtype_that_was_asked_for(dtype):
    """A float64 G turns a float32 network into a float64 one."""
    assert ops.patch_matrix(4, 3, dtype=dtype).dtype == dtype
    assert ops.conv_matrix(np.ones((2, 1, 3, 3), dtype), 4, groups=2).dtype == dtype
    assert ops.conv_matrix(Tensor(np.ones((2, 1, 3, 3), dtype)), 4).dtype == dtype


def test_one_matrix_serves_a_geometry_until_the_cache_is_full(cache):
    """G rebuilt for each image (40 ms each for the 8× layer), or kept for every size of image ever seen."""
    cpu = get_backend("cpu")

    def matrix(size, dtype=np.float32):
        geometry = ConvGeometry.of_convolution("test", size, 3, 1, 1, 1)
        return geometry_module.transposed_patch_matrix(geometry, dtype, cpu)

    assert matrix(8) is matrix(8)
    assert matrix(8) is not matrix(8, np.float64)
    for size in range(8, 41):
        matrix(size)
    sizes = [entry[1] for entry in cache.entries.values()]
    assert 1 < len(sizes) < 30
    assert sum(sizes) <= cache.limit
    last = next(reversed(cache.entries))
    assert last[0].input_size == (40, 40)


def test_the_least_recently_used_matrix_goes_first(cache):
    """First in, first out would throw away the matrix of the layer that is used all the time."""
    cpu = get_backend("cpu")
    geometries = [ConvGeometry.of_convolution("test", size, 3, 1, 1, 1) for size in (40, 41, 42, 43)]
    matrices = [geometry_module.transposed_patch_matrix(geometry, np.float32, cpu) for geometry in geometries[:3]]
    cache.limit = sum(size for _, size in cache.entries.values())
    geometry_module.transposed_patch_matrix(geometries[0], np.float32, cpu)
    geometry_module.transposed_patch_matrix(geometries[3], np.float32, cpu)
    assert geometry_module.transposed_patch_matrix(geometries[0], np.float32, cpu) is matrices[0]


def test_a_matrix_larger_than_the_cache_is_still_given(cache):
    """The bound is on what is kept, not on what can be computed."""
    cache.limit = 10
    assert ops.patch_matrix(4, 3).shape == (36, 16)
    assert len(cache.entries) == 1


@pytest.mark.parametrize(
    ("shape", "groups", "words"),
    [((3, 1, 3), 1, "out, in/groups, kh, kw"), ((3, 1, 3, 3), 2, "groups=2"), ((2, 1, 3, 3), 0, "groups=0")],
)
def test_a_weight_that_does_not_fit_is_refused(shape, groups, words):
    """A NumPy message from inside the Kronecker product."""
    with pytest.raises(ShapeError, match=words):
        ops.conv_matrix(np.ones(shape), 4, groups=groups)


def test_a_kernel_larger_than_the_image_is_refused():
    """An empty matrix instead of a word about it."""
    with pytest.raises(ShapeError, match=r"patch_matrix: a kernel of .* is larger than the input"):
        ops.patch_matrix(2, 3)


def compose(*layers):
    """The coordinate map of a path; a layer is (kernel_size, stride, padding) or a map."""
    whole = CoordinateMap()
    for layer in layers:
        whole = whole.then(layer if isinstance(layer, CoordinateMap) else CoordinateMap.of_window(*layer))
    return whole


def up(kernel_size, stride):
    return CoordinateMap.of_transposed(kernel_size, stride)


def blocks(*convolutions, first_padding=100):
    """The path of VGG16 up to and with pool N: 3×3 convolutions, the first with padding 100, and 2×2 poolings."""
    path = [layer for count in convolutions for layer in [(3, 1, 1)] * count + [(2, 2, 0)]]
    return [(3, 1, first_padding), *path[1:]]


POOL3, POOL4, POOL5 = blocks(2, 2, 3), blocks(2, 2, 3, 3), blocks(2, 2, 3, 3, 3)
SCORE_FR = [*POOL5, (7, 1, 0), (1, 1, 0), (1, 1, 0)]


def test_the_crops_of_the_paper_follow_from_its_layers():
    """A map composed in the wrong order, or half a pixel lost: 19 (32s); 5 and 27 (16s); 5, 9 and 31 (8s)."""
    image, upscore2 = CoordinateMap(), compose(*SCORE_FR, up(4, 2))
    upscore_pool4 = upscore2.then(up(4, 2))
    assert compose(*SCORE_FR, up(64, 32)).crop_onto(image) == 19
    assert compose(*POOL4, (1, 1, 0)).crop_onto(upscore2) == 5
    assert upscore2.then(up(32, 16)).crop_onto(image) == 27
    assert compose(*POOL3, (1, 1, 0)).crop_onto(upscore_pool4) == 9
    assert upscore_pool4.then(up(16, 8)).crop_onto(image) == 31


def test_the_crop_of_fcn_alexnet():
    """Other kernels, strides and an odd upsampling kernel give 18: nothing is special to VGG16."""
    path = [(11, 4, 100), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0), (6, 1, 0)]
    assert compose(*path, (1, 1, 0), (1, 1, 0), up(63, 32)).crop_onto(CoordinateMap()) == 18


def test_the_same_geometry_is_aligned_without_any_crop():
    """Paddings 1, 3 and s/2 put every map exactly on the image: all crops from 0."""
    trunk = blocks(2, 2, 3, 3, 3, first_padding=1)
    score = compose(*trunk, (7, 1, 3), (1, 1, 0))
    upscore2 = score.then(CoordinateMap.of_transposed(4, 2, 1))
    upscore_pool4 = upscore2.then(CoordinateMap.of_transposed(4, 2, 1))
    pool4, pool3 = (compose(*blocks(*counts, first_padding=1)) for counts in [(2, 2, 3, 3), (2, 2, 3)])
    assert upscore2.crop_onto(pool4) == 0
    assert upscore_pool4.crop_onto(pool3) == 0
    image = CoordinateMap()
    assert upscore_pool4.then(CoordinateMap.of_transposed(16, 8, 4)).crop_onto(image) == 0
    assert upscore2.then(CoordinateMap.of_transposed(32, 16, 8)).crop_onto(image) == 0
    assert score.then(CoordinateMap.of_transposed(64, 32, 16)).crop_onto(image) == 0


def test_a_map_says_where_a_window_is_centred():
    """Dilation or padding forgotten: kernel 3, dilation 2 spans five pixels, the first centred on pixel 2 − 1."""
    layer = CoordinateMap.of_window(3, stride=2, padding=1, dilation=2)
    assert (layer.scale, layer.offset) == (2, 1)
    assert CoordinateMap.of_window(2, stride=2).offset == Fraction(1, 2)
    whole = layer.then(CoordinateMap.of_transposed(3, stride=2, padding=1, dilation=2))
    assert whole == CoordinateMap()


def test_maps_half_a_pixel_apart_cannot_be_cropped():
    """Rounding the offset would shift every prediction by half a pixel, and nobody would know."""
    with pytest.raises(ShapeError, match=r"0\.5 pixels apart.*change a kernel or padding"):
        CoordinateMap.of_window(2).then(CoordinateMap.of_window(1)).crop_onto(CoordinateMap.of_window(1, padding=-1))


def test_maps_of_different_scale_cannot_be_cropped():
    """A forgotten upsampling layer."""
    with pytest.raises(ShapeError, match="equal scale"):
        CoordinateMap.of_window(2, stride=2).crop_onto(CoordinateMap())


def test_two_threads_may_ask_the_cache_at_once(cache):
    """Both gradients of a layer do. A matrix made twice; sizes added up while they change (RuntimeError); one's matrix
    dropped by the other before it is handed out (KeyError).
    """
    both, made = threading.Barrier(2), []

    def make():
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)  # until the other one is in here, too
        made.append(scipy.sparse.identity(3, format="csr"))
        return made[-1]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: cache.get("some", make), range(2))
    assert len(made) == 1
    assert first is second is made[0]
