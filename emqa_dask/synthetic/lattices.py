"""Atomic lattices as HAADF-STEM shows them: columns at known sites, optionally a region without order."""

import cv2
import numpy as np
from scipy import sparse

from emqa_dask.synthetic import camera, fields
from emqa_dask.synthetic.sample import Mask, Sample, compute_tight_boxes, draw_log_uniform, use_given

# of a square's side: no island of order or disorder is smaller; less repeats nothing
PERIODS = 3
SPACINGS = 5

# Projected cells: a, b (nm), angle between them (degrees), basis of (u, v, relative column intensity, label).
# Intensities follow Z**1.7 (Pennycook); sizes from the bulk lattice constants.
CELLS = {
    "SrTiO3 [001]": (0.3905, 0.3905, 90.0, ((0.0, 0.0, 1.0, "Sr"), (0.5, 0.5, 0.55, "Ti"))),
    "Au [001]": (0.2039, 0.2039, 90.0, ((0.0, 0.0, 1.0, "Au"),)),
    "Au [110]": (0.4078, 0.2884, 90.0, ((0.0, 0.0, 1.0, "Au"), (0.5, 0.5, 1.0, "Au"))),
    "Si [110]": (
        0.5431,
        0.3840,
        90.0,
        ((0.0, 0.0, 1.0, "Si"), (0.25, 0.5, 1.0, "Si"), (0.5, 0.5, 1.0, "Si"), (0.75, 0.0, 1.0, "Si")),
    ),
    "MoS2 [001]": (0.3160, 0.3160, 120.0, ((0.0, 0.0, 1.0, "Mo"), (1 / 3, 2 / 3, 0.38, "S"))),
    "YBCO [100]": (
        0.3886,
        1.1680,
        90.0,
        (
            (0.5, 0.184, 1.0, "Ba"),
            (0.5, 0.816, 1.0, "Ba"),
            (0.5, 0.5, 0.72, "Y"),
            (0.0, 0.0, 0.42, "Cu"),
            (0.0, 0.356, 0.42, "Cu"),
            (0.0, 0.644, 0.42, "Cu"),
        ),
    ),
}

# As CELLS, with invented columns; drawn only by name, so that what is drawn from CELLS at random stays the same.
NAMED_CELLS = {
    "four types [001]": (
        0.5500,
        0.5500,
        90.0,
        ((0.0, 0.0, 1.0, "A"), (0.5, 0.5, 0.75, "B"), (0.5, 0.0, 0.5, "C"), (0.0, 0.5, 0.28, "D")),
    ),
}


def draw_lattice(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    cell: str | None = None,
    rotation_deg: float | None = None,
    nm_per_pixel: float | None = None,
    column_sigma_px: float | None = None,
    jitter_px: float | None = None,
    vacancies: float | None = None,
    disorder: bool | None = None,
    background: float | None = None,
    dtype: str | None = None,
    exposure: dict | None = None,
) -> Sample:
    """A lattice image, drift-free; whatever is None is drawn from ranges that span trivial to hopeless.

    `cell` names a row of `CELLS` or `NAMED_CELLS`; columns are Gaussians of standard deviation `column_sigma_px` at
    `meta["sites_yx"]` (n x 2 float64, px, pixel centres are integers), displaced by `jitter_px` (standard deviation)
    from the perfect lattice; a fraction `vacancies` is missing. With `disorder`, columns inside `meta["disordered"]`
    (bool image) give way to amorphous speckle of the same mean intensity. A column's mask is the disc within 1/e of its
    maximum, radius `sqrt(2) sigma`. `background` scales thickness variation. Raises ValueError for an unknown cell.
    """
    cell = _draw_cell(rng, cell)
    spacing_nm = _compute_nearest_spacing_nm(*get_cell(cell))
    # A spacing of 7 to 26 px: about 300 to 5000 columns in 512 x 512.
    nm_per_pixel = use_given(nm_per_pixel, spacing_nm / draw_log_uniform(rng, 7, 26))
    sigma = use_given(column_sigma_px, max(1.2, spacing_nm / nm_per_pixel * rng.uniform(0.13, 0.3)))
    rotation_deg = use_given(rotation_deg, rng.uniform(0, 90))
    jitter = use_given(jitter_px, float(rng.choice([0.0, 0.03, 0.12])) * spacing_nm / nm_per_pixel)
    vacancies = use_given(vacancies, float(rng.choice([0.0, 0.01, 0.06])))
    disorder = use_given(disorder, bool(rng.random() < 0.35))
    background = use_given(background, draw_log_uniform(rng, 0.05, 1.0))
    sites, weights, names = _place_sites(rng, shape, cell, nm_per_pixel, rotation_deg, margin_px=4 * sigma)
    is_present = rng.random(len(sites)) >= vacancies
    sites, weights, names = sites[is_present], weights[is_present], names[is_present]
    sites = sites + jitter * rng.standard_normal(sites.shape)
    min_side_px = _compute_min_side_nm(cell) / nm_per_pixel
    disordered = _draw_region(rng, shape, min_side_px) if disorder else np.zeros(shape, bool)
    nearest = np.clip(np.rint(sites).astype(int), 0, np.array(shape) - 1)
    is_ordered = ~disordered[nearest[:, 0], nearest[:, 1]]
    sites, weights, names = sites[is_ordered], weights[is_ordered], names[is_ordered]
    columns = _render_columns(sites, weights, sigma, shape)
    intensity = _compute_intensity(rng, columns, disordered, sigma, background, disorder)
    settings = use_given(exposure, _draw_exposure(rng))
    dtype = use_given(dtype, str(rng.choice(["uint8", "uint16", "float32"], p=[0.3, 0.45, 0.25])))
    image = camera.record(rng, intensity, dtype, settings)
    masks, visible_indices = _make_disc_masks(sites, np.sqrt(2) * sigma, shape)
    meta = {
        "family": "atomic-stem",
        "cell": cell,
        "rotation_deg": float(rotation_deg),
        "spacing_px": float(spacing_nm / nm_per_pixel),
        "column_sigma_px": float(sigma),
        "sites_yx": sites[visible_indices],
        "disordered": disordered,
        "voltage_kv": float(rng.choice([80, 200, 300])),
        **settings,
    }
    return Sample(image, compute_tight_boxes(masks), masks, names[visible_indices].tolist(), float(nm_per_pixel), meta)


def _draw_cell(rng: np.random.Generator, cell: str | None) -> str:
    """`cell`, or a random name of CELLS where it is None. ValueError for another name."""
    cell = use_given(cell, str(rng.choice(sorted(CELLS))))
    if cell not in CELLS | NAMED_CELLS:
        raise ValueError(f"cell {cell!r} is not one of {', '.join(sorted(CELLS | NAMED_CELLS))}")
    return cell


def get_cell(cell: str) -> tuple:
    """a, b (nm), angle (degrees) and basis of a cell of CELLS or NAMED_CELLS."""
    return CELLS[cell] if cell in CELLS else NAMED_CELLS[cell]


def _draw_exposure(rng: np.random.Generator) -> dict:
    """Random camera settings without transfer function and seam: a scanned image has neither."""
    return camera.draw_settings(rng, low_dose=0.7, high_dose=700) | {"mtf_sigma_px": 0.0, "seam": False}


def _compute_intensity(rng, columns, disordered, sigma, background, has_disorder) -> np.ndarray:
    """Relative intensity, 1 on average, of an image of `columns` with speckle in its `disordered` part and haze."""
    shape = columns.shape
    signal = columns * (1 + 0.5 * background * fields.draw_gradient(rng, shape))
    if has_disorder:
        level = float(columns[~disordered].mean()) if (~disordered).any() else 1.0
        speckle = level * np.clip(1 + 0.45 * fields.draw_white_noise(rng, shape, 0.8 * sigma), 0, None)
        blend = cv2.GaussianBlur(disordered.astype(np.float32), (0, 0), sigma)
        signal = signal * (1 - blend) + speckle * blend
    # Diffuse scattering and surface contamination lift the valleys.
    floor = draw_log_uniform(rng, 0.05, 1.5) * float(columns.mean())
    haze = 1 + 0.4 * background * fields.draw_fractal(rng, shape, exponent=2.8, finest_px=max(4.0, 3 * sigma))
    intensity = signal + floor * np.clip(haze, 0.1, None)
    return intensity / max(float(intensity.mean()), 1e-6)


def _compute_lattice_vectors(a: float, b: float, gamma_deg: float, rotation_deg: float) -> np.ndarray:
    gamma = np.deg2rad(gamma_deg)
    rotation_rad = np.deg2rad(rotation_deg)
    return np.array(
        [
            [a * np.sin(rotation_rad), a * np.cos(rotation_rad)],
            [b * np.sin(rotation_rad + gamma), b * np.cos(rotation_rad + gamma)],
        ]
    )


def _compute_nearest_spacing_nm(a: float, b: float, gamma_deg: float, basis) -> float:
    uv = np.array([(u, v) for u, v, *_ in basis])
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    gaps = (uv[:, None, None] - uv[None, :, None] + shifts) @ _compute_lattice_vectors(a, b, gamma_deg, 0)
    lengths = np.linalg.norm(gaps, axis=-1)
    return float(lengths[lengths > 1e-6].min())


def _compute_min_side_nm(cell: str) -> float:
    """Side of a square of the smallest island of order or disorder in a lattice of `cell`."""
    a_nm, b_nm, gamma_deg = get_cell(cell)[:3]
    cell_nm = np.sqrt(a_nm * b_nm * np.sin(np.radians(gamma_deg)))
    return max(PERIODS * cell_nm, SPACINGS * _compute_nearest_spacing_nm(*get_cell(cell)))


def _place_sites(rng, shape, cell, nm_per_pixel, rotation_deg, margin_px) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (n x 2, y then x, px), intensities and labels of all columns in the image and `margin_px` around it."""
    a, b, gamma = get_cell(cell)[:3]
    vectors = _compute_lattice_vectors(a, b, gamma, rotation_deg) / nm_per_pixel
    origin = np.array(shape) / 2 + rng.uniform(-0.5, 0.5, 2) @ vectors
    reach = (
        int(np.ceil((np.hypot(*shape) / 2 + margin_px) / (min(a, b) * np.sin(np.deg2rad(gamma)) / nm_per_pixel))) + 1
    )
    i, j = (axis.ravel() for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    sites = []
    weights = []
    names = []
    for u, v, weight, name in get_cell(cell)[3]:
        points = origin + np.stack([i + u, j + v], axis=1) @ vectors
        is_inside = ((points > -margin_px) & (points < np.array(shape) - 1 + margin_px)).all(axis=1)
        sites.append(points[is_inside])
        weights.append(np.full(is_inside.sum(), weight))
        names.append(np.full(is_inside.sum(), name, dtype=object))
    return np.concatenate(sites), np.concatenate(weights), np.concatenate(names)


def _render_columns(sites: np.ndarray, weights: np.ndarray, sigma: float, shape: tuple[int, int]) -> np.ndarray:
    """The sum of Gaussian columns, float32: sampled at pixel centres within 4 sigma, so maxima lie on the sites."""
    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    rows, columns = (np.rint(sites[:, axis]).astype(int)[:, None] + offsets for axis in (0, 1))
    gy = np.exp(-0.5 * ((rows - sites[:, :1]) / sigma) ** 2) * weights[:, None]
    gx = np.exp(-0.5 * ((columns - sites[:, 1:]) / sigma) ** 2)
    gy[(rows < 0) | (rows >= shape[0])] = 0
    gx[(columns < 0) | (columns >= shape[1])] = 0
    # Separable: image = sum of outer products = Gy^T Gx with Gy, Gx sparse matrices of sites x pixels.
    starts = np.arange(len(sites) + 1) * len(offsets)
    y_profiles = sparse.csr_matrix(
        (gy.ravel(), np.clip(rows, 0, shape[0] - 1).ravel(), starts), shape=(len(sites), shape[0])
    )
    x_profiles = sparse.csr_matrix(
        (gx.ravel(), np.clip(columns, 0, shape[1] - 1).ravel(), starts), shape=(len(sites), shape[1])
    )
    return np.asarray((y_profiles.T @ x_profiles).todense(), dtype=np.float32)


def _make_disc_masks(sites: np.ndarray, radius: float, shape: tuple[int, int]) -> tuple[list[Mask], np.ndarray]:
    """Disc masks of the columns whose site lies in the image, and the indices of those."""
    visible_indices = np.flatnonzero(((sites >= 0) & (sites <= np.array(shape) - 1)).all(axis=1))
    reach = int(np.ceil(radius))
    corner = np.rint(sites[visible_indices]).astype(int) - reach
    y, x = (corner[:, axis, None] + np.arange(2 * reach + 1) for axis in (0, 1))
    dy2 = (y - sites[visible_indices][:, :1]) ** 2
    dx2 = (x - sites[visible_indices][:, 1:]) ** 2
    dy2[(y < 0) | (y >= shape[0])] = np.inf
    dx2[(x < 0) | (x >= shape[1])] = np.inf
    discs = dy2[:, :, None] + dx2[:, None, :] <= radius * radius
    spans = []
    for axis in (2, 1):
        any_ = discs.any(axis=axis)
        spans += [any_.argmax(axis=1), any_.shape[1] - any_[:, ::-1].argmax(axis=1)]
    masks = [
        (int(cy + top), int(cx + left), disc[top:bottom, left:right])
        for (cy, cx), disc, top, bottom, left, right in zip(corner, discs, *spans)
    ]
    return masks, visible_indices


def _draw_region(rng: np.random.Generator, shape: tuple[int, int], min_side_px: float) -> np.ndarray:
    """A random region of about 10 to 50 % of the image, bool, without islands and holes below `min_side_px` squared."""
    field = fields.draw_gradient(rng, shape) + 0.5 * fields.draw_fractal(rng, shape, exponent=4.5, finest_px=24)
    region = field > np.quantile(field, rng.uniform(0.5, 0.9))
    for phase in (True, False):
        labels, stats = cv2.connectedComponentsWithStats((region == phase).astype(np.uint8))[1:3]
        sizes = stats[:, cv2.CC_STAT_AREA]
        is_small = sizes < min(min_side_px**2, sizes[1:].max(initial=0))  # the largest part stays, however small
        is_small[0] = False  # the other phase
        region ^= is_small[labels]
    return region
