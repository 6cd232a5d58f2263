"""emqa study: the papers' experiments on own data."""

from emqa_dask.cli import study_conditions, study_f1, study_robustness, study_uncertainty


def add_study(verbs) -> None:
    """`emqa study` with a kind for each study."""
    study = verbs.add_parser(
        "study",
        help="experiments of the papers on your own data, with tables, figures and a page",
        description="Repeat the experiments of the papers that emqa_dask rests on, on your own data. Each writes a "
        "folder: tables as CSV, figures as PNG and SVG, summary.json with settings and versions, and index.html, which "
        "shows all of it. A study that was interrupted goes on where it was.",
    )
    kinds = study.add_subparsers(dest="kind", metavar="WHAT", required=True)
    study_f1.add_f1(kinds)
    study_conditions.add_conditions(kinds)
    study_robustness.add_robustness(kinds)
    study_uncertainty.add_uncertainty(kinds)
