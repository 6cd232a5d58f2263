"""emqa tune log, emqa tune order and emqa tune types."""

import argparse
import dataclasses

from emqa_dask.cli import tune_types_verb
from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, name_default_workspace, read_settings
from emqa_dask.settings import Settings

LOG_DESCRIPTION = """Tune the Laplacian-of-Gaussian detector for each cohort (instrument x magnification x folder) of
SRC, an archive or a workspace, and write a settings file that `emqa triage --settings` takes. Rewards judge what is
found: by default how far the number of objects is from the expected one, and how many lie too close together (with a
lattice) or end where the image has no edge (with a density; without either that alone), or how much the objects differ
from a reference. A Gaussian process asks for the settings to try next. Rewards: count_error, signed_count_error,
crowding, lattice_residual, disagreement, size_prior, doubtful_count, doubtful_area."""
LOG_EXAMPLES = """examples:
  emqa tune log /data/session --lattice srtio3.toml --out tuned.toml
  emqa tune log session.emqa --count-per-um2 400 --cohort 'day1/*' --evaluations 60 --baselines
  emqa tune log session.emqa --reference em-objects                  as the network of the triage sees it
  emqa tune log session.emqa --reference labels.json --reward disagreement --reward size_prior
  emqa tune log session.emqa --reward mypackage.rewards:roundness --reward size_prior

a lattice file says one of
  a_nm = 0.3905, b_nm = 0.3905, gamma_deg = 90, columns = [[0, 0], [0.5, 0.5]]      the projected cell
  spacings_nm = [0.23, 0.20], angle_deg = 90, columns_per_cell = 1                  two spacings
  [crystal] a_nm, b_nm, c_nm, alpha_deg, beta_deg, gamma_deg, atoms = [[x, y, z], ...], zone_axis = [0, 0, 1]"""


def add_tune(verbs) -> None:
    """`emqa tune log`, `emqa tune order` and `emqa tune types`."""
    tune = verbs.add_parser(
        "tune",
        help="choose the detector's settings by what physics says of the result; map disorder and atom types",
        description="Methods of Barakati et al. for images of atoms: emqa tune log, emqa tune order, emqa tune types.",
    )
    subcommands = tune.add_subparsers(dest="kind", metavar="WHAT", required=True)
    _add_log(subcommands)
    _add_order(subcommands)
    tune_types_verb.add_types(subcommands)


def _add_log(kinds) -> None:
    log = kinds.add_parser(
        "log",
        help="settings of the blob detector for every cohort",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=LOG_DESCRIPTION,
        epilog=LOG_EXAMPLES,
    )
    log.add_argument("source", metavar="SRC")
    log.add_argument("--out", metavar="FILE", default="tuned.toml", help="default: tuned.toml")
    add_physics(log)
    log.add_argument(
        "--reference",
        metavar="DETECTOR|FILE",
        default="",
        help="compare with a detector of the workspace, or with labels (COCO JSON, points.csv ...) of some micrographs",
    )
    log.add_argument(
        "--reward",
        metavar="NAME",
        action="append",
        default=[],
        dest="rewards",
        help="what to minimise: a name, or package.module:function; several give a Pareto front",
    )
    add_search(log, images=6)
    log.add_argument("--method", choices=("bayes", "random", "evolution"), default="bayes", help="default: bayes")
    log.add_argument("--baselines", action="store_true", help="run the other methods, too, to compare with")
    log.add_argument(
        "--choose",
        choices=("euclidean", "chebyshev"),
        default="euclidean",
        help="distance to the ideal point by which one of the front is chosen; default: euclidean",
    )
    log.add_argument(
        "--windows",
        metavar="PX",
        type=int,
        help="tune windows of about PX px by themselves, where conditions vary over the image in the same way in "
        "all images of a cohort, which have one size; a triage with the settings file uses the map",
    )
    add_selection(log)
    add_settings(log)
    log.set_defaults(run=run_tune_log)


def _add_order(kinds) -> None:
    order = kinds.add_parser(
        "order",
        help="disordered regions of lattice images",
        description="Map the disordered regions of the lattice images in SRC, an archive or a workspace: a row per "
        "image, a table of windows, a table of atoms and overlays, in OUT.",
    )
    order.add_argument("source", metavar="SRC")
    order.add_argument("--out", metavar="DIR", default="order", help="default: order")
    add_selection(order)
    add_settings(order)
    order.set_defaults(run=run_tune_order)


def add_physics(parser: argparse.ArgumentParser) -> None:
    """What physics says of the objects."""
    physics = parser.add_mutually_exclusive_group()
    physics.add_argument("--lattice", metavar="FILE", default="", help="a TOML file with the crystal that is seen")
    physics.add_argument("--count-per-um2", metavar="X", type=float, help="expected objects per um^2")
    parser.add_argument("--nm-per-pixel", metavar="NM", type=float, help="where headers do not say it")


def add_search(parser: argparse.ArgumentParser, images: int) -> None:
    """The budget and the seed of a search, and on how many micrographs it is done."""
    parser.add_argument(
        "--evaluations", metavar="N", type=int, default=48, help="settings to try per cohort, default 48"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same search; default 0")
    parser.add_argument(
        "--images", metavar="K", type=int, default=images, help=f"micrographs of each cohort, default {images}"
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which micrographs of SRC."""
    parser.add_argument(
        "--cohort",
        metavar="GLOB",
        action="append",
        default=[],
        dest="cohorts",
        help="only micrographs whose URI matches, as one cohort; may be given several times",
    )
    parser.add_argument("--workspace", metavar="WS", help="where SRC is stored; default: ./<name of SRC>.emqa")


def run_tune_log(options: argparse.Namespace) -> int:
    """Settings of the blob detector, by rewards; impossible options are refused before any work."""
    from emqa_dask.pipeline.commands import tune_log, tune_log_files
    from emqa_dask.pipeline.commands.tune_log_options import TuneOptions

    root, settings = open_source(options)
    names = {field.name for field in dataclasses.fields(TuneOptions)}
    values = {name: value for name, value in vars(options).items() if name in names}
    tune_options = TuneOptions(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
    tune_options.check()
    tune_log_files.check_out(options.out)
    ingest_source(options, root, settings)
    tune_log.tune_log(root, options.out, settings, tune_options, say=say)
    return 0


def run_tune_order(options: argparse.Namespace) -> int:
    """Maps of disordered regions."""
    from emqa_dask.pipeline.commands import tune_order

    root, settings = open_source(options)
    tune_order.check_out(options.out)
    ingest_source(options, root, settings)
    return tune_order.map_order(root, options.out, settings, tuple(options.cohorts), say=say)


def open_source(options: argparse.Namespace) -> tuple[str, Settings]:
    """SRC as a workspace, or the workspace into which the archive SRC is read, as triage does; and its settings."""
    from emqa_dask.store import marker

    is_workspace = marker.is_workspace(options.source)
    root = options.source if is_workspace else options.workspace or name_default_workspace([options.source])
    return root, read_settings(options, root)


def ingest_source(options: argparse.Namespace, root: str, settings: Settings) -> None:
    """Read the archive SRC into its workspace `root`, unless SRC is a workspace."""
    from emqa_dask.pipeline.commands.triage import run

    if root != options.source:
        run(options.source, root, settings, steps=("ingest",), say=say)
