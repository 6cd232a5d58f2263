"""Findings from the catalog (is the file readable?) and from the flags of images."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from emqa_dask.triage.findings import format_numbers, make_findings, write_sentences
from emqa_dask.triage.rules import MEANINGS, UNLISTED


def list_file_findings(rows: pd.DataFrame) -> pd.DataFrame:
    """Files without micrographs, and micrographs of files that were read in part.

    rows: as complete_rows() returns them.
    """
    text = _describe_file(rows)
    is_file = rows["is_file"]
    is_lost = ~is_file & (rows["n_frames_lost"].gt(0) | rows["file_status"].eq("failed"))
    has_remark = ~is_file & ~is_lost & rows["reason"].fillna("").ne("")
    damage = rows["damage"]
    return pd.concat(
        [
            make_findings(is_file & rows["status"].eq("failed"), "not_readable", text),
            make_findings(is_file & rows["status"].eq("skipped"), "not_a_micrograph", text),
            make_findings(is_file & rows["status"].eq("ok"), "not_stored", MEANINGS["not_stored"]),
            make_findings(is_file & rows["status"].eq("removed"), "removed", MEANINGS["removed"]),
            make_findings(is_lost, "frames_lost", text),
            make_findings(has_remark, "remark", text),
            make_findings(damage.notna(), "damaged_pixels", write_sentences(damage.fillna(""))),
            *_list_colour_findings(rows),
        ]
    )


def _list_colour_findings(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Micrographs whose files have colours: true ones, those of a colour map, and annotations."""
    colour = rows["colour"].fillna("").astype(str)
    maps = colour.str.extract(r"^colour map: ([^;]+)", expand=False)
    true_text = "The file has colours, in " + format_numbers("{:.1%}", rows["colour_fraction"]) + " of its pixels; "
    map_text = "The file shows its intensities by the colour map " + maps.fillna("") + "; they were read back."
    marks_text = "Coloured annotations over " + format_numbers("{:.2%}", rows["annotated_fraction"])
    return [
        make_findings(colour.eq("colour"), "colour", true_text + "their brightness is judged."),
        make_findings(maps.notna(), "colour_map", map_text),
        make_findings(
            colour.str.contains("annotations"),
            "coloured_annotations",
            marks_text + " of the image were replaced by their surroundings.",
        ),
    ]


def _describe_file(rows: pd.DataFrame) -> pd.Series:
    """Reason of the file's status, with the error in brackets unless the reason contains it."""
    reason = rows["reason"].fillna("").astype(str)
    error = rows["error"].fillna("").astype(str)
    is_new = np.array([e not in r for e, r in zip(error, reason, strict=True)], bool)
    text = write_sentences(reason) + (" (" + error + ")").where(is_new, "")
    return text.str.strip().where(text.str.strip().ne(""), "No reason was recorded.")


def list_flag_findings(rows: pd.DataFrame, flags: pd.DataFrame, codes: Collection[str]) -> pd.DataFrame:
    """The flags (rows of tables.FLAGS) of micrographs in `rows`; a flag that is not in `codes` is `unlisted`."""
    positions = pd.Series(rows.index, index=rows["micrograph_id"])
    positions = positions[positions.index.notna()]
    flags = flags[flags["micrograph_id"].isin(positions.index)]
    lacks_finite_pixels = flags["flag"].eq("nonfinite_pixels") & flags["value"].ge(1)
    code = flags["flag"].astype(object).where(~lacks_finite_pixels, "no_finite_pixels")
    is_listed = code.isin(list(codes))
    text = flags["text"].astype(object).where(flags["text"].notna() & flags["text"].ne(""), code)
    text = text.where(is_listed, "Flag '" + flags["flag"].astype(object) + "': " + text)
    row = positions.reindex(flags["micrograph_id"]).to_numpy().astype("int64")
    code = code.where(is_listed, UNLISTED).to_numpy(object)
    return pd.DataFrame({"row": row, "code": code, "text": write_sentences(text).to_numpy(object)})
