"""The papers' experiments on own data: study f1."""

from collections.abc import Sequence

from emqa_dask.cli import study_f1 as f1_verb
from emqa_dask.verbs.call import call_verb, list_texts


def study_f1(
    source: str,
    out: str = "study-f1",
    *,
    repeats: int = 10,
    models: Sequence[str] = (),
    seed: int = 0,
    short: bool = False,
) -> str:
    """Folder of a study of how well a detector's F1 is predicted without labels. The verb `study f1`.

    Parameters
    ----------
    source : str
        CSV table in one of the layouts of Li et al.: a row for each image and split.
    out : str, default "study-f1"
        Folder to write.
    repeats : int, default 10
        Repeats of the random folds.
    models : sequence of str, optional
        Models beside the forest. Default: both Gaussian processes.
    seed : int, default 0
        Of the random folds.
    short : bool, default False
        The forest alone, without the number of features and the coverage of intervals.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If the table lacks columns, breaks an identity, or has too few rows in a split.
    FileExistsError
        If something that no study wrote is at `out`.

    References
    ----------
    Li et al., Digital Discovery 4 (2025) 987.
    """
    values = {"source": str(source), "out": str(out), "repeats": repeats, "models": list_texts(models)}
    call_verb(f1_verb.run_study_f1, "study", kind="f1", seed=seed, short=short, **values)
    return str(out)
