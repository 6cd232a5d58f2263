"""Tables about the specimen: sizes, density and swelling of an image, histograms of diameters, results of samples."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, Columns, define_schema

DETECTOR: Columns = {
    "detector": (pa.string(), "Detector whose objects are measured: log, or the name in its model card."),
    "label": (
        pa.string(),
        "Class of the objects that are measured; null: objects of all classes together. With micrograph_id and "
        "detector it identifies the row.",
    ),
}
DIAMETER_STATISTICS = {  # name -> meaning of the statistic of the diameters
    "mean_diameter": "Mean diameter",
    "std_diameter": "Standard deviation of the diameters",
    "d10": "Diameter that 10 % of the objects fall short of",
    "d50": "Median diameter",
    "d90": "Diameter that 90 % of the objects fall short of",
}
_WEIGHTS = "Objects count by their edge weights (measure.edge_correction)."
_NO_SIZE = "NaN when the pixel size is unknown."


def _describe_statistics(unit: str, note: str) -> Columns:
    rule = f"in {unit}, of objects that the edge of the image does not cut. {note}NaN without such objects."
    return {f"{name}_{unit}": (pa.float64(), f"{text} {rule}") for name, text in DIAMETER_STATISTICS.items()}


# A row per micrograph, detector and class, and one for all classes of a detector together.
MEASUREMENTS = define_schema(
    {
        **ID,
        **DETECTOR,
        "n_objects": (pa.int64(), "Number of detections at or above the score floor."),
        "n_cut": (pa.int64(), "Number of these within 1 px of the edge of the image, which may cut them."),
        "n_corrected": (
            pa.float64(),
            "Sum of the edge weights of the objects that are not cut: an unbiased number of objects whose centres lie "
            "in the image. n_objects when measure.edge_correction is off.",
        ),
        "area_um2": (pa.float64(), f"Area of the image in um^2. {_NO_SIZE}"),
        "foil_thickness_nm": (pa.float64(), "Thickness of the specimen in nm, as the settings state it, else NaN."),
        "density_per_mpx": (pa.float64(), "n_corrected per 10^6 px of the image."),
        "density_per_um2": (pa.float64(), f"n_corrected per um^2 of the image. {_NO_SIZE}"),
        "density_per_nm2": (pa.float64(), f"n_corrected per nm^2 of the image. {_NO_SIZE}"),
        "density_per_um3": (pa.float64(), "n_corrected per um^3 of the specimen. NaN without foil_thickness_nm."),
        **_describe_statistics("px", f"{_WEIGHTS} "),
        **_describe_statistics("nm", f"{_WEIGHTS} NaN when the pixel size is unknown. "),
        "area_fraction": (
            pa.float64(),
            f"Area of the objects divided by that of the image. {_WEIGHTS} Overlaps count twice. 0 without objects.",
        ),
        "mean_circularity": (
            pa.float64(),
            f"Mean Heywood circularity; 1 for disks, larger otherwise. {_WEIGHTS} NaN without masks.",
        ),
        "neighbour_distance_px": (
            pa.float64(),
            "Mean distance of an object's centre to that of its nearest neighbour in px, from objects that are nearer "
            "to it than to the edge, weighted after Hanisch (1984). NaN without such objects.",
        ),
        "neighbour_distance_nm": (pa.float64(), f"The same distance in nm. {_NO_SIZE}"),
        "volume_nm3": (
            pa.float64(),
            f"Sum of the objects' volumes, pi/6 d^3, in nm^3. {_WEIGHTS} {_NO_SIZE} 0 without objects.",
        ),
        "swelling_percent": (
            pa.float64(),
            "100 V / (A t - V): volume V of the objects, area A of the image, foil thickness t (Li et al. 2025). NaN "
            "without pixel size or foil thickness, or where the objects have more volume than the specimen.",
        ),
        "swelling_uncertainty_percent": (
            pa.float64(),
            "Standard uncertainty of the swelling from that of the foil thickness "
            "(measure.foil_thickness_uncertainty_nm), in percentage points.",
        ),
    }
)

# A row per micrograph, detector, class and bin with objects: histogram of the diameters.
SIZES = define_schema(
    {
        **ID,
        **DETECTOR,
        "unit": (pa.string(), "nm, or px when the pixel size is unknown."),
        "low": (pa.float64(), "Lower limit of the bin of diameters, in this unit; the bin contains it. 20 per decade."),
        "high": (pa.float64(), "Upper limit of the bin, in this unit."),
        "n_objects": (pa.int64(), "Number of objects in the bin that the edge of the image does not cut."),
        "n_corrected": (pa.float64(), "Sum of their edge weights."),
    }
)

EXCLUDED = pa.list_(pa.struct([("reason", pa.string()), ("n_images", pa.int64())]))
_SAMPLE_VALUES = {  # column -> meaning; each has an interval
    "density_per_um2": "Number of objects per um^2: edge-corrected number of all images over their area",
    "density_per_mpx": "Number of objects per 10^6 px, where no image has a pixel size",
    "mean_diameter_nm": "Mean diameter of all objects in nm",
    "mean_diameter_px": "Mean diameter of all objects in px, where no image has a pixel size",
    "area_fraction": "Area of all objects over that of all images",
    "swelling_percent": "Swelling in %, from the volume of all objects and the area of all images",
}
SAMPLE_VALUES = tuple(_SAMPLE_VALUES)
_INTERVAL = "95 % interval, by bootstrap over images. NaN for fewer than five images."


def _describe_values() -> Columns:
    columns: Columns = {}
    for name, text in _SAMPLE_VALUES.items():
        columns[name] = (pa.float64(), f"{text}. Trusted images only; NaN without a value.")
        columns[f"{name}_low"] = (pa.float64(), f"Lower end of its {_INTERVAL}")
        columns[f"{name}_high"] = (pa.float64(), f"Upper end of its {_INTERVAL}")
    return columns


# A row per grouping, sample, detector and class: results of the sample's trusted images.
SAMPLES = define_schema(
    {
        "grouping": (pa.string(), "Entry of report.samples that makes the samples, e.g. session."),
        "sample": (
            pa.string(),
            "Name of the sample: the session, folder, instrument or date, or as the CSV file has it.",
        ),
        **{name: (kind, text.replace("micrograph_id", "sample")) for name, (kind, text) in DETECTOR.items()},
        "dose": (pa.float64(), "Dose of the sample, as the CSV file states it (any unit). NaN without one."),
        "temperature": (pa.float64(), "Temperature of the sample, as the CSV file states it. NaN without one."),
        "first_acquired": (pa.string(), "Time of the first image, ISO 8601, as the headers state it; else null."),
        "last_acquired": (pa.string(), "Time of the last image, likewise."),
        "n_images": (pa.int64(), "Number of micrographs of the sample."),
        "n_trusted": (pa.int64(), "Number of these with the verdict trust."),
        "n_overlapping": (
            pa.int64(),
            "Number of these that match patterns of other samples, too, except `*`. The first pattern counts.",
        ),
        "n_measured": (
            pa.int64(),
            "Number of the trusted images whose detections are by this detector, on which the results are based.",
        ),
        "excluded": (
            EXCLUDED,
            "Images that the results leave out, by the first reason of their verdict; "
            "no_pixel_size: trusted ones without a pixel size, if others have one; not_measured: trusted ones that "
            "`emqa measure` has not measured.",
        ),
        "n_objects": (pa.int64(), "Number of objects in the measured images."),
        "area_um2": (pa.float64(), "Area of the measured images in um^2. NaN when no pixel size is known."),
        **_describe_values(),
        "density_std_per_um2": (pa.float64(), "Standard deviation of the density between images. NaN for one image."),
        "mean_diameter_std_nm": (
            pa.float64(),
            "Standard deviation of the mean diameter between images in nm. NaN for fewer than two images with objects.",
        ),
        "d10_nm": (pa.float64(), "Diameter that 10 % of all objects fall short of in nm, from bins of 12 % width."),
        "d50_nm": (pa.float64(), "Median diameter of all objects in nm, likewise."),
        "d90_nm": (pa.float64(), "Diameter that 90 % of all objects fall short of in nm, likewise."),
        "foil_thickness_nm": (pa.float64(), "Thickness of the specimen in nm, as the settings state it, else NaN."),
        "swelling_uncertainty_percent": (
            pa.float64(),
            "Standard uncertainty of the swelling from that of the foil thickness, in percentage points; not in the "
            "interval of the swelling.",
        ),
        "size_counts": (
            pa.list_(pa.float64()),
            "Histogram of the diameters in nm: edge-corrected numbers of objects in the bins of table sizes, of which "
            "the first begins at size_low_nm. Empty without objects or pixel sizes.",
        ),
        "size_low_nm": (pa.float64(), "Lower limit of the first bin of size_counts in nm. 20 bins per decade follow."),
    }
)
