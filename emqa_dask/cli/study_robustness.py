"""emqa study robustness: LoG tuned anew at each level of noise."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings
from emqa_dask.cli.tune_verbs import add_physics, add_search, add_selection, ingest_source, open_source

EXAMPLES = """examples:
  emqa study robustness /data/session --lattice srtio3.toml --template atomic-stem
  emqa study robustness session.emqa --count-per-um2 400 --detector em-objects --noise 0 0.1 0.2 0.3
  emqa study robustness session.emqa --lattice srtio3.toml --labels columns.csv --cohort 'day1/*' --images 2

the lattice file is that of emqa tune log"""


def add_robustness(studies) -> None:
    """`emqa study robustness`."""
    robustness = studies.add_parser(
        "robustness",
        help="how tuned detection holds in noise",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Add Gaussian noise to micrographs of SRC, an archive or a workspace, and tune the
Laplacian-of-Gaussian detector anew for each level of noise, as emqa tune log does (Barakati et al.). The settings,
their objectives and the number of objects are compared with those of the LoG as it is set, and of the networks that
--detector names. Interrupted, the same command goes on after the last level that is finished.""",
        epilog=EXAMPLES,
    )
    robustness.add_argument("source", metavar="SRC")
    robustness.add_argument("--out", metavar="DIR", default="study-robustness", help="default: study-robustness")
    robustness.add_argument(
        "--noise",
        metavar="X",
        type=float,
        nargs="+",
        default=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        help="levels: standard deviations as fractions of the range of grey values; default: 0 0.2 0.4 0.6 0.8 1",
    )
    add_physics(robustness)
    robustness.add_argument(
        "--labels", metavar="FILE", default="", help="known objects, in a format of emqa calibrate, to compare with"
    )
    add_search(robustness, images=3)
    add_selection(robustness)
    add_settings(robustness)
    robustness.set_defaults(run=run_study_robustness)


def run_study_robustness(options: argparse.Namespace) -> int:
    """The study of robustness; impossible options are refused before any work."""
    from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
    from emqa_dask.pipeline.studies import output
    from emqa_dask.pipeline.studies.robustness import show
    from emqa_dask.pipeline.studies.robustness.study import RobustnessOptions, study_robustness

    root, settings = open_source(options)
    tuning = TuneOptions(
        lattice=options.lattice,
        count_per_um2=options.count_per_um2,
        nm_per_pixel=options.nm_per_pixel,
        evaluations=options.evaluations,
        seed=options.seed,
        images=options.images,
        cohorts=tuple(options.cohorts),
    )
    study_options = RobustnessOptions(tuning, tuple(options.noise), options.labels)
    study_options.check()
    output.check_out(options.out, show.TITLE)
    ingest_source(options, root, settings)
    study_robustness(root, options.out, settings, study_options, say=say)
    return 0
