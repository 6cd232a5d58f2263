"""The verdict on every micrograph and file: judge(), which applies the rules of report.rules."""

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.settings import Triage
from emqa_dask.triage import classifier_findings
from emqa_dask.triage.rules import RANKS, RULES, findings, sentences

PREDICTED = ("predicted_f1", "predicted_f1_low", "predicted_f1_high", "predicted_precision", "predicted_recall")
PREDICTED += ("ood_distance",)
MEASURED = ("detector_agreement", "disordered_fraction", "defocus_nm")
N_BECAUSE = 2  # of the reasons for a predicted F1, how many the explanation gives


def judge(
    catalog: pd.DataFrame,
    micrographs: pd.DataFrame,
    features: pd.DataFrame,
    predictions: pd.DataFrame,
    flags: pd.DataFrame,
    settings: Triage,
    failures: pd.DataFrame | None = None,
    *,
    classifications: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The triage table: a row per micrograph and a row per catalog file that gave none, by URI and frame.

    `catalog`, `micrographs`, `predictions` and `flags` as in `tables`; `features` needs micrograph_id and n_detections,
    and may have detector, is_capped, agreement, disordered_fraction and defocus_nm; `features` and `predictions` have
    one row for a micrograph, those of the detector that the verdict rests on; `micrographs` may have
    damage and is_nm_per_pixel_suspect. Trust is decided on the lower end of the predicted F1, because forests
    over-estimate a low F1. A micrograph without features or without a prediction is `unknown` unless its flags already
    make it junk; `failures` (tables.FAILURES) says of which images that is because a stage failed on them.

    `classifications` (tables.CLASSIFICATIONS, at most one row for a micrograph) may have entropy_limit_nats, the
    classifier's own limit for referral, which counts where settings.max_entropy_nats is 0.

    Returns tables.TRIAGE's columns; `reasons` holds lists of codes in the order of RULES and is empty only where the
    verdict is trust and there is nothing to note. Empty tables give an empty table. Raises ValueError where a
    micrograph or a file occurs twice.
    """
    rows = classifier_findings.join(_rows(catalog, micrographs, features, predictions), classifications)
    rows["failure"] = _failure(rows, failures)
    found = _flagged(rows, flags)
    junk = np.zeros(len(rows), bool)
    junk[found["row"][found["rank"].map(lambda rank: RULES[rank].verdict == "junk")]] = True
    told = [
        _files(rows),
        _predicted(rows, junk, settings),
        classifier_findings.classified(rows, junk, settings.max_entropy_nats),
    ]
    found = pd.concat([found, *told], ignore_index=True)
    found = found.sort_values(["row", "rank", "text"], kind="stable").drop_duplicates(["row", "rank"])
    rows["verdict"] = _verdicts(found, len(rows))
    rows["status"] = rows["status"].where(rows["verdict"].ne("unknown") | rows["status"].ne("ok"), "failed")
    codes = np.array([rule.code for rule in RULES], object)[found["rank"]]
    rows["reasons"] = pd.Series(_lists(found["row"], codes, len(rows)).to_pylist(), dtype=object, index=rows.index)
    texts = _explained(rows, found, settings)
    rows["explanation"] = [" ".join(own) for own in _lists(texts["row"], texts["text"], len(rows)).to_pylist()]
    return rows[tables.TRIAGE.names]


def _rows(catalog, micrographs, features, predictions) -> pd.DataFrame:
    """Micrographs and files without any, with what later steps need of the other tables, sorted by URI and frame."""
    for table, key in ((catalog, "uri"), (micrographs, "micrograph_id"), (features, "micrograph_id")):
        if table[key].duplicated().any():
            raise ValueError(f"{key} {table[key][table[key].duplicated()].iloc[0]!r} occurs twice")
    if predictions["micrograph_id"].duplicated().any():
        raise ValueError(f"micrograph_id {predictions['micrograph_id'].mode()[0]!r} is predicted twice")
    is_bare = ~catalog["uri"].isin(micrographs["uri"])
    rows = pd.concat([micrographs, catalog.loc[is_bare, ["uri", "content_sha256"]]], ignore_index=True)
    rows["is_file"] = np.arange(len(rows)) >= len(micrographs)
    rows["frame"] = rows["frame"].fillna(0).astype("int32")
    rows = rows.sort_values(["uri", "frame"], kind="stable", ignore_index=True)
    by_uri = catalog.set_index("uri")[["format", "reason", "error", "status"]].reindex(rows["uri"])
    rows[["format", "reason", "error", "file_status"]] = by_uri.to_numpy(object)
    rows["status"] = rows["file_status"].where(rows["is_file"], "ok").fillna("ok")
    by_id = features.set_index("micrograph_id")
    for column in ("detector", "n_detections", "is_capped", *MEASURED):
        rows[column] = rows["micrograph_id"].map(by_id[column]) if column in by_id else np.nan
    rows["detector"] = rows["detector"].astype(object).where(rows["detector"].notna(), None)
    rows["n_detections"] = pd.to_numeric(rows["n_detections"]).astype("Int64")
    rows["is_capped"] = rows["is_capped"].eq(True)
    for column in MEASURED:
        rows[column] = pd.to_numeric(rows[column]).astype(float)
    by_id = predictions.set_index("micrograph_id")
    for column in PREDICTED:
        known = pd.to_numeric(rows["micrograph_id"].map(by_id[column])) if column in by_id else np.nan
        rows[column] = pd.Series(known, index=rows.index).astype(float)
    rows["evidence"] = rows["micrograph_id"].map(by_id["evidence"])
    rows["damage"] = rows["damage"].astype(object) if "damage" in rows else None
    rows["because"] = rows["micrograph_id"].map(by_id["because"]) if "because" in by_id else None
    rows["is_judged"] = rows["micrograph_id"].isin(by_id.index) & rows["n_detections"].notna()
    suspect = rows.get("is_nm_per_pixel_suspect", pd.Series(False, index=rows.index))
    rows["is_nm_per_pixel_suspect"] = suspect.eq(True).fillna(False).astype(bool)
    rows["nm_per_pixel"] = pd.to_numeric(rows["nm_per_pixel"]).astype(float)
    return rows.astype({"height_px": "Int64", "width_px": "Int64"})


def _failure(rows: pd.DataFrame, failures: pd.DataFrame | None) -> pd.Series:
    """What a stage that failed on an image said; null for images that are judged all the same."""
    said = pd.Series(None, index=rows.index, dtype=object)
    if failures is not None and len(failures):
        of_images = failures.dropna(subset="micrograph_id").drop_duplicates("micrograph_id").set_index("micrograph_id")
        texts = "Stage " + of_images["stage"] + " failed on it (" + of_images["kind"] + "): "
        texts = texts.astype(object) + of_images["error"].fillna("no error was recorded").astype(object)
        said = rows["micrograph_id"].map(texts).astype(object)
        said = said.where(said.notna() & ~rows["is_judged"], None)
    return said


def _flagged(rows: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    positions = pd.Series(rows.index, index=rows["micrograph_id"])
    positions = positions[positions.index.notna()]
    flags = flags[flags["micrograph_id"].isin(positions.index)]
    is_all = flags["flag"].eq("nonfinite_pixels") & flags["value"].ge(1)
    codes = flags["flag"].astype(object).where(~is_all, "no_finite_pixels")
    is_known = codes.isin(list(RANKS))
    text = flags["text"].astype(object).where(flags["text"].notna() & flags["text"].ne(""), codes)
    text = text.where(is_known, "Flag '" + flags["flag"].astype(object) + "': " + text)
    ranks = codes.where(is_known, "unlisted").map(RANKS).astype("int64")
    row = positions.reindex(flags["micrograph_id"]).to_numpy().astype("int64")
    return pd.DataFrame({"row": row, "rank": ranks.to_numpy(), "text": sentences(text).to_numpy(object)})


def _files(rows: pd.DataFrame) -> pd.DataFrame:
    """What the catalog says: files that gave nothing, and files of which a part was lost."""
    said = rows["reason"].fillna("").astype(str)
    error = rows["error"].fillna("").astype(str)
    untold = np.array([e not in s for e, s in zip(error, said, strict=True)], bool)
    said = sentences(said) + (" (" + error + ")").where(untold, "")
    said = said.str.strip().where(said.str.strip().ne(""), "No reason was recorded.")
    is_file = rows["is_file"]
    damage = rows["damage"]
    lost = ~is_file & (rows["reason"].fillna("").ne("") | rows["file_status"].eq("failed"))
    return pd.concat(
        [
            findings(rows, is_file & rows["status"].eq("failed"), "not_readable", said),
            findings(rows, is_file & rows["status"].eq("skipped"), "not_a_micrograph", said),
            findings(rows, is_file & rows["status"].eq("ok"), "not_stored", RULES[RANKS["not_stored"]].meaning),
            findings(rows, is_file & rows["status"].eq("removed"), "removed", RULES[RANKS["removed"]].meaning),
            findings(rows, lost, "frames_lost", said),
            findings(rows, damage.notna(), "damaged_pixels", sentences(damage.fillna(""))),
        ]
    )


def _predicted(rows: pd.DataFrame, junk: np.ndarray, settings: Triage) -> pd.DataFrame:
    """What detections and predictions say. They say nothing about junk, and the F1 nothing out of the domain."""
    open_ = ~junk & ~rows["is_file"]
    judged = open_ & rows["is_judged"]
    low = rows["predicted_f1_low"]
    is_out = judged & rows["ood_distance"].gt(settings.max_ood_distance)
    is_empty = judged & (rows["n_detections"].eq(0).fillna(False).astype(bool) | rows["evidence"].eq("no_detections"))
    rest = judged & ~is_out & ~is_empty
    unfit = rows["evidence"].eq("no_model")
    far = _formatted("{:.2f}", np.ceil(rows["ood_distance"] * 100 - 1e-6) / 100)  # 1.001 is above a limit of 1
    size = _formatted("{:.4g}", rows["nm_per_pixel"])
    cap = rows["n_detections"].astype(str)
    return pd.concat(
        [
            findings(rows, rows["failure"].notna(), "quarantined", sentences(rows["failure"])),
            findings(
                rows,
                open_ & ~rows["is_judged"] & rows["failure"].isna(),
                "not_judged",
                RULES[RANKS["not_judged"]].meaning,
            ),
            findings(
                rows,
                is_out,
                "out_of_domain",
                "Distance to the training images is " + far + f", and the limit is {settings.max_ood_distance:g}: "
                "no predicted F1 can be relied on here.",
            ),
            findings(
                rows,
                open_ & rows["is_nm_per_pixel_suspect"],
                "pixel_size_suspect",
                "Pixel size " + size + " nm is about 10x or 100x off the other images of its cohort.",
            ),
            findings(rows, is_empty, "no_detections", RULES[RANKS["no_detections"]].meaning),
            findings(
                rows,
                judged & rows["is_capped"],
                "too_many_blobs",
                "The detector stopped at its cap with " + cap + " detections, so objects are missing from the count.",
            ),
            findings(
                rows, rest & low.isna() & ~unfit, "no_prediction", "No F1 could be predicted from these detections."
            ),
            findings(rows, rest & low.isna() & unfit, "no_prediction", "No model predicts the F1 of this detector."),
            findings(rows, rest & low.lt(settings.trust_f1), "low_predicted_f1", _f1_text(rows, settings)),
        ]
    )


def _verdicts(found: pd.DataFrame, n: int) -> np.ndarray:
    verdicts = np.full(n, "trust", object)
    # RULES is ordered by verdict with notes last, so a row's first finding decides, unless it is a note.
    first = found.drop_duplicates("row")
    verdicts[first["row"]] = np.array([r.verdict if r.verdict != "note" else "trust" for r in RULES], object)[
        first["rank"]
    ]
    return verdicts


def _explained(rows: pd.DataFrame, found: pd.DataFrame, settings: Triage) -> pd.DataFrame:
    """The findings' sentences, with one in front of the notes that says why a trusted image is trusted."""
    is_trust = rows["verdict"].eq("trust")
    why = pd.DataFrame({"row": np.flatnonzero(is_trust), "text": _f1_text(rows[is_trust], settings)})
    return pd.concat([why, found[["row", "text"]]]).sort_values("row", kind="stable")


def _f1_text(rows: pd.DataFrame, settings: Triage) -> pd.Series:
    limit = f"{settings.trust_f1:g}"
    low = rows["predicted_f1_low"]
    ends = (
        f"; trust asks for a lower end of {limit}.",
        f", and its lower end reaches the {limit} that trust asks for.",
    )
    ends = np.array(ends, object)[low.ge(settings.trust_f1).to_numpy(int)]
    # Rounded away from trust, so that no sentence says that 0.70 is below 0.7.
    columns = (rows["predicted_f1"], np.floor(low * 100 + 1e-6) / 100, rows["predicted_f1_high"], ends)
    texts = [f"Predicted F1 is {m:.2f} ({a:.2f} to {b:.2f}){end}" for m, a, b, end in zip(*columns, strict=True)]
    texts = [f"{text}{_because(why)}" for text, why in zip(texts, rows["because"], strict=True)]
    return pd.Series(texts, index=rows.index, dtype=object)


def _because(why: object) -> str:
    """The main reasons of a prediction as a sentence, with a blank in front; "" without any."""
    main = list(why)[:N_BECAUSE] if isinstance(why, list | tuple | np.ndarray) else []
    return f" Mostly: {'; '.join(main)}." if main else ""


def _formatted(form: str, values: pd.Series) -> pd.Series:
    return pd.Series([form.format(v) for v in values], index=values.index, dtype=object)


def _lists(row: pd.Series, values, n: int) -> pa.ListArray:
    """`values`, sorted by `row`, as n lists."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))]).astype("int32")
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(values, object), pa.string()))
