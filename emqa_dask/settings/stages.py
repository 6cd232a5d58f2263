"""Settings of the stages: what is read, stored, detected, featurised, predicted and reported."""

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from emqa_dask.number_ranges import Range
from emqa_dask.settings.detect_windows import COLUMNS, DetectWindows
from emqa_dask.settings.rules import require

PRECISIONS = ("float32", "bfloat16", "float16")  # of networks
DETECTOR_PRECISIONS = ("auto", *PRECISIONS)
GROUPINGS = ("session", "folder", "instrument", "date")  # of report.samples
AUTO = "auto"  # as the only detector: log, AUTO_NETWORK or a network of AUTO_CLASS_NETWORKS, chosen for each session
AUTO_NETWORK = "em-objects"  # takes the first look
AUTO_CLASS_NETWORKS = {"cavity": "cavity-tem"}  # class that prevails in it: the network that finds it better


@dataclass(frozen=True)
class Archive:
    exclude: tuple[str, ...] = ()  # patterns of files and folders that are left out, e.g. "*.jpg", "thumbs", "raw/old*"
    include: tuple[str, ...] = ()  # patterns of files and folders that are read, except excluded ones; empty = all
    max_megapixels: float = 256.0  # larger images get a row that says so, until this is raised: a guard against bombs
    nm_per_pixel: float = 0.0  # pixel size for new files whose header has none; stored ones keep theirs; 0 = unknown
    read_scale_bars: bool = False  # of new images; gives the pixel size of those without another one
    lattice_spacing_nm: float = 0.0  # of the crystal in new images (largest clear one); gives their pixel size; 0 = off
    files_per_task: int = 32  # at first; a large archive's tasks have up to 16 times that, of at most 2 GiB together
    RANGES: ClassVar = {
        "max_megapixels": Range(1e-6, 100_000),
        "nm_per_pixel": Range(1e-6, 1e6, or_zero=True),
        "lattice_spacing_nm": Range(0.01, 100, or_zero=True),
        "files_per_task": Range(1, 100_000),
    }

    def check(self) -> None:
        for key in ("exclude", "include"):
            for pattern in getattr(self, key):
                _check_path_pattern(f"archive.{key}", pattern)


def _check_path_pattern(key: str, pattern: str) -> None:
    """Raises SettingsError for a pattern of files and folders that cannot match any."""
    require("\\" not in pattern, key, pattern, "has slashes (/) between folders, no backslashes")
    require(not pattern.startswith("!"), key, pattern, "cannot start with !; archive.include names what is read")
    require("://" not in pattern, key, pattern, "is a path in the archive, no URI")
    names = pattern.removeprefix("./").strip("/").split("/")
    require(
        not {"", ".", ".."} & set(names), key, pattern, 'is a name or a path in the archive, e.g. "thumbs", "raw/*"'
    )


@dataclass(frozen=True)
class Store:
    shard_mib: float = 256.0  # upper bound of a shard's uncompressed size; a shard is a task: best over 10 s
    shard_length: int = 0  # micrographs per shard; 0 = chosen from the size of the archive
    compression: str = "auto"  # zstd for 8-bit pixels, bit-shuffled LZ4 for wider ones; or zstd, or none
    compression_level: int = 1  # of zstd
    thumbnail_px: int = 256
    verify_gib: float = 8.0  # of stored pixels whose checksums a repeated run looks at; more: emqa verify; 0 = none
    RANGES: ClassVar = {
        "shard_mib": Range(0.001, 65_536),
        "shard_length": Range(0, 100_000),
        "compression_level": Range(1, 22),
        "thumbnail_px": Range(32, 1024),
        "verify_gib": Range(0, 1e6),
    }

    def check(self) -> None:
        compressions = ("auto", "zstd", "none")
        require(self.compression in compressions, "store.compression", self.compression, "is 'auto', 'zstd' or 'none'")


@dataclass(frozen=True)
class Detect:
    detectors: tuple[str, ...] = (AUTO,)  # "log" and Mask R-CNNs (bundled names, directories); "auto": per session
    classes: tuple[str, ...] = ()  # of the networks' objects that count, by the names on their cards; empty = all
    polarity: str = "auto"  # bright, dark, both, or auto: the one that answers more strongly in the image
    min_sigma: float = 3.0  # px; smaller scales find grain; a disk of radius r answers at sigma = r / sqrt(2)
    max_sigma: float = 20.0  # px
    min_diameter_nm: float = 0.0  # of an object; with max_diameter_nm in place of min_sigma and max_sigma; 0 = not used
    max_diameter_nm: float = 0.0  # where the pixel size is unknown, min_sigma and max_sigma count
    num_sigma: int = 10
    log_scale: bool = True
    threshold: float = 0.15  # of the scale-normalised response on the normalised image
    overlap: float = 0.5
    exclude_border: int = 0  # px
    low_percentile: float = 1.0  # robust normalisation: these percentiles become 0 and 1
    high_percentile: float = 99.0
    max_detections: int = 5000  # the strongest are kept; the cap is recorded
    # of the networks: float32, or bfloat16 or float16, which are faster where hardware has them; "auto": bfloat16 on a
    # GPU where the network's card states that its objects agree, else float32
    precision: str = "auto"
    stability_scale: float = 0.0  # sides of the mirrored copy in which networks find objects again; 0 = no second pass
    RANGES: ClassVar = {
        "stability_scale": Range(0.1, 1, or_zero=True),
        "min_sigma": Range(0.1, 1000),
        "max_sigma": Range(0.1, 1000),
        "min_diameter_nm": Range(1e-3, 1e7, or_zero=True),
        "max_diameter_nm": Range(1e-3, 1e7, or_zero=True),
        "num_sigma": Range(1, 100),
        "threshold": Range(0, 10),
        "overlap": Range(0, 1),
        "exclude_border": Range(0, 100_000),
        "low_percentile": Range(0, 100),
        "high_percentile": Range(0, 100),
        "max_detections": Range(1, 1_000_000),
    }

    def check(self) -> None:
        named = self.detectors
        require(bool(named) and all(named), "detect.detectors", named, 'names at least one, e.g. ["log"]')
        require(len(set(named)) == len(named), "detect.detectors", named, "names one twice")
        require(
            AUTO not in named or len(named) == 1, "detect.detectors", named, 'names "auto" alone, or none of that name'
        )
        require(
            self.polarity in ("auto", "bright", "dark", "both"),
            "detect.polarity",
            self.polarity,
            "is auto, bright, dark or both",
        )
        rule = f"has to be at most detect.max_sigma, which is {self.max_sigma}"
        require(self.min_sigma <= self.max_sigma, "detect.min_sigma", self.min_sigma, rule)
        self._check_diameters()
        low, high = self.low_percentile, self.high_percentile
        require(low < high, "detect.low_percentile", low, f"has to be below detect.high_percentile, which is {high}")
        rule = f"is one of {', '.join(DETECTOR_PRECISIONS)}"
        require(self.precision in DETECTOR_PRECISIONS, "detect.precision", self.precision, rule)

    def _check_diameters(self) -> None:
        low, high = self.min_diameter_nm, self.max_diameter_nm
        rule = "needs detect.min_diameter_nm and detect.max_diameter_nm together, or neither"
        require((low > 0) == (high > 0), "detect.min_diameter_nm", low, rule)
        rule = f"has to be below detect.max_diameter_nm, which is {high}"
        require(low < high or high == 0, "detect.min_diameter_nm", low, rule)

    def with_pixel_size(self, nm_per_pixel: float) -> "Detect":
        """These settings with all sizes in px, for images of one pixel size; itself where sizes are in px already.

        A disk of diameter d answers most strongly at sigma = d / (2 sqrt(2)). Sigmas stay within the range of min_sigma
        and max_sigma. An unknown pixel size (NaN) leaves min_sigma and max_sigma as they are.
        """
        if self.max_diameter_nm == 0:
            return self
        sizes: dict[str, Any] = {"min_diameter_nm": 0.0, "max_diameter_nm": 0.0}
        if math.isfinite(nm_per_pixel) and nm_per_pixel > 0:
            limits = self.RANGES["min_sigma"]
            for key, diameter_nm in (("min_sigma", self.min_diameter_nm), ("max_sigma", self.max_diameter_nm)):
                sigma = diameter_nm / nm_per_pixel / (2 * math.sqrt(2))
                sizes[key] = min(max(sigma, limits.low), limits.high)
        return replace(self, **sizes)

    @property
    def is_automatic(self) -> bool:
        """Whether the detector is chosen for each session."""
        return self.detectors == (AUTO,)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The detectors, in order; of an automatic choice those that it has."""
        return ("log", AUTO_NETWORK, *AUTO_CLASS_NETWORKS.values()) if self.is_automatic else self.detectors

    @property
    def networks(self) -> tuple[str, ...]:
        """The candidates that are networks, in order."""
        return tuple(name for name in self.candidates if name != "log")


@dataclass(frozen=True)
class Classify:
    model: str = ""  # an ensemble's model directory, see emqa train ensemble; "" = nothing is classified
    method: str = ""  # softmax (its first member alone), dropout or ensemble; "" = what its card says
    precision: str = "float32"  # of the networks; bfloat16 and float16 are faster where hardware has them

    def check(self) -> None:
        require(
            self.precision in PRECISIONS, "classify.precision", self.precision, f"is one of {', '.join(PRECISIONS)}"
        )
        methods = ("", "softmax", "dropout", "ensemble")
        require(self.method in methods, "classify.method", self.method, "is softmax, dropout, ensemble or empty")


@dataclass(frozen=True)
class Cohort:
    """Micrographs that have settings of [detect] of their own: what is not said here holds for all."""

    uri: str = "*"  # glob pattern on the archive-relative URI
    instrument: str = ""  # as the header names it; "" = any
    magnification: float = 0.0  # as the header says; 0 = any
    # windows.csv of emqa tune log --windows, relative to the settings file: settings of the LoG in each window
    windows: DetectWindows = ()
    changes: tuple[tuple[str, Any], ...] = ()  # (key of [detect], value)
    RANGES: ClassVar = {
        "magnification": Range(0, 1e9),
    }

    def has(self, uri: str, instrument: str | None, magnification: float) -> bool:
        """Does a micrograph belong to it?"""
        if self.instrument and self.instrument != instrument:
            return False
        return self.magnification in (0.0, magnification) and fnmatchcase(uri, self.uri)

    def merge_detect_settings(self, common: Detect) -> Detect:
        """The settings of its micrographs."""
        return replace(common, **dict(self.changes))

    def to_toml_table(self) -> dict[str, object]:
        """As a table of the settings file; windows by their content, so that no other file is needed."""
        table: dict[str, object] = {"uri": self.uri, "instrument": self.instrument, "magnification": self.magnification}
        windows = [[getattr(window, name) for name in COLUMNS] for window in self.windows]
        return table | ({"windows": windows} if windows else {}) | dict(self.changes)


@dataclass(frozen=True)
class Featurise:
    score_floor: float = 0.1  # detections below it do not count as evidence
    order: bool = False  # map disordered regions of lattice images: disordered_fraction
    rings: str = "auto"  # defocus from Thon rings: on, off, or auto: where pixels are small enough to hold them
    cs_mm: float = 1.2  # spherical aberration, for the rings; 0 for a corrected microscope
    RANGES: ClassVar = {
        "score_floor": Range(0, 1),
        "cs_mm": Range(-10, 100),
    }

    def check(self) -> None:
        require(self.rings in ("auto", "on", "off"), "featurise.rings", self.rings, "is auto, on or off")
        require(self.score_floor < 1, "featurise.score_floor", self.score_floor, "has to be below 1")


@dataclass(frozen=True)
class Predict:
    # Model directories or names of bundled models. Each predicts for the detector on its card; the first one counts.
    models: tuple[str, ...] = ("log-f1", "cavity-tem-f1", "em-objects-f1")

    def check(self) -> None:
        demand = "names model directories or bundled models"
        require(bool(self.models) and all(self.models), "predict.models", self.models, demand)


@dataclass(frozen=True)
class Triage:
    """Limits that decide verdicts, beside those of [flags]."""

    trust_f1: float = 0.5  # F1 that the detections of a trusted image have to reach; the paper calls 0.5 good
    trust_probability: float = 0.9  # that their F1 reaches trust_f1, from which an image is trusted; 1 = none is
    max_ood_distance: float = 1.0  # in units of the training images' 99th percentile
    min_agreement: float = 0.0  # of the detector with the others of the run (F1); a person looks below it; 0 = off
    max_entropy_nats: float = 0.0  # of a class: above it a person looks; 0 = as review_share or target_risk say
    review_share: float = 0.1  # of images like the classifier's held-out ones that a person should look at
    target_risk: float = 0.0  # share of wrong classes among those that nobody looks at; 0 = review_share counts
    RANGES: ClassVar = {
        "trust_f1": Range(0, 1),
        "trust_probability": Range(0, 1),
        "max_ood_distance": Range(1e-6, 1e6),
        "min_agreement": Range(0, 1),
        "max_entropy_nats": Range(0, 100),
        "review_share": Range(0, 1),
        "target_risk": Range(0, 1),
    }

    def check(self) -> None:
        require(self.target_risk < 1, "triage.target_risk", self.target_risk, "has to be below 1")


@dataclass(frozen=True)
class Measure:
    """How objects become measurements of the specimen."""

    foil_thickness_nm: float = 0.0  # of the specimen, for swelling and densities per volume; 0 = unknown
    foil_thickness_uncertainty_nm: float = 0.0  # standard uncertainty of foil_thickness_nm
    edge_correction: bool = True  # leave out objects that the image's edge cuts, and weight the others for these
    RANGES: ClassVar = {
        "foil_thickness_nm": Range(1e-3, 1e9, or_zero=True),
        "foil_thickness_uncertainty_nm": Range(0, 1e9),
    }

    def check(self) -> None:
        uncertainty = self.foil_thickness_uncertainty_nm
        rule = f"has to be below measure.foil_thickness_nm, which is {self.foil_thickness_nm}"
        require(
            uncertainty == 0 or uncertainty < self.foil_thickness_nm,
            "measure.foil_thickness_uncertainty_nm",
            uncertainty,
            rule,
        )


PICTURES = ("none", "listed", "full")  # on the pages of images


@dataclass(frozen=True)
class Report:
    """What the page shows."""

    max_rows: int = 1000  # rows with a picture in the report; it lists all rows
    # Images with a page of their own: all of an archive of up to so many, else those of the rows with pictures
    max_image_pages: int = 20_000
    # Pictures on the pages of images: none, listed (the thumbnails) or full (JPEG at full resolution, about half a
    # byte per pixel, in the folder of the report)
    pictures: str = "listed"
    # What the results of trusted images are summed up by: session (folder, instrument, magnification), folder or
    # folder:2 (first, first two folders), instrument, date, or a CSV file with the columns uri (pattern), sample, and
    # optionally dose and temperature
    samples: tuple[str, ...] = ("session",)
    RANGES: ClassVar = {
        "max_rows": Range(1, 100_000),
        "max_image_pages": Range(0, 1_000_000),
    }

    def check(self) -> None:
        require(self.pictures in PICTURES, "report.pictures", self.pictures, f"is one of {', '.join(PICTURES)}")
        for grouping in self.samples:
            _check_grouping(grouping)
        require(len(set(self.samples)) == len(self.samples), "report.samples", self.samples, "names one twice")


def _check_grouping(grouping: str) -> None:
    name, _, depth = grouping.partition(":")
    is_folder = name == "folder" and (not depth or (depth.isascii() and depth.isdigit() and 1 <= int(depth) <= 99))
    is_valid = grouping in GROUPINGS or is_folder or grouping.lower().endswith(".csv")
    demand = f"is one of {', '.join(GROUPINGS)}, folder:2 and the like, or a CSV file with uri and sample"
    require(is_valid, "report.samples", grouping, demand)
