"""The review by people: which images to check, and the page for it."""

from emqa_dask.cli import review_verbs
from emqa_dask.results.run import Run, open_run
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb


def plan_review(
    workspace: str,
    settings: Settings | None = None,
    *,
    budget: int = 200,
    result: str = "f1",
    grouping: str = "session",
    seed: int = 0,
) -> Run:
    """Run with a plan of the images that a person should check. The verb `review plan`.

    Parameters
    ----------
    workspace : str
        Workspace.
    settings : Settings, optional
        Default: those of the workspace.
    budget : int, default 200
        Number of images to check.
    result : str, default "f1"
        Result whose expected error is reduced, the option --for: f1, density or triage.
    grouping : str, default "session"
        Strata, the option --by: session, folder, folder:2, instrument, date, or a CSV file.
    seed : int, default 0
        Of the random choice.

    Returns
    -------
    Run
        The workspace; its table ``review_plan`` has the images and their probabilities.

    Raises
    ------
    ValueError
        If there is no workspace, or it has no verdicts or measurements.
    """
    if result not in review_verbs.RESULTS:
        raise ValueError(f"no result {result!r}; there are {', '.join(review_verbs.RESULTS)}")
    options = {"budget": budget, "result": result, "grouping": grouping, "seed": seed}
    call_verb(review_verbs.run_plan, "review", workspace=str(workspace), settings=settings, **options)
    return open_run(workspace)


def serve_review(workspace: str, settings: Settings | None = None, *, port: int = 0, reviewer: str = "") -> int:
    """Number 0 after the review has ended with Ctrl-C. The verb `review serve`.

    Parameters
    ----------
    workspace : str
        Workspace.
    settings : Settings, optional
        Default: those of the workspace.
    port : int, default 0
        Port of this machine. Default: any free one.
    reviewer : str, optional
        Name in the decisions; the page can change it.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If there is no workspace, or it has no verdicts.
    OSError
        If the port is in use.
    """
    options = {"port": port, "reviewer": reviewer}
    return call_verb(review_verbs.run_serve, "review", workspace=str(workspace), settings=settings, **options)
