"""The review by people: which images to check."""

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
