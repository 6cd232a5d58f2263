"""emqa study f1."""

import argparse
import os

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.cli.run_verbs import check_workspace
from emqa_dask.settings import SettingsError

DESCRIPTION = """Can the F1 of a detector be predicted without labels (Li et al., Digital Discovery 4 (2025) 987)? From
labelled images of a workspace, or from a table in one of the two published layouts: errors of a random forest by split
(Table 2) and for precision, recall and swelling (Table 3), SHAP values and number of features (figures 3 and 4), F1,
parity, confusion and classification (figures 5 to 9). Beside random folds, the published protocol, stand folds that
share no image, splits that are left out, and the coverage of intervals on them. No detector runs.

A split is a detector on a set of images, named as in the paper's Table 1: A&B_C was trained on A and B and tested on C.
--train-on says what a detector was trained on, --test-on which images are a set. Without them a split has the names of
the detector and of the folder. Table 3 has the error of swelling where measure.foil_thickness_nm is set and the labels
are boxes."""
EXAMPLES = """examples:
  emqa study f1 session.emqa labels.json --out f1
  emqa study f1 ws.emqa labels.json --train-on my-a=A --train-on my-ab='A&B' --test-on A='day1/*' --test-on C='day2/*'
  emqa study f1 table.csv                               a table as published
  emqa study f1 table.csv --repeats 2 --model boosting
  emqa study f1 session.emqa labels.json --short        the forest alone, no figure 4, no intervals"""


def add_f1(kinds) -> None:
    """`emqa study f1`."""
    f1 = kinds.add_parser(
        "f1",
        help="how well F1 is predicted without labels",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    f1.add_argument("source", metavar="WS|TABLE.csv", help="a workspace, or a table in one of the published layouts")
    f1.add_argument(
        "labels", metavar="LABELS", nargs="*", help="labels of micrographs of WS, in any format of emqa calibrate"
    )
    f1.add_argument("--out", metavar="DIR", default="study-f1", help="folder to write; default: study-f1")
    f1.add_argument(
        "--train-on",
        metavar="DETECTOR=SET",
        action="append",
        default=[],
        help="a detector of the run and the set that it was trained on; only these detectors are studied; may be given "
        "several times",
    )
    f1.add_argument(
        "--test-on",
        metavar="SET=GLOB",
        action="append",
        default=[],
        help="a set of test images, by a pattern of their URIs; the first one that matches counts; may be given "
        "several times",
    )
    f1.add_argument("--iou", metavar="X", type=float, help="IoU from which a box counts as found; default 0.1")
    f1.add_argument("--repeats", metavar="N", type=int, default=10, help="repeats of the random folds, default 10")
    f1.add_argument(
        "--model",
        metavar="KIND",
        action="append",
        default=[],
        dest="models",
        help="a model beside the forest: extra_trees, boosting, gaussian_process or mixed_gaussian_process; may be "
        "given several times; default: the last two",
    )
    f1.add_argument("--seed", metavar="S", type=int, default=0, help="of random folds; default 0")
    f1.add_argument("--short", action="store_true", help="the forest alone, without figure 4 and coverage of intervals")
    add_settings(f1)
    f1.set_defaults(run=run_study_f1)


def run_study_f1(options: argparse.Namespace) -> int:
    """The study of predicted F1, of a workspace or of a table."""
    from emqa_dask.pipeline.studies.f1.compute import OTHER_MODELS, F1Options
    from emqa_dask.pipeline.studies.f1.splits import parse_split_plan
    from emqa_dask.pipeline.studies.f1.study import study_file, study_workspace

    models = tuple(options.models) or OTHER_MODELS
    f1_options = F1Options(options.repeats, models, options.seed, options.short)
    plan = parse_split_plan(options.train_on, options.test_on)
    if not options.labels:
        if os.path.isdir(options.source):
            raise SettingsError(f"{options.source} is a folder: give labels of its micrographs, too")
        if options.train_on or options.test_on or options.detectors or options.iou is not None:
            raise SettingsError(
                f"{options.source} has its splits: --train-on, --test-on, --detector and --iou are for a workspace"
            )
        if not os.path.isfile(options.source):
            raise SettingsError(
                f"{options.source} is not there: give a workspace and labels, or a CSV table in a published layout"
            )
        study_file(options.source, options.out, f1_options, say=say)
        return 0
    check_workspace(options.source)
    settings = read_settings(options, options.source)
    study_workspace(
        options.source, options.labels, options.out, settings, f1_options, plan, options.detectors, options.iou, say
    )
    return 0
