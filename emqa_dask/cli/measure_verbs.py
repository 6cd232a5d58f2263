"""The verbs about the specimen: estimate."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.cli.run_verbs import check_workspace


def add_estimate(verbs) -> None:
    """`emqa estimate`."""
    estimate = verbs.add_parser(
        "estimate",
        help="density, sizes and swelling with confidence intervals, from labels of some images and detections in all",
        description="Number and density of objects, mean diameter and swelling over all trusted and review images of "
        "WS, from the micrographs in LABELS and the detections in all. The 95 % intervals hold for any bias of the "
        "detector, if the labelled images are a random sample or their review probabilities are given. The results of "
        "labels alone and of detections alone stand beside them.",
        epilog="examples: emqa estimate session.emqa labels.json --by folder; emqa estimate session.emqa reviewed; "
        "emqa estimate session.emqa labels.json --show density",
    )
    estimate.add_argument("workspace", metavar="WS")
    estimate.add_argument(
        "labels",
        metavar="LABELS",
        nargs="+",
        help="files of labels, as for emqa calibrate; sizes and swelling need outlines or boxes, a CSV uri,n_objects "
        "gives numbers. The word reviewed: the decisions of emqa review serve on the images of the plan",
    )
    estimate.add_argument(
        "--by",
        dest="grouping",
        metavar="GROUPS",
        default="all",
        help="an estimate for each session, folder, folder:2 (depth), instrument, date, or sample of a CSV file with "
        "uri (pattern) and sample; sample: the first entry of report.samples; default: all images together",
    )
    estimate.add_argument(
        "--probabilities",
        metavar="CSV",
        default="",
        help="uri,review_probability of the labelled images; without it, and without this column in LABELS, they count "
        "as a random sample",
    )
    estimate.add_argument(
        "--show",
        metavar="QUANTITY",
        action="append",
        default=[],
        help="print this quantity alone, such as density, mean_diameter, swelling or n_objects; may be given several "
        "times; the table has all",
    )
    estimate.add_argument(
        "--quantile",
        metavar="P",
        dest="quantiles",
        type=float,
        action="append",
        default=[],
        help="probability of a quantile over the images, of number, density and mean diameter: 0.5 is the median; may "
        "be given several times; default: 0.1, 0.5, 0.9",
    )
    estimate.add_argument("--out", metavar="FILE", default="", help=".parquet or .csv; default: WS/estimates.parquet")
    add_settings(estimate)
    estimate.set_defaults(run=run_estimate)


def run_estimate(options: argparse.Namespace) -> int:
    """Estimates of groups of images from labels and detections."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    from emqa_dask.pipeline.commands.estimate import estimate

    arguments = {"grouping": options.grouping, "probabilities": options.probabilities, "out": options.out}
    arguments |= {"show": tuple(options.show), "quantiles": tuple(options.quantiles)}
    return estimate(options.workspace, options.labels, settings, **arguments, say=say)
