"""Thon rings: defocus, astigmatism and information limit of the lens from the power spectrum of an amorphous film.

In `u = q^2` the rings of a round lens are a sinusoid of frequency `wavelength * defocus`, apart from the known term of
the spherical aberration. One Fourier transform along u, for each sector of the spectrum, therefore tries every defocus
of either sign; astigmatism shifts the sectors against each other. Cf. Rohou & Grigorieff, J. Struct. Biol. 192 (2015)
216 (CTFFIND4): the model, and 0.5 as the limit of a local correlation. The search along u and the quality figure are
our own.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from emqa_dask.backend import get_array_modules, to_host
from emqa_dask.optics import compute_wavelength

SIDE_PX = 1024  # of the middle that is looked at: bounds the cost
MIN_SIDE_PX = 256
SECTORS = 12
POINTS = 512  # along u
MIN_RINGS = 3.0  # fewer, and any bump of a spectrum would do
MIN_QUALITY = 0.55  # images without rings reach 0.5
MIN_DEVIATIONS = 6.8  # of the correlation with the rings; white noise, best of all defoci, reaches 6.2
MAX_RINGS_PER_BIN = 0.35
# astigmatism tried, as a share of the defocus, and its directions
RATIOS = (0.1, 0.2)
TURNS = 6
ANGLES = np.arange(SECTORS) * np.pi / SECTORS


class ThonRings(NamedTuple):
    """What `measure_thon_rings` finds. All but `quality` are NaN where no rings are seen."""

    defocus_nm: float = np.nan  # magnitude of the mean: one image does not tell the sign
    defocus_long_nm: float = np.nan  # magnitude where it is largest, and where smallest
    defocus_short_nm: float = np.nan
    astigmatism_deg: float = np.nan  # direction of the largest, 0 to 180, from the columns' axis towards the rows'
    limit_per_nm: float = np.nan  # cycles/nm up to which the spectrum follows the rings
    quality: float = 0.0  # 0 to 1: mean local correlation of the spectrum with the rings up to there


class Lens(NamedTuple):
    wavelength_nm: float
    cs_nm: float
    shift: float  # phase that amplitude contrast takes off, radians

    def phase(self, q: NDArray, defocus_nm: NDArray | float) -> NDArray:
        """`2 (chi - shift)`, radians: the power of a film goes with 1 minus its cosine."""
        u = q * q
        aberration = self.wavelength_nm * u * (defocus_nm + 0.5 * self.cs_nm * self.wavelength_nm**2 * u)
        return 2 * np.pi * aberration - 2 * self.shift


class LogPower(NamedTuple):
    """Mean log-power of the middle of an image in rings, one pixel of its transform (2 r, 2 r) apart, and sectors."""

    mean: NDArray[np.float64]  # (r, SECTORS): of the logarithm, a lattice's peaks hardly raise it
    n: NDArray[np.int64]  # (r, SECTORS) pixels of the transform that a cell holds


class Spectrum(NamedTuple):
    q: NDArray  # (r,) cycles/nm of the rings' middles
    power: NDArray  # (r, SECTORS) as LogPower.mean
    n: NDArray  # (r, SECTORS) as LogPower.n


def measure_thon_rings(
    image: Any, nm_per_pixel: float, voltage_kv: float, *, cs_mm: float = 1.2, amplitude: float = 0.1
) -> ThonRings:
    """Defocus, astigmatism and information limit of `image` (h, w) from the rings of its spectrum.

    The middle 1024 px are looked at, on the device that holds the image. `cs_mm` is the spherical aberration,
    `amplitude` the share of amplitude contrast (0.07 to 0.1 for carbon). Three rings at least are asked for. All NaN
    with quality 0 where `nm_per_pixel` or `voltage_kv` is unknown (NaN) and where the image is below 256 px, flat or
    holds a NaN; all NaN beside the quality where there are no rings. Raises ValueError for an image that is not (h, w).
    """
    if len(image.shape) != 2:
        raise ValueError(f"image of shape {image.shape}: give one frame (h, w) in grey")
    has_optics = np.isfinite(nm_per_pixel) and np.isfinite(voltage_kv) and nm_per_pixel > 0 and voltage_kv > 0
    log_power = compute_log_power(image) if has_optics else None
    return find_thon_rings(log_power, nm_per_pixel, voltage_kv, cs_mm=cs_mm, amplitude=amplitude)


def find_thon_rings(
    log_power: LogPower | None, nm_per_pixel: float, voltage_kv: float, *, cs_mm: float = 1.2, amplitude: float = 0.1
) -> ThonRings:
    """`measure_thon_rings` of the image whose `log_power` is given, with known optics; on the host."""
    if log_power is None:
        return ThonRings()
    r = len(log_power.n)
    spectrum = Spectrum(np.arange(r) / (2 * r * nm_per_pixel), *log_power)
    lens = Lens(float(compute_wavelength(voltage_kv)), 1e6 * cs_mm, float(np.arcsin(amplitude)))
    estimate = _search(spectrum, lens)
    if estimate is None:
        return ThonRings()
    defoci, limit, quality = _refine_defoci(spectrum, lens, *estimate)
    if quality < MIN_QUALITY:
        return ThonRings(quality=quality)
    mean = abs(float(defoci[0]))
    spread = float(np.hypot(defoci[1], defoci[2]))
    turn = np.arctan2(defoci[2], defoci[1]) / 2 + (np.pi / 2 if defoci[0] < 0 else 0)
    angle = float(np.rad2deg(turn) % 180)
    return ThonRings(mean, mean + spread, mean - spread, angle, float(spectrum.q[limit]), quality)


def compute_log_power(image: Any) -> LogPower | None:
    """Log-power of the middle of `image` (h, w), Hann window, in rings and sectors; None below 256 px and when flat.

    An image on a device is transformed there, and the sums over rings and sectors come back.
    """
    t = min(*image.shape, SIDE_PX) // 2 * 2
    if t < MIN_SIDE_PX:
        return None
    xp, _ = get_array_modules(image)
    y, x = ((length - t) // 2 for length in image.shape)
    # In double precision: in images with hardly any rings the search would depend on rounding.
    tile = image[y : y + t, x : x + t].astype(np.float32).astype(np.float64)
    low, high = np.percentile(to_host(tile[::8, ::8]), [1, 99]).tolist()
    if not high > low:
        return None
    tile = xp.clip(tile, 2 * low - high, 2 * high - low)  # X-rays and hot pixels are white noise of their own
    window = xp.asarray(np.hanning(t + 1)[:t].astype(np.float32))
    tile = (tile - tile.mean()) * window * window[:, None]
    f = fft.rfft2(tile, workers=1) if xp is np else xp.fft.rfft2(tile)
    power = f.real**2 + f.imag**2
    if not math.isfinite(float(power[1, 1])):  # a NaN in the image is in every frequency
        return None
    cell, n = _make_polar_cells(t)
    logs = xp.log(power + np.float32(1e-12) * power.mean()).ravel()
    total = to_host(xp.bincount(xp.asarray(cell), logs, n.size + 1))[:-1]
    return LogPower(total.reshape(n.shape) / np.maximum(n, 1), n)


@lru_cache(maxsize=4)
def _make_polar_cells(t: int) -> tuple[NDArray, NDArray]:
    """The cell (t * (t // 2 + 1),) of every frequency, the last one for those left out, and cells' sizes."""
    qy = fft.fftfreq(t, 1 / t)[:, None]
    qx = fft.rfftfreq(t, 1 / t)[None]
    ring = np.rint(np.hypot(qy, qx)).astype(np.intp)
    sector = np.rint(np.mod(np.arctan2(qy, qx), np.pi) / np.pi * SECTORS).astype(np.intp) % SECTORS
    on_axis = (np.abs(qy) < 0.5) | (qx < 0.5)  # where a camera's lines and seams are
    left_out = (ring < 2) | (ring >= t // 2) | on_axis
    n = t // 2 * SECTORS
    cell = np.where(left_out, n, ring * SECTORS + sector).ravel()
    return cell, np.bincount(cell, minlength=n + 1)[:-1].reshape(-1, SECTORS)


def _detrend_log_power(spectrum: Spectrum, low: int, top: int) -> NDArray:
    """Log-power (top - low, SECTORS) of a band less a polynomial of degree 4 in q and each sector's mean."""
    power = spectrum.power[low:top]
    n = spectrum.n[low:top]
    weight = n.sum(axis=1)
    basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, top - low), 4)
    root = np.sqrt(weight)
    mean = (power * n).sum(axis=1) / np.maximum(weight, 1)
    trend = basis @ np.linalg.lstsq(basis * root[:, None], mean * root, rcond=None)[0]
    rest = power - trend[:, None]
    return rest - (rest * n).sum(axis=0) / np.maximum(n.sum(axis=0), 1)


def _search(spectrum: Spectrum, lens: Lens) -> tuple[NDArray, int, int] | None:
    """Signed defocus and its two astigmatic parts (3,), and the band of rings [low, top) that shows them best."""
    best_evidence = 0.0
    estimate = None
    for octaves in np.arange(8) / 2:
        top = int(0.98 * len(spectrum.q) * 2**-octaves)
        low = max(4, top // 5)
        if top - low < 24:
            break
        evidence, defoci = _search_band(spectrum, lens, low, top)
        if evidence > best_evidence:
            best_evidence = evidence
            estimate = (defoci, low, top)
    return estimate


def _search_band(spectrum: Spectrum, lens: Lens, low: int, top: int) -> tuple[float, NDArray | None]:
    q = spectrum.q[low:top]
    rest = _detrend_log_power(spectrum, low, top)
    u = np.linspace(q[0] ** 2, q[-1] ** 2, POINTS)
    ring_position = np.interp(np.sqrt(u), q, np.arange(len(q)))
    ring_below = np.minimum(ring_position.astype(int), len(q) - 2)
    part = (ring_position - ring_below)[:, None]
    x = (rest[ring_below] * (1 - part) + rest[ring_below + 1] * part).T
    f = np.fft.fftfreq(4 * POINTS, u[1] - u[0])
    can_be = (np.abs(f) * (u[-1] - u[0]) >= MIN_RINGS) & (np.abs(f) * 2 * q[-1] * spectrum.q[1] < MAX_RINGS_PER_BIN)
    candidates = np.flatnonzero(can_be)
    if not len(candidates):
        return 0.0, None
    aberration_phasor = np.exp(-1j * lens.phase(np.sqrt(u), 0.0))
    rings = fft.fft((x * aberration_phasor).astype(np.complex64), len(f), axis=1, workers=1)
    gain = -(rings * np.exp(-2j * np.pi * f * u[0]).astype(np.complex64)).real * np.float32(2 / POINTS)
    noise = float(np.square(x - x.mean(axis=0)).mean()) / SECTORS + 1e-9
    signed = np.where(candidates < len(f) // 2, candidates, candidates - len(f))
    best = 0.0
    defoci = None
    for ratio, turn in [(0.0, 0.0), *((a, b * np.pi / TURNS) for a in RATIOS for b in range(TURNS))]:
        place = np.rint(signed * (1 + ratio * np.cos(2 * (ANGLES - turn)))[:, None]).astype(np.int32)
        score = np.take_along_axis(gain, place % len(f), axis=1).mean(axis=0)
        k = int(score.argmax())
        evidence = max(float(score[k]), 0.0) ** 2 / noise * (top - low)
        if evidence > best:
            parts = np.array([1.0, ratio * np.cos(2 * turn), ratio * np.sin(2 * turn)])
            best = evidence
            defoci = f[candidates[k]] / lens.wavelength_nm * parts
    return best, defoci


def _refine_defoci(spectrum: Spectrum, lens: Lens, defoci: NDArray, low: int, top: int) -> tuple[NDArray, int, float]:
    """The defoci (3,) refined, of the likelier sign; the ring of the information limit; and the quality."""
    defoci, _ = _fit_defoci(spectrum, lens, defoci, low, top)
    limit = _limit(_correlate_locally(spectrum, lens, defoci), low, top)
    middle = (spectrum.q[low] ** 2 + spectrum.q[top - 1] ** 2) / 2
    low, top = max(4, min(low, limit // 6)), max(limit, low + 24)
    mirrored = -defoci - np.array([2 * lens.cs_nm * lens.wavelength_nm**2 * middle, 0, 0])
    estimates = [_fit_defoci(spectrum, lens, start, low, top) for start in (defoci, mirrored)]
    defoci, deviations = max(estimates, key=lambda estimate: estimate[1])
    local = _correlate_locally(spectrum, lens, defoci)
    quality = float(np.clip(np.nan_to_num(local[low:top]).mean(), 0, 1))
    n_rings = abs(np.diff(lens.phase(spectrum.q[[low, top - 1]], defoci[0]))[0]) / (2 * np.pi)
    limit = _limit(local, low, top)
    is_lens = np.hypot(defoci[1], defoci[2]) < 0.6 * abs(defoci[0]) and n_rings >= MIN_RINGS - 0.5
    return defoci, limit, quality if is_lens and deviations >= MIN_DEVIATIONS else min(quality, 0.5)


def _fit_defoci(spectrum: Spectrum, lens: Lens, start: NDArray, low: int, top: int) -> tuple[NDArray, float]:
    """The defoci (3,) near `start` where the band follows the rings best, and by how many deviations of noise."""
    q = spectrum.q[low:top, None].astype(np.float32)
    n = spectrum.n[low:top]
    weighed = (n / n.sum() * _detrend_log_power(spectrum, low, top)).astype(np.float32)
    unit = 1 / (2 * np.pi * lens.wavelength_nm * float(q[-1, 0]) ** 2)  # a radian at the end of the band
    shapes = np.stack([np.ones(SECTORS), np.cos(2 * ANGLES), np.sin(2 * ANGLES)]) * unit
    in_focus_phase = lens.phase(q, 0.0)
    slope = np.float32(2 * np.pi * lens.wavelength_nm) * q * q

    def cost(p: NDArray) -> tuple[float, NDArray]:
        phase = in_focus_phase + slope * (p @ shapes).astype(np.float32)
        return float((weighed * np.cos(phase)).sum()), -shapes @ (weighed * np.sin(phase) * slope).sum(axis=0)

    options = {"maxiter": 20, "gtol": 1e-4}
    optimum = optimize.minimize(cost, start / unit, jac=True, method="BFGS", options=options)
    return optimum.x * unit, -float(optimum.fun) / np.sqrt(0.5 * float(np.square(weighed).sum()) + 1e-30)


def _correlate_locally(spectrum: Spectrum, lens: Lens, defoci: NDArray) -> NDArray:
    """Correlation (r,) of spectrum and rings in a window of two rings around each frequency, a slope taken out of both.

    Sectors are stretched to the mean defocus first, then averaged. NaN where the window leaves the spectrum or the
    rings are too fine for it.
    """
    q = spectrum.q
    mean = defoci[0]
    by_angle = defoci @ np.stack([np.ones(SECTORS), np.cos(2 * ANGLES), np.sin(2 * ANGLES)])
    stretch = np.sqrt(np.clip(mean / np.where(by_angle == 0, np.inf, by_angle), 0.25, 4))
    profile = np.mean([np.interp(q * stretch[k], q, spectrum.power[:, k]) for k in range(SECTORS)], axis=0)
    phase = lens.phase(q, mean)
    rate = np.abs(np.gradient(phase)) / (2 * np.pi)  # rings a bin
    half = np.clip(np.ceil(1 / np.maximum(rate, 1e-6)), 4, len(q)).astype(int)
    first = np.arange(len(q)) - half
    last = np.arange(len(q)) + half + 1
    ok = (first >= 3) & (last <= len(q)) & (rate < 0.4)
    first = np.where(ok, first, 0)
    last = np.where(ok, last, 1)
    place = np.arange(len(q)) / len(q)

    def mean_of(values: NDArray) -> NDArray:
        total = np.concatenate([[0.0], np.cumsum(values)])
        return (total[last] - total[first]) / (last - first)

    def product(a: NDArray, b: NDArray) -> NDArray:
        return mean_of(a * b) - mean_of(a) * mean_of(b)

    a = profile - profile.mean()
    b = -np.cos(phase)
    tilt = np.maximum(product(place, place), 1e-12)
    ab, aa, bb = (product(v, w) - product(v, place) * product(w, place) / tilt for v, w in ((a, b), (a, a), (b, b)))
    return np.where(ok, ab / np.sqrt(np.maximum(aa, 1e-12) * np.maximum(bb, 1e-12)), np.nan)


def _limit(local: NDArray, low: int, top: int) -> int:
    """The ring up to which the local correlation stays at 0.5 or more, from the band's best one on."""
    k = low + int(np.nan_to_num(local[low:top], nan=-1).argmax())
    uncorrelated_rings = np.flatnonzero(~(local[k:] >= 0.5))
    return k + max(int(uncorrelated_rings[0]) - 1, 0) if len(uncorrelated_rings) else len(local) - 1
