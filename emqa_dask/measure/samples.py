"""Results of samples: totals over their trusted images, in memory that does not grow with the number of images."""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.measure.sample_intervals import N_BUCKETS, bootstrap_ratios
from emqa_dask.measure.sizes import BIN_LIMITS, N_BINS
from emqa_dask.measure.swelling import NM2_PER_UM2, compute_swelling

NO_PIXEL_SIZE = "no_pixel_size"  # reasons why trusted images are left out
NOT_MEASURED = "not_measured"
QUANTILES = {"d10_nm": 0.1, "d50_nm": 0.5, "d90_nm": 0.9}
# Totals of the objects of a class: number, sums of diameters in nm and px, area in Mpx, volume in nm^3.
N_CORRECTED = 0
DIAMETERS_NM = 1
DIAMETERS_PX = 2
COVERED_MPX = 3
VOLUME = 4
AREA_UM2 = 0  # totals of images
AREA_MPX = 1
Key = tuple[str, str, bool]  # sample, detector, whether the images have a pixel size


class ClassTotals:
    """Totals of the objects of one class, or of all, in some images of a sample."""

    def __init__(self) -> None:
        self.buckets = np.zeros((N_BUCKETS, 5))
        self.size_counts = np.zeros(N_BINS)
        self.n_objects = 0
        self.density_moments = np.zeros(3)  # of images: n, sum, sum of squares
        self.diameter_moments = np.zeros(3)

    def add(self, rows: pd.DataFrame, buckets: NDArray) -> None:
        """Add `rows` of tables.MEASUREMENTS, one per image, to `buckets` (n,)."""
        n_corrected = rows["n_corrected"].to_numpy()
        mpx = compute_megapixels(rows)
        columns = np.column_stack(
            [
                n_corrected,
                np.nan_to_num(n_corrected * rows["mean_diameter_nm"]),  # NaN without objects that have a size
                np.nan_to_num(n_corrected * rows["mean_diameter_px"]),
                rows["area_fraction"] * mpx,
                rows["volume_nm3"],
            ]
        )
        np.add.at(self.buckets, buckets, columns)
        self.n_objects += int(rows["n_objects"].sum())
        self.density_moments += _compute_moments(rows["density_per_um2"].to_numpy())
        self.diameter_moments += _compute_moments(rows["mean_diameter_nm"].to_numpy())


class SampleTotals:
    """Totals of the samples of one grouping; images are added in batches."""

    def __init__(self) -> None:
        self.n_images: Counter[str] = Counter()
        self.n_trusted: Counter[str] = Counter()
        self.n_overlapping: Counter[str] = Counter()
        self.excluded: defaultdict[str, Counter[str]] = defaultdict(Counter)  # sample -> reason -> images
        self.first_acquired: dict[str, str] = {}
        self.last_acquired: dict[str, str] = {}
        self.n_measured: Counter[Key] = Counter()
        self.areas: defaultdict[Key, NDArray] = defaultdict(lambda: np.zeros((N_BUCKETS, 2)))
        self.classes: defaultdict[Key, defaultdict] = defaultdict(lambda: defaultdict(ClassTotals))
        self.thickness_nm: dict[Key, float] = {}

    def add_images(self, images: pd.DataFrame) -> None:
        """Count `images`: sample, verdict, reason (the first one, or null), acquired of every micrograph.

        is_overlapping: whether it matches the patterns of other samples, too.
        """
        for name, rows in images.groupby("sample", sort=False):
            is_trusted = rows["verdict"].eq("trust")
            self.n_images[name] += len(rows)
            self.n_trusted[name] += int(is_trusted.sum())
            self.n_overlapping[name] += int(rows["is_overlapping"].sum())
            self.excluded[name].update(rows.loc[~is_trusted, "reason"].fillna("unknown"))
            acquired = rows["acquired"].dropna()
            if len(acquired):
                self.first_acquired[name] = min(acquired.min(), self.first_acquired.get(name, acquired.min()))
                self.last_acquired[name] = max(acquired.max(), self.last_acquired.get(name, acquired.max()))

    def add_measurements(self, measurements: pd.DataFrame, sizes: pd.DataFrame) -> None:
        """Add the rows of tables.MEASUREMENTS and SIZES of trusted images, with the column sample.

        `measurements` have the columns height_px and width_px, too. All rows of an image, of the detector that its
        verdict is about, belong to one call.
        """
        is_image = measurements["label"].isna().to_numpy()
        images = measurements[is_image]
        keys = list(zip(images["sample"], images["detector"], images["area_um2"].notna(), strict=True))
        buckets = pd.Series(
            [self._choose_bucket(key, name) for key, name in zip(keys, images["micrograph_id"], strict=True)],
            index=pd.Index(images["micrograph_id"]),
            dtype=np.int64,
        )
        for key, positions in pd.Series(range(len(keys))).groupby(pd.Index(keys, tupleize_cols=False)):
            rows = images.iloc[positions]
            areas = np.column_stack([rows["area_um2"].fillna(0), compute_megapixels(rows)])
            np.add.at(self.areas[key], buckets[rows["micrograph_id"]].to_numpy(), areas)
            self.thickness_nm[key] = float(rows["foil_thickness_nm"].iloc[-1])
        has_scale = measurements["area_um2"].notna().rename("has_scale")
        groups = measurements.groupby(["sample", "detector", has_scale, "label"], dropna=False, sort=False)
        for (*key, label), rows in groups:
            label = None if pd.isna(label) else label
            self.classes[tuple(key)][label].add(rows, buckets[rows["micrograph_id"]].to_numpy())
        in_nm = sizes[sizes["unit"].eq("nm")]
        for (name, detector, label), rows in in_nm.groupby(["sample", "detector", "label"], dropna=False, sort=False):
            bins = np.searchsorted(BIN_LIMITS, rows["low"].to_numpy())
            totals = self.classes[name, detector, True][None if pd.isna(label) else label]
            np.add.at(totals.size_counts, bins, rows["n_corrected"].to_numpy())

    def _choose_bucket(self, key: Key, micrograph_id: str) -> int:
        """Bucket of the bootstrap for one more image: its own, as long as there are some, then one by chance."""
        self.n_measured[key] += 1
        n = self.n_measured[key]
        return n - 1 if n <= N_BUCKETS else zlib.crc32(micrograph_id.encode()) % N_BUCKETS

    def summarise(self, thickness_std_nm: float) -> Iterator[dict]:
        """Rows of tables.SAMPLES without grouping, dose and temperature, in the order of the samples' names.

        Images without a pixel size are left out where others of the sample and detector have one. A sample without
        measured images has one row without detector and results.
        """
        keys = defaultdict(list)
        for key in self.n_measured:
            keys[key[0]].append(key)
        for name in sorted(self.n_images):
            detectors = sorted({detector for _, detector, _ in keys[name]})
            all_excluded = Counter(self.excluded[name])
            if n_missing := self.n_trusted[name] - sum(self.n_measured[key] for key in keys[name]):
                all_excluded[NOT_MEASURED] += n_missing
            if not detectors:
                yield self._describe(name, all_excluded)
            for detector in detectors:
                excluded = Counter(all_excluded)
                has_scale = (name, detector, True) in self.n_measured
                if has_scale and (n := self.n_measured.get((name, detector, False), 0)):
                    excluded[NO_PIXEL_SIZE] += n
                key = (name, detector, has_scale)
                for label in sorted(self.classes[key], key=lambda label: (label is not None, label)):
                    values = self._compute_values(key, self.classes[key][label], thickness_std_nm)
                    yield self._describe(name, excluded) | {"detector": detector, "label": label} | values

    def _describe(self, name: str, excluded: Counter) -> dict:
        return {
            "sample": name,
            "first_acquired": self.first_acquired.get(name),
            "last_acquired": self.last_acquired.get(name),
            "n_images": self.n_images[name],
            "n_trusted": self.n_trusted[name],
            "n_overlapping": self.n_overlapping[name],
            "n_measured": 0,
            "excluded": [{"reason": reason, "n_images": n} for reason, n in excluded.most_common()],
            "n_objects": 0,
            "size_counts": [],
        }

    def _compute_values(self, key: Key, totals: ClassTotals, thickness_std_nm: float) -> dict:
        has_scale = key[-1]
        areas = self.areas[key]
        area_um2 = areas[:, AREA_UM2].sum() if has_scale else math.nan
        thickness = self.thickness_nm[key]
        volume = totals.buckets[:, VOLUME].sum()
        _, uncertainty = compute_swelling(volume, area_um2 * NM2_PER_UM2, thickness, thickness_std_nm)
        values = {
            "n_measured": self.n_measured[key],
            "n_objects": totals.n_objects,
            "area_um2": area_um2,
            "density_std_per_um2": _compute_std(totals.density_moments),
            "mean_diameter_std_nm": _compute_std(totals.diameter_moments),
            "foil_thickness_nm": thickness,
            "swelling_uncertainty_percent": float(uncertainty),
            **_summarise_sizes(totals.size_counts),
        }
        n_buckets = min(self.n_measured[key], N_BUCKETS)
        ratios = _list_ratios(has_scale, thickness)
        intervals = bootstrap_ratios(np.hstack([totals.buckets, areas])[:n_buckets], ratios)
        for name, (value, low, high) in intervals.items():
            values |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return values


def _list_ratios(has_scale: bool, thickness_nm: float) -> dict:
    """Name of a result -> function of totals (..., 7): those of a class, then those of the images."""
    n_class = VOLUME + 1
    ratios = {"area_fraction": lambda t: t[..., COVERED_MPX] / t[..., n_class + AREA_MPX]}
    if not has_scale:
        ratios["density_per_mpx"] = lambda t: t[..., N_CORRECTED] / t[..., n_class + AREA_MPX]
        ratios["mean_diameter_px"] = lambda t: t[..., DIAMETERS_PX] / t[..., N_CORRECTED]
        return ratios
    ratios["density_per_um2"] = lambda t: t[..., N_CORRECTED] / t[..., n_class + AREA_UM2]
    ratios["mean_diameter_nm"] = lambda t: t[..., DIAMETERS_NM] / t[..., N_CORRECTED]
    if thickness_nm > 0:
        ratios["swelling_percent"] = lambda t: compute_swelling(
            t[..., VOLUME], t[..., n_class + AREA_UM2] * NM2_PER_UM2, thickness_nm
        )[0]
    return ratios


def _summarise_sizes(counts: NDArray) -> dict:
    """Histogram from its first to its last bin with objects, and quantiles of it: logarithmic within a bin."""
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        return {"size_counts": []}
    first = occupied[0]
    last = occupied[-1]
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    quantiles = {}
    for name, level in QUANTILES.items():
        k = int(np.searchsorted(cumulative, level)) - 1  # cumulative[k] < level <= cumulative[k + 1]
        fraction = (level - cumulative[k]) / (cumulative[k + 1] - cumulative[k])
        quantiles[name] = float(BIN_LIMITS[k] * (BIN_LIMITS[k + 1] / BIN_LIMITS[k]) ** fraction)
    return {"size_counts": counts[first : last + 1].tolist(), "size_low_nm": float(BIN_LIMITS[first]), **quantiles}


def compute_megapixels(rows: pd.DataFrame) -> NDArray:
    """(n,) sizes of the images `rows`: height_px, width_px."""
    return (rows["height_px"] * rows["width_px"]).to_numpy(float) / 1e6


def _compute_moments(values: NDArray) -> NDArray:
    finite = values[np.isfinite(values)]
    return np.array([len(finite), finite.sum(), (finite**2).sum()])


def _compute_std(moments: NDArray) -> float:
    """Standard deviation (ddof = 1); NaN for fewer than two values."""
    n, total, squares = moments
    return math.sqrt(max(squares - total**2 / n, 0) / (n - 1)) if n > 1 else math.nan
