"""The fast path finds what the exact path finds, up to float32 and ties; places between pixels are true ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from emqa_dask import find_blobs
from emqa_dask.detect import log_exact, log_fast, peaks, scales, surface
from emqa_dask.detect.candidates import prune_maxima
from emqa_dask.detect.normalise import normalise

DATA = Path(__file__).parents[3] / "shared" / "data"
TOLERANCE = 1e-4  # of the normalised intensity range
SEARCH = {"min_sigma": 2, "max_sigma": 15, "num_sigma": 10, "threshold": 0.05, "overlap": 0.5}


def texture(seed, shape, blur=1.0):
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.standard_normal((9, 11)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return normalise(ndimage.gaussian_filter(rng.standard_normal(shape), blur) * 2 * blur + coarse, 1, 99)


def real_image(folder, position=0):
    images = DATA / folder / "images"
    if not images.is_dir():
        pytest.skip(f"real images absent: {images}")
    return normalise(cv2.imread(str(sorted(images.iterdir())[position]), cv2.IMREAD_GRAYSCALE), 1, 99)


def keys(found):
    return set(zip(found.y.tolist(), found.x.tolist(), found.scale.tolist(), found.polarity.tolist()))


def matched(a, b, sigmas):
    """How many rows of y_px, x_px, sigma_px belong together one to one, within 1 px and one scale."""
    near = cKDTree(a[:, :2]).sparse_distance_matrix(cKDTree(b[:, :2]), 1 + 1e-9, output_type="coo_matrix")
    step = [np.interp(rows[:, 2], sigmas, np.arange(len(sigmas))) for rows in (a, b)]
    keep = abs(step[0][near.row] - step[1][near.col]) <= 1 + 1e-6
    graph = coo_array((np.ones(keep.sum()), (near.row[keep], near.col[keep])), shape=(len(a), len(b))).tocsr()
    return (maximum_bipartite_matching(graph) >= 0).sum()


def assert_same_maxima(image, sigmas, threshold=0.03):
    """Equal positions and scales for 99.5 %; the others are ties or at the threshold, within a few tolerances.

    On a ridge that runs aslant the pixels hold steps, each a maximum by a hair: such ones a coarse grid may pass by.
    """
    fast = log_fast.find_scale_maxima(image, sigmas, threshold, "both")
    exact = log_exact.find_scale_maxima(image.astype(np.float64), sigmas, threshold, "both")
    sets = [dict(zip(zip(f.y, f.x, f.scale, f.polarity), f.response)) for f in (fast, exact)]
    common = sets[0].keys() & sets[1].keys()
    assert len(exact.y) > 0
    assert max(abs(sets[0][key] - sets[1][key]) for key in common) < TOLERANCE
    odd = sets[0].keys() ^ sets[1].keys()
    assert len(odd & sets[1].keys()) <= max(1, 0.005 * len(exact.y))
    cube = np.stack([-ndimage.gaussian_laplace(image.astype(np.float64), s) * s * s for s in sigmas])
    for y, x, scale, sign in odd:
        near = sign * cube[tuple(slice(max(0, i - 1), i + 2) for i in (scale, y, x))]
        value = sign * cube[scale, y, x]
        # The threshold is as near as the tolerance, or the largest of the other 26 values is.
        rival = np.delete(near.ravel(), np.argmin(abs(near.ravel() - value))).max()
        assert min(abs(value - threshold), abs(value - rival)) < 5 * TOLERANCE
    return len(exact.y)


@pytest.mark.parametrize("shape", [(257, 300), (256, 320), (301, 200)])
def test_the_same_maxima_in_textures(shape):
    assert assert_same_maxima(texture(0, shape), scales.compute_sigmas(1.5, 24, 9, True)) > 100


@pytest.mark.parametrize(("folder", "position"), [("arda_stem_np", 0), ("uw_cavity", 0), ("uw_loops", 1)])
def test_the_same_maxima_in_real_images(folder, position):
    image = real_image(folder, position)[:512, :512]
    assert assert_same_maxima(image, scales.compute_sigmas(2, 20, 8, True)) > 50


@pytest.mark.parametrize("log_scale", [True, False])
def test_blobs_match_those_of_the_exact_path_one_to_one(log_scale):
    """Pruning looks at blobs in an order that hangs on ties, and ends chains of overlaps otherwise: not all match."""
    sigmas = scales.compute_sigmas(2, 15, 10, log_scale)
    rows = []
    for image in (texture(5, (400, 500)), texture(6, (420, 333), blur=2), real_image("uw_cavity")[:512, :512]):
        found = [find_blobs(image, log_scale=log_scale, method=method, **SEARCH) for method in ("exact", "fast")]
        a, b = (blobs[["y_px", "x_px", "sigma_px"]].to_numpy() for blobs in found)
        rows.append((matched(a, b, sigmas), len(a), len(b)))
    n_matched, n_exact, n_fast = np.sum(rows, axis=0)
    assert n_exact > 1000
    assert n_matched >= 0.99 * max(n_exact, n_fast)


@pytest.mark.parametrize("folder", ["arda_stem_np", "uw_cavity"])
def test_pruning_keeps_the_same_blobs_except_few_chains(folder):
    """scikit-image's order of pruning hangs on every blob's rank, so that one tie more or less moves many choices."""
    image = real_image(folder)[:512, :512]
    sigmas = scales.compute_sigmas(2, 20, 8, True)
    fast = prune_maxima(log_fast.find_scale_maxima(image, sigmas, 0.03, "both"), sigmas, 0.3)
    exact = prune_maxima(log_exact.find_scale_maxima(image.astype(np.float64), sigmas, 0.03, "both"), sigmas, 0.3)
    assert len(keys(fast) ^ keys(exact)) <= 0.05 * len(keys(exact))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.6, 24), st.integers(0, 2**32))
def test_responses_agree_for_any_shape_and_scale(height, width, sigma, seed):
    image = texture(seed, (height, width))
    (layer,) = log_fast.compute_layers(image, np.array([sigma]))
    exact = -ndimage.gaussian_laplace(image.astype(np.float64), sigma) * sigma**2
    assert layer.grid.dtype == np.float32
    response = on_pixels(layer, image.shape)
    assert abs(response - exact)[np.isfinite(response)].max() <= 1.5 * TOLERANCE * np.ptp(image)


def on_pixels(layer, shape, every=7):
    """The layer's values on some pixels, NaN elsewhere."""
    out = np.full(shape, np.nan)
    plane = np.empty((3, 3))
    line = np.empty(surface.WIDE)
    for y in {*range(0, shape[0], every), shape[0] - 1}:
        for x in {*range(0, shape[1], every), shape[1] - 1}:
            table = surface.compute_lagrange_weights(layer.step)
            surface.fill_neighbourhood(layer.grid, layer.step, *table, np.float32(1), y, x, *shape, line, plane)
            out[y, x] = plane[1, 1]
    return out


@pytest.mark.parametrize("sigma", [1.0, 5.6, 11.5, 23.0, 50.0])
def test_flat_images_have_the_offset_of_the_truncated_kernel(sigma):
    (layer,) = log_fast.compute_layers(np.ones((500, 410), np.float32), np.array([sigma]))
    exact = -ndimage.gaussian_laplace(np.ones((500, 410)), sigma) * sigma**2
    assert abs(exact).min() > 1e-4
    np.testing.assert_allclose(layer.grid, exact[0, 0], atol=1e-5)


def test_coarse_grids_serve_large_scales_of_large_images_only():
    assert [log_fast.choose_grid_step(s, (4096, 4096)) for s in (2, 4.7, 4.8, 9.5, 9.6, 19.2, 44)] == [
        1,
        1,
        2,
        2,
        4,
        8,
        16,
    ]
    assert log_fast.choose_grid_step(44, (1, 100_000)) == 1


def test_an_empty_image_and_no_scales_give_nothing():
    for shape in ((0, 0), (0, 7), (7, 0)):
        assert len(log_fast.find_scale_maxima(np.zeros(shape, np.float32), np.array([2.0]), 0.1, "both").y) == 0
    assert len(log_fast.find_scale_maxima(np.ones((9, 9), np.float32), np.array([]), 0.1, "both").y) == 0


@pytest.mark.parametrize("polarity", ["bright", "dark"])
def test_one_polarity_is_its_part_of_both(polarity):
    image = texture(3, (200, 150))
    sigmas = scales.compute_sigmas(2, 12, 5, True)
    both = log_fast.find_scale_maxima(image, sigmas, 0.05, "both")
    one = log_fast.find_scale_maxima(image, sigmas, 0.05, polarity)
    part = scales.select_maxima(both, both.polarity == scales.parse_polarity(polarity)[0])
    assert len(one.y) > 10
    assert all(np.array_equal(a, b) for a, b in zip(one, part))
    negative = log_fast.find_scale_maxima(-image, sigmas, 0.05, {"bright": "dark", "dark": "bright"}[polarity])
    negative = negative._replace(polarity=-negative.polarity)
    assert all(np.array_equal(a, b) for a, b in zip(one, negative))


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(3.5, 12), st.booleans())
def test_gaussian_position_and_scale_are_recovered(dy, dx, sigma, log_scale):
    y, x = np.mgrid[:160, :170]
    image = 0.3 + np.exp(-((y - 70 - dy) ** 2 + (x - 90 - dx) ** 2) / (2 * sigma**2))
    found = find_blobs(image, log_scale=log_scale, method="fast", **SEARCH).iloc[0]
    assert found["y_px"] == pytest.approx(70 + dy, abs=0.1)
    assert found["x_px"] == pytest.approx(90 + dx, abs=0.1)
    sigmas = scales.compute_sigmas(2, 15, 10, log_scale)
    step = np.diff(sigmas)[max(0, np.searchsorted(sigmas, sigma) - 1)]
    assert found["sigma_px"] == pytest.approx(sigma, abs=0.25 * step)
    assert found["response"] == pytest.approx(0.5, rel=0.03)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.tuples(*[st.booleans()] * 3))
def test_quadratic_maxima_are_exact_and_steps_at_most_half(seed, has_both):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((3, 3))
    hessian = -(root @ root.T + 0.1 * np.eye(3))
    at = rng.uniform(-0.5, 0.5, 3)
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1) - at
    cube = 2 + 0.5 * np.einsum("...i,ij,...j", grid, hessian, grid)
    fit = surface.refine_cubes(cube[None], np.ones((1, 3), bool))[:, 0]
    np.testing.assert_allclose(fit, [*at, 2], atol=1e-6)
    fit = surface.refine_cubes(rng.random((1, 3, 3, 3)), np.array([has_both]))[:, 0]
    assert (abs(fit[:3]) <= 0.5).all()
    assert (fit[:3][~np.array(has_both)] == 0).all()


def test_peaks_are_those_of_a_maximum_filter_plateaus_included():
    rng = np.random.default_rng(4)
    cube = rng.integers(0, 6, (3, 60, 50)).astype(np.float32)
    expected = (cube == ndimage.maximum_filter(cube, size=3, mode="nearest")) & (cube > 4)
    layers = (peaks.Layer(np.ascontiguousarray(layer), 1) for layer in cube)
    found, n_met = peaks.collect_peaks(layers, cube.shape[1:], (1,), 4.0)
    assert n_met == {1: expected.sum()}
    assert keys(found) == {(y, x, k, 1) for k, y, x in np.argwhere(expected).tolist()}


def test_fast_gives_the_columns_of_exact():
    image = texture(7, (90, 80))
    fast, exact = (find_blobs(image, method=m, **(SEARCH | {"max_sigma": 8})) for m in ("fast", "exact"))
    assert (fast.dtypes == exact.dtypes).all()
    assert len(fast) > 10
    assert fast["response"].is_monotonic_decreasing


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_relative_thresholds_agree_with_the_exact_path(threshold):
    image = texture(8, (120, 130))
    search = SEARCH | {"threshold": threshold, "overlap": None, "threshold_rel": 0.4, "polarity": "both"}
    fast, exact = (find_blobs(image, method=m, **search) for m in ("fast", "exact"))
    assert len(exact) > 10
    assert abs(len(fast) - len(exact)) <= 1
    assert len(find_blobs(np.ones((40, 40)), method="fast", **search)) == 0
