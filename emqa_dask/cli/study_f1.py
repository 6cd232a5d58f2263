"""emqa study f1."""

import argparse

from emqa_dask.cli.messages import say

DESCRIPTION = """Can the F1 of a detector be predicted without labels (Li et al., Digital Discovery 4 (2025) 987)? From
a table in one of the two published layouts, a row for each image and split: errors of a random forest by split (Table
2) and for precision, recall and swelling (Table 3), SHAP values and number of features (figures 3 and 4), F1, parity,
confusion and classification (figures 5 to 9). Beside random folds, the published protocol, stand folds that share no
image, splits that are left out, and the coverage of intervals on them."""
EXAMPLES = """examples:
  emqa study f1 table.csv --out f1                      ten repeats, as published
  emqa study f1 table.csv --repeats 2 --model boosting
  emqa study f1 table.csv --short                       the forest alone, no sweep, no intervals"""


def add_f1(kinds) -> None:
    """`emqa study f1`."""
    f1 = kinds.add_parser(
        "f1",
        help="how well F1 is predicted without labels",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    f1.add_argument("source", metavar="TABLE.csv", help="a table in one of the published layouts")
    f1.add_argument("--out", metavar="DIR", default="study-f1", help="folder to write; default: study-f1")
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
    f1.set_defaults(run=run_study_f1)


def run_study_f1(options: argparse.Namespace) -> int:
    """The study of predicted F1."""
    from emqa_dask.pipeline.studies.f1.compute import OTHER_MODELS, F1Options
    from emqa_dask.pipeline.studies.f1.study import study_file

    models = tuple(options.models) or OTHER_MODELS
    f1_options = F1Options(options.repeats, models, options.seed, options.short)
    study_file(options.source, options.out, f1_options, say=say)
    return 0
