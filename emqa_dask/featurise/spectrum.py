"""Power spectrum: how fine an image's detail is, its noise, and whether drift or astigmatism shaped it."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft

from emqa_dask.featurise.periodogram import compute_mean_periodogram

N_SECTORS = 16
SPECTRUM_STATISTICS = (
    "noise_floor",
    "detail_cpp",
    "spectrum_slope",
    "spectrum_slope_last_octave",
    "autocorrelation_excess",
    "anisotropy",
    "drift_contrast",
    "drift_px",
    "drift_angle_deg",
    "astigmatism_contrast",
    "first_zero_long_px",
    "first_zero_short_px",
)
VISIBLE = 0.004  # contrast of a band, as a fraction of the grey range, that an eye still sees on a screen


class _PolarGrid(NamedTuple):
    """Cells of the spectrum of a tile (t, t), r rings x N_SECTORS sectors, and templates of their power."""

    frequencies: np.ndarray  # (n,) positions in the flat spectrum (t, t // 2 + 1) of those that belong to a cell
    cell: np.ndarray  # (n,) index of the cell of each of them
    count: np.ndarray  # (r, N_SECTORS) frequencies in each cell
    middle: np.ndarray  # (r,) cycles/px
    templates: np.ndarray  # (m, r, N_SECTORS): drift by each length, then astigmatism by each pair
    lengths: np.ndarray  # (l,) px that the specimen drifts
    pairs: np.ndarray  # (m - l, 2) px: the first zeros along the long and the short axis


@lru_cache(maxsize=8)
def make_polar_grid(t: int) -> _PolarGrid:
    """Polar cells of a half plane: rings a quarter octave wide x sectors; and the drift and astigmatism templates."""
    qy = fft.fftfreq(t)[:, None]
    qx = fft.rfftfreq(t)[None]
    q = np.hypot(qy, qx)
    angle = np.mod(np.arctan2(qy, qx), np.pi)
    edges = np.geomspace(3 / t, 0.5, int(np.ceil(4 * np.log2(t / 6))) + 1)
    ring = np.digitize(q, edges) - 1
    is_in_ring = (ring >= 0) & (ring < len(edges) - 1)
    sector = np.minimum((angle / np.pi * N_SECTORS).astype(int), N_SECTORS - 1)
    cell = (ring * N_SECTORS + sector)[is_in_ring]
    count = np.bincount(cell, minlength=(len(edges) - 1) * N_SECTORS).reshape(-1, N_SECTORS)
    middle = np.sqrt(edges[1:] * edges[:-1])
    # Points inside a cell, so that a template is its cell's mean, as the data are. Axes: ring, sector, q, angle.
    qs = (middle[:, None] * [0.93, 1.0, 1.07])[:, None, :, None]
    theta = ((np.arange(N_SECTORS)[:, None] + [0.17, 0.5, 0.83]) * np.pi / N_SECTORS)[None, :, None, :]
    lengths = np.geomspace(7, min(48, t / 4), 11)
    drift = [np.sinc(length * qs * np.cos(theta)) ** 2 for length in lengths]
    periods = np.geomspace(3, 48, 9)
    pairs = [(long, short) for i, long in enumerate(periods) for short in periods[:i]]
    astigmatism = [np.cos(np.pi / 4 * qs**2 * (a**2 + b**2 + (a**2 - b**2) * np.cos(2 * theta))) ** 2 for a, b in pairs]
    templates = np.stack([m.mean(axis=(2, 3)) for m in drift + astigmatism]) + 0.01
    templates /= templates.mean(axis=2, keepdims=True)
    return _PolarGrid(np.flatnonzero(is_in_ring), cell, count, middle, templates, lengths, np.array(pairs))


def _average_rings(power: np.ndarray) -> tuple:
    """Arithmetic and geometric mean power of polar cells, and of rings; a lattice's peaks hardly raise the latter."""
    grid = make_polar_grid(power.shape[0])
    count = grid.count
    values = power.ravel()[grid.frequencies]
    cell_sums = np.bincount(grid.cell, values, count.size).reshape(count.shape)
    logs = np.bincount(grid.cell, np.log(values + 1e-12), count.size).reshape(count.shape)
    return cell_sums, np.exp(logs / np.maximum(count, 1)), np.exp(logs.sum(1) / count.sum(1))


def compute_spectrum_statistics(tiles: np.ndarray) -> dict[str, float]:
    """Statistics of tiles (n, t, t) whose grey range (0.5 to 99.5 percentile of the image) is 1.

    `noise_floor`: standard deviation of the white part of the noise. `detail_cpp`: cycles/px up to which the rings of
    the spectrum rise over twice the noise and hold visible contrast. `spectrum_slope`: exponent p of q^-p over the
    detail; `spectrum_slope_last_octave`: over its last octave. `autocorrelation_excess`: largest autocorrelation 5 px
    or more away, less what noise alone gives. `drift_contrast` and `astigmatism_contrast`: rms of the log-power's
    anisotropy that |sinc|^2 of a straight line (length `drift_px`) and |cos|^2 of an elliptical transfer (first zeros
    at `first_zero_long_px`, `first_zero_short_px`) explain, 0 where they do not; cf. Zhang, J. Struct. Biol. 193
    (2016) 1 for fitting such transfers to spectra. All NaN without tiles.
    """
    if not len(tiles):
        return dict.fromkeys(SPECTRUM_STATISTICS, np.nan)
    return summarise_power(compute_mean_periodogram(tiles), len(tiles))


def summarise_power(power: np.ndarray, n: int) -> dict[str, float]:
    """The statistics of compute_spectrum_statistics() from the mean power (t, t // 2 + 1) of `n` tiles."""
    t = power.shape[0]
    grid = make_polar_grid(t)
    count = grid.count
    middle = grid.middle
    plain, cells, ring_geometric = _average_rings(power)
    ring_mean = plain.sum(1) / count.sum(1)
    floor = float(compute_noise_power(plain[-2:] / np.maximum(count[-2:], 1)))
    log_excess = compute_visible_excess(ring_mean, floor, middle)
    out = {"noise_floor": floor**0.5, "detail_cpp": find_detail_cpp(log_excess, middle)}
    out |= _measure_slopes(log_excess, ring_mean - floor, middle)
    out["autocorrelation_excess"] = _measure_autocorrelation_excess(power, n)
    return out | _measure_anisotropy(cells, ring_geometric, grid)


def compute_noise_power(sector_means: np.ndarray) -> np.ndarray:
    """Power (...) of the white noise from mean powers (..., 2, N_SECTORS) of the sectors of the outer two rings."""
    return np.maximum(np.median(sector_means, axis=-1).max(axis=-1), 1e-12)


def compute_visible_excess(ring_mean: np.ndarray, floor: np.ndarray | float, middle: np.ndarray) -> np.ndarray:
    """Log of the mean power (..., r) of rings over twice the noise `floor`, or over the limit of sight if larger."""
    visible = VISIBLE**2 / (2 * np.pi * middle**2 * np.log(2))
    return np.log(np.maximum(ring_mean, 1e-12) / np.maximum(2 * floor, visible))


def find_detail_cpp(log_excess: np.ndarray, middle: np.ndarray) -> float:
    """Frequency at which compute_visible_excess() of the rings (r,) last crosses 0; the lowest one without detail."""
    visible_rings = np.flatnonzero(log_excess > 0)
    if len(visible_rings) < 2:
        return float(middle[0])
    last_ring = visible_rings[-1]
    logs = np.log(middle)
    step = (
        log_excess[last_ring] / (log_excess[last_ring] - log_excess[last_ring + 1])
        if last_ring + 1 < len(middle)
        else 0.0
    )
    return float(np.exp(logs[last_ring] + step * (logs[min(last_ring + 1, len(middle) - 1)] - logs[last_ring])))


def _measure_slopes(log_excess: np.ndarray, signal: np.ndarray, middle: np.ndarray) -> dict[str, float]:
    """Exponents of q^-p over the rings whose log-power is above the limit of sight, and over their last octave."""
    visible_rings = np.flatnonzero(log_excess > 0)
    if len(visible_rings) < 2:
        return {"spectrum_slope": np.nan, "spectrum_slope_last_octave": np.nan}
    last_ring = visible_rings[-1]
    logs = np.log(middle)
    power = np.log(np.maximum(signal, 1e-12))
    start = max(last_ring - 4, 0)
    return {
        "spectrum_slope": float(-np.polyfit(logs[visible_rings], power[visible_rings], 1)[0]),
        "spectrum_slope_last_octave": float((power[start] - power[last_ring]) / (logs[last_ring] - logs[start]))
        if last_ring > start
        else np.nan,
    }


def _measure_autocorrelation_excess(power: np.ndarray, n: int) -> float:
    t = power.shape[0]
    lags = _make_lag_grid(t)
    total = float(2 * power.sum(dtype=np.float64) - power[:, [0, -1]].sum(dtype=np.float64)) / t**2
    if total <= 1e-12:
        return 0.0
    # What noise alone would be: level at low frequencies, whatever the camera blurs. Few strong modes do not count.
    null = np.minimum(power, 3 * np.median(power.ravel()[lags.low_frequencies]))
    max_excess = 0.0
    for window in lags.windows:  # averaged over neighbouring lags, faint but large objects rise over the noise
        correlations = fft.irfft2(power * window, s=(t, t), workers=1).ravel()[lags.ring]
        correlation = max(float(correlations.max()), -float(correlations.min())) / total
        # Bartlett's standard error of an autocorrelation, from the spectrum itself; 0.26: the Hann window squared.
        error = float(np.sqrt(np.square(null * window).mean() / (0.26 * n * t * t))) / float(power.mean())
        max_excess = max(max_excess, correlation - 5.5 * error)
    return max_excess


class _LagGrid(NamedTuple):
    """Where the autocorrelation of a tile (t, t) is looked at."""

    ring: np.ndarray  # (n,) positions in the flat correlation of lags from 5 px to 3 t / 8; of each pair +-lag one
    low_frequencies: np.ndarray  # (m,) positions in the flat spectrum (t, t // 2 + 1) below 0.1 cycles/px
    windows: np.ndarray  # (2, t, t // 2 + 1) that average the correlation over 0 and 2 px


@lru_cache(maxsize=8)
def _make_lag_grid(t: int) -> _LagGrid:
    q2 = fft.fftfreq(t)[:, None] ** 2 + fft.rfftfreq(t)[None] ** 2
    lag = np.hypot(fft.fftfreq(t)[:, None], fft.fftfreq(t)[None]) * t
    ring = (lag >= 5) & (lag <= 3 * t / 8)
    ring[t // 2 + 1 :] = False  # the correlation is symmetric
    windows = np.stack([np.exp(-2 * (np.pi * spread_px) ** 2 * q2) for spread_px in (0.0, 2.0)])
    return _LagGrid(np.flatnonzero(ring), np.flatnonzero(q2 < 0.01), windows)


def _measure_anisotropy(cells: np.ndarray, rings: np.ndarray, grid: _PolarGrid) -> dict[str, float]:
    out = dict.fromkeys(("anisotropy", "drift_contrast", "astigmatism_contrast"), 0.0)
    out |= dict.fromkeys(("drift_px", "drift_angle_deg", "first_zero_long_px", "first_zero_short_px"), np.nan)
    invisible = 1e-6 / (2 * np.pi * grid.middle**2 * np.log(2))
    ground = np.maximum(max(np.median(cells[-1]), np.median(cells[-2])), invisible)
    use = (grid.count > 0).all(1) & (rings > 2 * ground)
    if use.sum() < 3:
        return out
    data = np.log(cells / ground[:, None] + 1)[use]
    model = np.log(np.maximum(rings / ground - 1, 0)[None, :, None] * grid.templates + 2)[:, use]
    data, model = (3 * np.tanh((v - v.mean(-1, keepdims=True)) / 3) for v in (data, model))
    weight = np.sqrt(grid.count[use].sum(1))
    weight = weight / weight.sum() / N_SECTORS
    out["anisotropy"] = float(np.sqrt((weight[:, None] * data**2).sum()))
    # Every angle at once: circular correlation along the sectors. The gain is the drop in the sum of squares.
    spectra = (weight[:, None] * np.fft.rfft(data) * np.fft.rfft(model).conj()).sum(1)
    gain = 2 * np.fft.irfft(spectra, N_SECTORS) - (weight[:, None] * model**2).sum((1, 2))[:, None]
    n = len(grid.lengths)
    k, shift = np.unravel_index(gain[:n].argmax(), gain[:n].shape)
    out["drift_contrast"] = float(np.sqrt(max(gain[k, shift], 0)))
    if gain[k, shift] > 0:  # frequency and shift share their axis: power fades along the motion
        out |= {"drift_px": float(grid.lengths[k]), "drift_angle_deg": float(shift * 180 / N_SECTORS)}
    k, shift = np.unravel_index(gain[n:].argmax(), gain[n:].shape)
    out["astigmatism_contrast"] = float(np.sqrt(max(gain[n + k, shift], 0)))
    if gain[n + k, shift] > 0:
        out |= {"first_zero_long_px": float(grid.pairs[k, 0]), "first_zero_short_px": float(grid.pairs[k, 1])}
    return out
