"""The verbs that hand results to other tools: export, list."""

import argparse
import sys

from emqa_dask.cli.messages import say
from emqa_dask.cli.run_verbs import check_workspace

VERDICTS = ("trust", "review", "out_of_domain", "junk", "unknown")  # those of tables.VERDICTS, which needs pyarrow
FORMATS = ("coco", "cvat", "fiftyone", "napari", "csv", "yolo", "geojson", "fiji")


def add_export(verbs) -> None:
    """`emqa export`."""
    export = verbs.add_parser(
        "export",
        help="write detections for another tool: COCO, CVAT, FiftyOne, napari, CSV, YOLO, GeoJSON, Fiji",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Write the micrographs of WS with a verdict, and their detections from the score floor on, for
another tool. It streams: a workspace of any size needs little memory. Scores and pixel sizes come along.""",
        epilog="""formats:
  coco      one JSON: boxes, masks as run lengths or polygons     csv       a row per object
  cvat      one XML, CVAT for images 1.1                          geojson   a feature per object, as QuPath has it
  yolo      a text file per image, in a folder                    fiji      ROIs and a results table, in a folder
  napari    layers on the stacks of WS, in a folder               fiftyone  COCO with thumbnails, in a folder

examples:
  emqa export session.emqa --format coco --out objects.json
  emqa export session.emqa --format cvat --verdict review --reason blur     what a person should check
  emqa export session.emqa --format csv --verdict trust --verdict review --detector cavity-tem
people's labels come back with `emqa calibrate`""",
    )
    export.add_argument("workspace", metavar="WS")
    export.add_argument("--format", choices=FORMATS, required=True, help="see below")
    _add_query(export, "default: trust")
    export.add_argument(
        "--detector", metavar="NAME", help="whose detections; default: of the detector that each verdict rests on"
    )
    export.add_argument("--masks", choices=("rle", "polygon"), default="rle", help="in coco and cvat; default: rle")
    export.add_argument("--out", metavar="PATH", default="", help="a file or new folder; default: WS/exports/FORMAT")
    export.set_defaults(run=run_export)


def _add_query(parser: argparse.ArgumentParser, default_text: str) -> None:
    parser.add_argument(
        "--verdict",
        action="append",
        choices=VERDICTS,
        help=f"of the micrographs; may be given several times; {default_text}",
    )
    parser.add_argument(
        "--reason",
        metavar="CODE",
        action="append",
        default=[],
        help="only rows with this reason, e.g. blur; may be given several times, and one of them is enough",
    )


def run_export(options: argparse.Namespace) -> int:
    """Detections in the format of another tool."""
    check_workspace(options.workspace)
    from emqa_dask.pipeline.commands.export import export
    from emqa_dask.pipeline.workspace.image_selection import Query
    from emqa_dask.store import stored_settings

    query = Query(tuple(options.verdict or ("trust",)), tuple(options.reason))
    return export(
        options.workspace,
        options.format,
        stored_settings.read_settings(options.workspace),
        query=query,
        detector=options.detector,
        out=options.out,
        has_polygons=options.masks == "polygon",
        say=say,
    )


def add_list(verbs) -> None:
    """`emqa list`."""
    parser = verbs.add_parser(
        "list",
        help="print the paths of files by verdict and reason",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Print the path of every file of WS with a verdict, a line each, for other programs. A file
with several frames is listed once, if one of them has the verdict.""",
        epilog="""examples:
  emqa list session.emqa --verdict review --reason blur
  emqa list session.emqa --verdict trust -0 | xargs -0 cp -t trusted/     any name, also with a line break""",
    )
    parser.add_argument("workspace", metavar="WS")
    _add_query(parser, "default: all")
    parser.add_argument("-0", "--null", action="store_true", help="end each path with NUL instead of a line break")
    parser.set_defaults(run=run_list)


def run_list(options: argparse.Namespace) -> int:
    """Paths of files, by verdict and reason."""
    check_workspace(options.workspace)
    from emqa_dask.pipeline.commands.list_files import list_files
    from emqa_dask.pipeline.workspace.image_selection import Query

    query = Query(tuple(options.verdict or ()), tuple(options.reason))
    sys.stdout.flush()
    code = list_files(options.workspace, query, sys.stdout.buffer.write, b"\0" if options.null else b"\n")
    sys.stdout.buffer.flush()
    return code
