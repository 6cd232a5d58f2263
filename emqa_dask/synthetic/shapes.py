"""Objects as projected thickness: spheroids and faceted polyhedra, and where to put them."""

import numpy as np
from scipy.spatial.transform import Rotation

# Facet normals and their relative distances from the centre; voids in cubic metals are truncated octahedra.
_CUBE = np.vstack([np.eye(3), -np.eye(3)])
_OCTAHEDRON = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) / np.sqrt(3)
_DODECAHEDRON = np.array([np.roll([0, i, j], shift) for shift in range(3) for i in (-1, 1) for j in (-1, 1)]) / np.sqrt(
    2
)


def draw_log_normal_radii(
    rng: np.random.Generator, n: int, median: float, sigma: float, low: float, high: float
) -> np.ndarray:
    """`n` radii, float64: log-normal about `median` with `sigma` of the logarithm, clipped to [low, high]."""
    return np.clip(median * np.exp(sigma * rng.standard_normal(n)), low, high)


def place_circles(
    rng: np.random.Generator, radii: np.ndarray, shape: tuple[int, int], *, overlap: float, margin: float = 0.3
) -> np.ndarray:
    """Centres (n x 2 float64, y then x) of circles that overlap by at most `overlap` of the smaller diameter.

    Large objects are placed first; one that finds no room in 20 tries is left out (its row is NaN). Centres may lie
    outside the image by `margin` radii, so that some objects are cut by the edge.
    """
    centres = np.full((len(radii), 2), np.nan)
    placed = np.zeros((len(radii), 3))  # y, x, radius
    count = 0
    for i in np.argsort(-radii, kind="stable"):
        reach = margin * radii[i]
        tries = rng.uniform(-reach, np.array(shape) + reach, size=(20, 2))
        y, x, r = placed[:count].T
        nearest = (radii[i] + r - overlap * 2 * np.minimum(radii[i], r)) ** 2
        for some in (tries[:3], tries[3:]):  # mostly one of the first fits
            gap = (some[:, :1] - y) ** 2 + (some[:, 1:] - x) ** 2
            fits = np.flatnonzero((gap >= nearest).all(axis=1))
            if fits.size:
                centres[i] = some[fits[0]]
                placed[count] = *centres[i], radii[i]
                count += 1
                break
    return centres


def _make_pixel_grid(cy: float, cx: float, reach: float) -> tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Corner (y0, x0) of a window of `reach` px around a centre; y and x of its pixels relative to the centre."""
    y0, x0 = int(np.floor(cy - reach)), int(np.floor(cx - reach))
    y1, x1 = int(np.ceil(cy + reach)) + 1, int(np.ceil(cx + reach)) + 1
    y = (np.arange(y0, y1) - cy)[:, None]
    x = (np.arange(x0, x1) - cx)[None, :]
    return (y0, x0), (y, x)


def project_spheroid(
    cy: float, cx: float, radius: float, *, aspect: float = 1.0, angle: float = 0.0
) -> tuple[int, int, np.ndarray]:
    """A spheroid's projected thickness, px: `(y0, x0, patch)`, float32, 0 outside; `aspect` is long over short axis."""
    long = radius * np.sqrt(aspect)
    short = radius / np.sqrt(aspect)
    (y0, x0), (y, x) = _make_pixel_grid(cy, cx, long)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / long, (y * np.cos(angle) - x * np.sin(angle)) / short
    return y0, x0, (2 * short * np.sqrt(np.clip(1 - u * u - v * v, 0, None))).astype(np.float32)


def make_facets(rotation: Rotation, *, truncation: float, crystal_shape: str) -> tuple[np.ndarray, np.ndarray]:
    """A crystal's face normals (k x 3, columns x, y, z) and distances, for a shadow with the area of a unit circle.

    `crystal_shape` is octahedron (truncated by cube faces), cube (truncated by octahedron faces) or dodecahedron (with
    cube faces); a smaller `truncation` cuts corners deeper, 1 leaves them.
    """
    faces, cuts, corner = {
        "octahedron": (_OCTAHEDRON, _CUBE, np.sqrt(3)),
        "cube": (_CUBE, _OCTAHEDRON, np.sqrt(3)),
        "dodecahedron": (_DODECAHEDRON, _CUBE, np.sqrt(2)),
    }[crystal_shape]
    normals = rotation.apply(np.vstack([faces, cuts]))
    distances = np.concatenate([np.ones(len(faces)), np.full(len(cuts), corner * truncation)])
    axis = np.linspace(-1.9, 1.9, 96)
    shadow = _compute_chord_length(normals, distances, axis[:, None], axis[None, :]) > 0
    return normals, distances / np.sqrt(shadow.sum() * (axis[1] - axis[0]) ** 2 / np.pi)


def project_polyhedron(cy: float, cx: float, radius: float, normals: np.ndarray, distances: np.ndarray):
    """A faceted crystal's projected thickness, px: `(y0, x0, patch)`, float32, 0 outside.

    `normals` and `distances` are from `make_facets`; `radius` is that of the circle with the shadow's area.
    """
    (y0, x0), (y, x) = _make_pixel_grid(cy, cx, 1.6 * radius)
    return y0, x0, _compute_chord_length(normals, distances * radius, y, x).astype(np.float32)


def _compute_chord_length(normals: np.ndarray, distances: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    upper, lower = (
        np.full(np.broadcast_shapes(y.shape, x.shape), np.inf),
        np.full(np.broadcast_shapes(y.shape, x.shape), -np.inf),
    )
    for (nx, ny, nz), d in zip(normals, distances):
        side = d - nx * x - ny * y
        if nz > 1e-6:
            upper = np.minimum(upper, side / nz)
        elif nz < -1e-6:
            lower = np.maximum(lower, side / nz)
        else:
            upper = np.where(side < 0, -np.inf, upper)
    return np.clip(upper - lower, 0, None)
