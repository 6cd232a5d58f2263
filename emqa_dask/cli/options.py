"""The options that most verbs share: settings, where the workers are, which models look."""

import argparse

from emqa_dask.settings import template_names


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--settings",
        metavar="FILE",
        help="a TOML file; WS/settings.toml shows every key, and where you have edited it, give it here once",
    )
    group.add_argument("--template", metavar="NAME", help=f"start from a use case: {', '.join(template_names())}")
    group.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change one setting, e.g. detect.threshold=0.2; may be given several times",
    )
    group.add_argument(
        "--scheduler",
        metavar="NAME",
        help="where the workers are: local (this machine), cuda (its GPUs), slurm, kubernetes, tcp://host:port or "
        "file:scheduler.json (a Dask scheduler that runs already), in-process (nowhere); most have a settings section",
    )
    group.add_argument(
        "--detector",
        metavar="NAME",
        action="append",
        default=[],
        dest="detectors",
        help="log, a bundled network by name (cavity-tem), or a model directory; several look side by side, and the "
        "verdict rests on the one that can be trusted more",
    )
    group.add_argument(
        "--classifier",
        metavar="MODEL_DIR",
        help="an ensemble (emqa train ensemble) that says each image's class, how sure that is, and what is out of "
        "domain, in which way",
    )
    group.add_argument("--workers", metavar="N", type=int, help="worker processes; default: one per core, or per GPU")
