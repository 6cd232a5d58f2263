"""Settings of the stages: what is read, stored, detected, featurised, predicted and reported."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from emqa_dask.settings.rules import require

PRECISIONS = ("float32", "bfloat16", "float16")  # of networks


@dataclass(frozen=True)
class Archive:
    exclude: tuple[str, ...] = ()  # glob patterns on the archive-relative URI
    max_megapixels: float = 256.0  # larger images get a row that says so, until this is raised: a guard against bombs
    nm_per_pixel: float = 0.0  # pixel size for new files whose header has none; stored ones keep theirs; 0 = unknown
    files_per_task: int = 32  # at first; a large archive's tasks have up to 16 times that, of at most 2 GiB together

    def check(self):
        require(self.max_megapixels > 0, "archive.max_megapixels", self.max_megapixels, "has to be above 0")
        require(self.nm_per_pixel >= 0, "archive.nm_per_pixel", self.nm_per_pixel, "cannot be negative")
        require(self.files_per_task >= 1, "archive.files_per_task", self.files_per_task, "has to be at least 1")


@dataclass(frozen=True)
class Store:
    shard_mib: float = 256.0  # upper bound of a shard's uncompressed size; a shard is a task: best over 10 s
    shard_length: int = 0  # micrographs per shard; 0 = chosen from the size of the archive
    compression: str = "auto"  # zstd for 8-bit pixels, bit-shuffled LZ4 for wider ones; or zstd, or none
    compression_level: int = 1  # of zstd
    thumbnail_px: int = 256
    verify_gib: float = 8.0  # of stored pixels whose checksums a repeated run looks at; more: emqa verify; 0 = none

    def check(self):
        require(self.shard_mib > 0, "store.shard_mib", self.shard_mib, "has to be above 0")
        require(self.shard_length >= 0, "store.shard_length", self.shard_length, "cannot be negative")
        known = ("auto", "zstd", "none")
        require(self.compression in known, "store.compression", self.compression, "is 'auto', 'zstd' or 'none'")
        level = self.compression_level
        require(1 <= level <= 22, "store.compression_level", level, "has to be in 1...22")
        require(self.verify_gib >= 0, "store.verify_gib", self.verify_gib, "cannot be negative")
        require(32 <= self.thumbnail_px <= 1024, "store.thumbnail_px", self.thumbnail_px, "has to be in 32...1024")


@dataclass(frozen=True)
class Detect:
    detectors: tuple[str, ...] = ("log",)  # "log" and Mask R-CNNs: bundled ones by name, others by their directories
    polarity: str = "auto"  # bright, dark, both, or auto: the one that answers more strongly in the image
    min_sigma: float = 3.0  # px; smaller scales find grain; a disk of radius r answers at sigma = r / sqrt(2)
    max_sigma: float = 20.0  # px
    num_sigma: int = 10
    log_scale: bool = True
    threshold: float = 0.15  # of the scale-normalised response on the normalised image
    overlap: float = 0.5
    exclude_border: int = 0  # px
    low_percentile: float = 1.0  # robust normalisation: these percentiles become 0 and 1
    high_percentile: float = 99.0
    max_detections: int = 5000  # the strongest are kept; the cap is recorded
    device: str = "cpu"
    precision: str = "float32"  # of the networks; bfloat16 and float16 are faster where hardware has them

    def check(self):
        named = self.detectors
        require(bool(named) and all(named), "detect.detectors", named, 'names at least one, e.g. ["log"]')
        require(len(set(named)) == len(named), "detect.detectors", named, "names one twice")
        require(
            self.polarity in ("auto", "bright", "dark", "both"),
            "detect.polarity",
            self.polarity,
            "is auto, bright, dark or both",
        )
        require(0 < self.min_sigma <= self.max_sigma, "detect.min_sigma", self.min_sigma, "has to be in (0, max_sigma]")
        require(self.num_sigma >= 1, "detect.num_sigma", self.num_sigma, "has to be at least 1")
        require(0 <= self.overlap <= 1, "detect.overlap", self.overlap, "has to be in 0...1")
        require(self.exclude_border >= 0, "detect.exclude_border", self.exclude_border, "cannot be negative")
        low, high = self.low_percentile, self.high_percentile
        require(
            0 <= low < high <= 100, "detect.low_percentile", low, "has to be below high_percentile, both in 0...100"
        )
        require(self.device in ("cpu", "cuda"), "detect.device", self.device, "is 'cpu' or 'cuda'")
        require(self.precision in PRECISIONS, "detect.precision", self.precision, f"is one of {', '.join(PRECISIONS)}")

    @property
    def networks(self) -> tuple[str, ...]:
        """The detectors that are networks, in order."""
        return tuple(name for name in self.detectors if name != "log")


@dataclass(frozen=True)
class Classify:
    model: str = ""  # an ensemble's model directory, see emqa train ensemble; "" = nothing is classified
    method: str = ""  # softmax (its first member alone), dropout or ensemble; "" = what its card says
    precision: str = "float32"  # of the networks; bfloat16 and float16 are faster where hardware has them

    def check(self):
        require(
            self.precision in PRECISIONS, "classify.precision", self.precision, f"is one of {', '.join(PRECISIONS)}"
        )
        known = ("", "softmax", "dropout", "ensemble")
        require(self.method in known, "classify.method", self.method, "is softmax, dropout, ensemble or empty")


@dataclass(frozen=True)
class Cohort:
    """Micrographs that have settings of [detect] of their own: what is not said here holds for all."""

    uri: str = "*"  # glob pattern on the archive-relative URI
    instrument: str = ""  # as the header names it; "" = any
    magnification: float = 0.0  # as the header says; 0 = any
    changes: tuple[tuple[str, object], ...] = ()  # (key of [detect], value)

    def has(self, uri: str, instrument: str | None, magnification: float) -> bool:
        """Does a micrograph belong to it?"""
        if self.instrument and self.instrument != instrument:
            return False
        return self.magnification in (0.0, magnification) and fnmatchcase(uri, self.uri)

    def detect(self, common: Detect) -> Detect:
        """The settings of its micrographs."""
        return replace(common, **dict(self.changes))

    def plain(self) -> dict[str, object]:
        """As a table of the settings file."""
        return {"uri": self.uri, "instrument": self.instrument, "magnification": self.magnification} | dict(
            self.changes
        )


@dataclass(frozen=True)
class Featurise:
    score_floor: float = 0.1  # detections below it do not count as evidence
    order: bool = False  # map disordered regions of lattice images: disordered_fraction
    rings: str = "auto"  # defocus from Thon rings: on, off, or auto: where pixels are small enough to hold them
    cs_mm: float = 1.2  # spherical aberration, for the rings; 0 for a corrected microscope

    def check(self):
        require(self.rings in ("auto", "on", "off"), "featurise.rings", self.rings, "is auto, on or off")
        require(0 <= self.score_floor < 1, "featurise.score_floor", self.score_floor, "has to be in [0, 1)")


@dataclass(frozen=True)
class Predict:
    # Model directories, or names of bundled ones, each for the detector on its card; of two for one, the first counts.
    forests: tuple[str, ...] = ("log-synthetic", "cavity-tem-f1")

    def check(self):
        known = "names model directories or bundled models"
        require(bool(self.forests) and all(self.forests), "predict.forests", self.forests, known)


@dataclass(frozen=True)
class Report:
    trust_f1: float = 0.5  # lower end of the predicted F1 from which an image is trusted; the paper calls 0.5 good
    max_ood_distance: float = 1.0  # in units of the training images' 99th percentile
    max_entropy_nats: float = 0.0  # of a class: above it a person looks; 0 = as review_share or target_risk say
    review_share: float = 0.1  # of images like the classifier's held-out ones that a person should look at
    target_risk: float = 0.0  # share of wrong classes among those that nobody looks at; 0 = review_share counts
    max_rows: int = 1000  # rows with pictures in the page; triage.parquet and triage.csv hold all

    def check(self):
        require(0 <= self.trust_f1 <= 1, "report.trust_f1", self.trust_f1, "has to be in 0...1")
        require(self.max_ood_distance > 0, "report.max_ood_distance", self.max_ood_distance, "has to be above 0")
        require(self.max_entropy_nats >= 0, "report.max_entropy_nats", self.max_entropy_nats, "cannot be negative")
        require(0 <= self.review_share <= 1, "report.review_share", self.review_share, "has to be in 0...1")
        require(0 <= self.target_risk < 1, "report.target_risk", self.target_risk, "has to be in [0, 1)")
        require(self.max_rows >= 1, "report.max_rows", self.max_rows, "has to be at least 1")
