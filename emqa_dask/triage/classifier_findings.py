"""What a classifier's answer means for the verdict on a micrograph: the finding, its numbers and what to do."""

import numpy as np
import pandas as pd

from emqa_dask.triage.rules import findings, sentences

NUMBERS = ("class_probability", "predictive_entropy_nats", "mutual_information_nats", "shift_score")
_MORE = ("shift_probability", "entropy_limit_nats")
N_EVIDENCE = 3  # of the evidence for a shift, how much the explanation gives
# Kind of shift -> code, what is said of it, and what to do: paper D's advice for each.
KINDS = {
    "unrelated": ("unrelated", "This has nothing to do with what the classifier has learnt", "Discard it."),
    "new_class": (
        "new_class",
        "This seems to be of a class that the classifier does not know",
        "Test the sample further, and label some of these images.",
    ),
    "acquisition": (
        "shifted_acquisition",
        "This was acquired unlike the classifier's training images",
        "Augment its training with images like this, or acquire it again.",
    ),
}


def join(rows: pd.DataFrame, classifications: pd.DataFrame | None) -> pd.DataFrame:
    """`rows` with the columns of `classifications` that triage needs, unknown where there is no answer.

    Raises ValueError where a micrograph is classified twice.
    """
    by_id = pd.DataFrame({"micrograph_id": []}, dtype=object) if classifications is None else classifications
    if by_id["micrograph_id"].duplicated().any():
        raise ValueError(f"micrograph_id {by_id['micrograph_id'].mode()[0]!r} is classified twice")
    by_id = by_id.set_index("micrograph_id")
    ids = rows["micrograph_id"]
    columns = {}
    for name in (*NUMBERS, *_MORE):
        values = pd.to_numeric(ids.map(by_id[name])) if name in by_id else pd.Series(np.nan, index=rows.index)
        columns[name] = values.astype(float)
    for name in ("predicted_class", "shift", "refusal", "because"):
        values = ids.map(by_id[name]) if name in by_id else pd.Series(None, index=rows.index)
        columns["shift_because" if name == "because" else name] = values.astype(object).where(values.notna(), None)
    return rows.assign(**columns)


def classified(rows: pd.DataFrame, junk: np.ndarray, max_entropy_nats: float) -> pd.DataFrame:
    """What the classifier says, as findings: nothing of junk, and nothing of certainty out of its domain.

    The limit of the entropy is `max_entropy_nats` where that is above 0, else the row's entropy_limit_nats; where both
    are unknown nothing is uncertain.
    """
    open_ = ~junk & ~rows["is_file"].to_numpy(bool)
    found = []
    for kind, (code, said, advice) in KINDS.items():
        where = open_ & rows["shift"].eq(kind).to_numpy(bool)
        found.append(findings(rows, where, code, _shifted(rows, where, said, advice)))
    limit = rows["entropy_limit_nats"] if max_entropy_nats <= 0 else pd.Series(max_entropy_nats, index=rows.index)
    is_out = rows["shift"].isin(list(KINDS)).to_numpy(bool)
    where = open_ & ~is_out & rows["predictive_entropy_nats"].gt(limit).to_numpy(bool)
    found.append(findings(rows, where, "uncertain_class", _uncertain(rows, where, limit)))
    where = open_ & rows["refusal"].notna().to_numpy(bool)
    said = sentences("The classifier could not look at it: " + rows["refusal"].astype(object).fillna(""))
    found.append(findings(rows, where, "not_classified", said))
    return pd.concat(found)


def _shifted(rows: pd.DataFrame, where: np.ndarray, said: str, advice: str) -> pd.Series:
    texts = pd.Series("", index=rows.index, dtype=object)
    columns = ["shift_probability", "shift_score", "predictive_entropy_nats", "shift_because"]
    for k, p, score, entropy, because in rows.loc[where, columns].itertuples():
        numbers = [f"probability {p:.2f}"] if p == p else []
        numbers += [f"shift score {_up(score, 2)}, and the limit is 1"] if score == score else []
        numbers += [f"predictive entropy {_up(entropy, 3)} nats"] if entropy == entropy else []
        evidence = [str(text).strip().rstrip(".") for text in because][:N_EVIDENCE] if because is not None else []
        parts = [said + (f" ({'; '.join(numbers)})" if numbers else "") + "."]
        parts += [f"Evidence: {'; '.join(evidence)}."] if evidence else []
        texts[k] = " ".join([*parts, advice])
    return texts


def _uncertain(rows: pd.DataFrame, where: np.ndarray, limit: pd.Series) -> pd.Series:
    texts = pd.Series("", index=rows.index, dtype=object)
    columns = ["predicted_class", "class_probability", "predictive_entropy_nats", "mutual_information_nats"]
    for (k, name, p, entropy, mutual), most in zip(rows.loc[where, columns].itertuples(), limit[where], strict=True):
        least = f"the limit is {np.floor(most * 1000 + 1e-6) / 1000:g}"
        least = least if np.isfinite(most) else "no limit makes this classifier safe"
        text = f"Class {name!r} has a probability of {p:.2f}: predictive entropy is {_up(entropy, 3)} nats, and {least}"
        text += ", so that a person should look."
        texts[k] = text + (f" Of it the members disagree about {mutual:.3g} nats." if mutual == mutual else "")
    return texts


def _up(value: float, digits: int) -> str:
    """Rounded away from trust: a score of 1.001 is above a limit of 1."""
    return f"{np.ceil(value * 10**digits - 1e-6) / 10**digits:g}"
