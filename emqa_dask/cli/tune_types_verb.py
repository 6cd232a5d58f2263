"""emqa tune types."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings

DESCRIPTION = """Find the types of atomic columns in the lattice images of the workspace WS: Sr or Ti in SrTiO3. The
columns are the detections of `emqa detect`. A Gaussian mixture of the columns' contrast and shape is fitted for each
image; the number of types is that of the lowest BIC. Type 1 is the brightest. WS gets the tables atom_columns (a row
per column, with its type), atom_types and atom_maps (a row per image), and pictures in atom_overlays."""
EXAMPLES = """examples:
  emqa triage /data/session --template atomic-stem --workspace session.emqa
  emqa tune types session.emqa
  emqa tune types session.emqa --cohort 'day1/*' --max-types 4

Detections have to be the columns: `emqa tune log SRC --lattice FILE` chooses settings that find them. An image needs 30
columns."""


def add_types(kinds) -> None:
    """`emqa tune types`."""
    types = kinds.add_parser(
        "types",
        help="types of the atomic columns of lattice images",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    types.add_argument("workspace", metavar="WS")
    types.add_argument(
        "--cohort",
        metavar="GLOB",
        action="append",
        default=[],
        dest="cohorts",
        help="only micrographs whose URI matches; may be given several times",
    )
    types.add_argument("--max-types", metavar="N", type=int, default=6, help="try 1 to N types, default 6")
    types.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same types; default 0")
    add_settings(types)
    types.set_defaults(run=run_tune_types)


def run_tune_types(options: argparse.Namespace) -> int:
    """Types of atomic columns."""
    from emqa_dask.pipeline.commands import tune_types

    settings = read_settings(options, options.workspace)
    limits = {"max_types": options.max_types, "seed": options.seed}
    return tune_types.map_types(options.workspace, settings, tuple(options.cohorts), **limits, say=say)
