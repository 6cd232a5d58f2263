"""The verbs of the review by people: review plan, review serve."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.cli.run_verbs import check_workspace

RESULTS = ("f1", "density", "triage")  # those of review.gain, which needs pandas


def add_review(verbs) -> None:
    """`emqa review plan` and `emqa review serve`."""
    review = verbs.add_parser("review", help="let people check images", description="Review by people.")
    subcommands = review.add_subparsers(dest="kind", metavar="WHAT", required=True)
    _add_plan(subcommands)
    _add_serve(subcommands)


def _add_plan(kinds) -> None:
    plan = kinds.add_parser(
        "plan",
        help="draw the images that a person should check",
        description="Draw the images of WS whose review reduces the expected error of a result most, among those with "
        "the verdict trust or review. They are spread over the sessions, and of near-duplicates at most one is drawn. "
        "Every image has a known probability, so that `emqa estimate` is valid. The same options give the same images.",
        epilog="example: emqa review plan session.emqa --budget 100 --for density",
    )
    plan.add_argument("workspace", metavar="WS")
    plan.add_argument("--budget", metavar="N", type=int, default=200, help="images to check; default: 200")
    plan.add_argument(
        "--for",
        dest="result",
        choices=RESULTS,
        default="f1",
        help="the result: mean F1 of the detections, density of objects, or share of images that can be trusted; "
        "default: f1",
    )
    plan.add_argument(
        "--by",
        dest="grouping",
        metavar="GROUPS",
        default="session",
        help="strata: session, folder, folder:2 (depth), instrument, date, or samples of a CSV file as for emqa "
        "estimate; default: session",
    )
    plan.add_argument("--seed", metavar="S", type=int, default=0, help="other images; default: 0")
    add_settings(plan)
    plan.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    """The images that a person should check."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    from emqa_dask.pipeline.commands.review_plan import plan_review

    arguments = {"budget": options.budget, "result": options.result, "grouping": options.grouping}
    return plan_review(options.workspace, settings, **arguments, seed=options.seed, say=say)


def _add_serve(kinds) -> None:
    serve = kinds.add_parser(
        "serve",
        help="a page on which people check images",
        description="Serve a page on this machine on which people check the images of the plan, or without a plan "
        "those with the verdict review: accept, reject, unsure; boxes and points by mouse. Each decision is stored in "
        "WS/decisions before the page shows the next image. Several reviewers can work at once.",
        epilog="example: emqa review serve session.emqa --reviewer 'A. Smith'",
    )
    serve.add_argument("workspace", metavar="WS")
    serve.add_argument("--port", metavar="N", type=int, default=0, help="of this machine; default: any free one")
    serve.add_argument("--reviewer", metavar="NAME", default="", help="name in the decisions; the page can change it")
    add_settings(serve)
    serve.set_defaults(run=run_serve)


def run_serve(options: argparse.Namespace) -> int:
    """A page on which people check images."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    from emqa_dask.pipeline.commands.review_serve import serve_review

    return serve_review(options.workspace, settings, port=options.port, reviewer=options.reviewer, say=say)
