"""The rules that a verdict follows, in their order, and the table of what was found."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.triage.flag_list import FLAGS


class Rule(NamedTuple):
    code: str
    verdict: str  # "note" where the finding is told but changes nothing
    meaning: str


def _list_flag_rules(verdict: str) -> tuple[Rule, ...]:
    """Rules of the image flags with `verdict`, in the order of FLAGS, each code once."""
    rules = {flag.code: Rule(flag.code, verdict, flag.meaning) for flag in FLAGS if flag.verdict == verdict}
    return tuple(rules.values())


# Most important first. A row's verdict is that of its first finding which is not a note; without one it is `trust`.
# The page shows this table as it stands.
RULES = (
    *_list_flag_rules("junk"),
    Rule("not_readable", "unknown", "The file could not be read."),
    Rule("not_a_micrograph", "unknown", "The file holds something other than a micrograph."),
    Rule("removed", "unknown", "The file was not in the archive when that was last listed."),
    Rule("not_stored", "unknown", "The file was read, but its micrographs did not reach the store."),
    Rule(
        "quarantined",
        "unknown",
        "A stage crashed, hung, ran out of memory or failed on this image; its neighbours are complete.",
    ),
    Rule("not_judged", "unknown", "A stage after reading did not finish for this image, so nothing judges it."),
    Rule(
        "unrelated",
        "out_of_domain",
        "The image has nothing to do with what the classifier has learnt: discard it.",
    ),
    Rule(
        "new_class",
        "out_of_domain",
        "The image shows a class that the classifier does not know: test the sample further, and label some.",
    ),
    Rule(
        "shifted_acquisition",
        "out_of_domain",
        "The image was acquired unlike the classifier's training images: augment its training, or acquire it again.",
    ),
    Rule(
        "out_of_domain",
        "out_of_domain",
        "The image looks unlike those that the model behind its prediction has learnt from.",
    ),
    *_list_flag_rules("review"),
    Rule("damaged_pixels", "review", "The file's decoder says that some of its pixels are damaged or absent."),
    Rule("duplicate", "review", "The same pixels exist elsewhere in the archive."),
    Rule("near_duplicate", "review", "Nearly the same image exists elsewhere in the archive."),
    Rule("pixel_size_suspect", "review", "The pixel size is about 10x or 100x off the other images of its cohort."),
    Rule("no_detections", "review", "Nothing was found: an empty sample, or a detector that fails here."),
    Rule("too_many_blobs", "review", "The detector stopped at its cap, so objects are missing from the count."),
    Rule("no_prediction", "review", "No F1 could be predicted."),
    Rule("low_predicted_f1", "review", "The lower end of the predicted F1 is below what trust asks for."),
    Rule("uncertain_class", "review", "The classifier is less certain of the class than the limit for referral asks."),
    Rule("unlisted", "review", "A flag that this version has no rule for."),
    Rule("frames_lost", "note", "Part of the file could not be read; the frames that could are judged."),
    Rule("not_classified", "note", "The classifier could not look at the image."),
    *_list_flag_rules("note"),
)
RANKS = {rule.code: rank for rank, rule in enumerate(RULES)}
# Of a classifier's answers: pages of archives without one do not tell of them.
OF_CLASSIFIERS = ("unrelated", "new_class", "shifted_acquisition", "uncertain_class", "not_classified")


def findings(rows: pd.DataFrame, where, code: str, text) -> pd.DataFrame:
    """A row (row, rank, text) for each of `rows` where `where` holds; `text` is one for all, or a Series of theirs."""
    where = np.flatnonzero(np.asarray(where, bool))
    text = text.iloc[where].to_numpy(object) if isinstance(text, pd.Series) else text
    return pd.DataFrame({"row": where, "rank": RANKS[code], "text": text}).astype({"row": "int64", "text": object})


def sentences(texts: pd.Series) -> pd.Series:
    """`texts` with a capital in front and a full stop at the end."""
    texts = texts.astype(str).str.strip()
    texts = texts.str.replace(r"([^.!?])\Z", r"\1.", regex=True)
    return (texts.str[:1].str.upper() + texts.str[1:]).astype(object)
