"""decide(): the verdict on every micrograph and file, from one table and the flags."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.settings import Triage
from emqa_dask.triage.classifier_findings import list_class_findings
from emqa_dask.triage.f1_probability import compute_f1_probability, compute_shifted_probability
from emqa_dask.triage.findings import make_findings
from emqa_dask.triage.input_findings import list_file_findings, list_flag_findings
from emqa_dask.triage.prediction_findings import describe_f1, join_reasons, list_prediction_findings
from emqa_dask.triage.rows import complete_rows
from emqa_dask.triage.rules import NOTE, RULES, Rule, sort_rules


def decide(rows: pd.DataFrame, flags: pd.DataFrame, settings: Triage, rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """The triage table: a row per micrograph and a row per file that gave none, in the order of `rows`.

    Parameters
    ----------
    rows : DataFrame
        Columns of triage.rows.ROWS: a row per micrograph, and a row per file with the frame FILE_FRAME.
    flags : DataFrame
        Columns of tables.FLAGS. Flags of other micrographs do not count.
    settings : Triage
        Limits of the predicted F1, the distance to the training images and the entropy. Trust depends on the
        probability that F1 reaches the limit, since quality models over-estimate a low F1.
    rules : sequence of Rule
        Verdicts of findings, and combinations of findings.

    Returns
    -------
    DataFrame
        Columns of tables.TRIAGE. `reasons` lists codes in the order of sort_rules(rules) and is empty only where the
        verdict is trust and there is no note. A micrograph without detections or prediction is `unknown` unless its
        flags make it junk. Empty tables give an empty table.

    Raises
    ------
    ValueError
        Where a micrograph or a file occurs twice.
    """
    rows = complete_rows(rows)
    rows["f1_probability"] = compute_f1_probability(rows, settings.trust_f1)
    rows["f1_probability_at_twice_dose"] = compute_shifted_probability(rows, rows["dose_gain"], settings.trust_f1)
    ordered_rules = sort_rules(rules)
    flag_findings = list_flag_findings(rows, flags, {rule.code for rule in rules})
    is_junk = np.zeros(len(rows), bool)
    junk_codes = [rule.code for rule in rules if rule.verdict == "junk"]
    is_junk[flag_findings.loc[flag_findings["code"].isin(junk_codes), "row"]] = True
    is_open = ~rows["is_file"] & ~is_junk
    findings = pd.concat(
        [
            flag_findings,
            list_file_findings(rows),
            list_prediction_findings(rows, is_open, settings),
            list_class_findings(rows, is_open, settings),
        ],
        ignore_index=True,
    )
    findings = _sort_findings(_combine_findings(findings, ordered_rules), ordered_rules)
    rows["verdict"] = _select_verdicts(findings, ordered_rules, len(rows))
    rows["status"] = rows["status"].where(rows["verdict"].ne("unknown") | rows["status"].ne("ok"), "failed")
    reasons = _group_by_row(findings["row"], findings["code"], len(rows))
    rows["reasons"] = pd.Series(reasons.to_pylist(), dtype=object, index=rows.index)
    texts = _list_texts(rows, findings, settings)
    rows["explanation"] = [
        " ".join(row_texts) for row_texts in _group_by_row(texts["row"], texts["text"], len(rows)).to_pylist()
    ]
    rows["because"] = [join_reasons(reasons) for reasons in rows["because"]]
    return rows[tables.TRIAGE.names]


def _combine_findings(findings: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
    """`findings`, with those of the rules that ask for a number of different doubts."""
    doubt_codes = [rule.code for rule in rules if rule.is_doubt]
    doubts = findings[findings["code"].isin(doubt_codes)].drop_duplicates(["row", "code"])
    n_doubts = np.bincount(doubts["row"], minlength=1)
    combined = [
        make_findings(n_doubts >= rule.min_doubts, rule.code, rule.meaning) for rule in rules if rule.min_doubts > 0
    ]
    return pd.concat([findings, *combined], ignore_index=True)


def _sort_findings(findings: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
    """`findings` with the `rank` of their rules, each code once per row, the most important first."""
    ranks = {rule.code: rank for rank, rule in enumerate(rules)}
    ranked = findings.assign(rank=findings["code"].map(ranks).astype("int64"))
    ranked = ranked.sort_values(["row", "rank", "text"], kind="stable")
    return ranked.drop_duplicates(["row", "rank"], ignore_index=True)


def _select_verdicts(findings: pd.DataFrame, rules: Sequence[Rule], n_rows: int) -> np.ndarray:
    """(n_rows,) the verdict of each row's first finding that is no note; trust without one."""
    verdicts = np.full(n_rows, "trust", object)
    decisive = np.array([rule.verdict for rule in rules], object)[findings["rank"]]
    first_findings = findings[decisive != NOTE].drop_duplicates("row")
    verdicts[first_findings["row"]] = np.array([rule.verdict for rule in rules], object)[first_findings["rank"]]
    return verdicts


def _list_texts(rows: pd.DataFrame, findings: pd.DataFrame, settings: Triage) -> pd.DataFrame:
    """(row, text) of the findings, with a sentence in front that says why a trusted image is trusted."""
    is_trusted = rows["verdict"].eq("trust")
    trust = pd.DataFrame({"row": np.flatnonzero(is_trusted), "text": describe_f1(rows[is_trusted], settings)})
    return pd.concat([trust, findings[["row", "text"]]]).sort_values("row", kind="stable")


def _group_by_row(row: pd.Series, values: pd.Series, n_rows: int) -> pa.ListArray:
    """`values`, sorted by `row`, as a list for each of `n_rows` rows."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n_rows))]).astype("int32")
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(values, object), pa.string()))
