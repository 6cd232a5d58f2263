"""The rules: which verdict follows from which finding, and from which combination of findings."""

from collections.abc import Sequence
from typing import NamedTuple

from emqa_dask.triage.flag_list import FLAGS

NOTE = "note"  # in place of a verdict: the finding is reported and changes no verdict
PRECEDENCE = ("junk", "unknown", "out_of_domain", "review", NOTE)  # the first one that a finding of a row has counts
CHECK_FAILED = "check_failed"  # code of a custom check that gave no value
UNLISTED = "unlisted"  # code of a flag that has no rule, as of a later version


class Rule(NamedTuple):
    """What follows from a finding with the code of the rule.

    A rule with `min_doubts` above 0 has no findings of its own: it holds for a row with at least that many different
    findings whose rules are marked `is_doubt`.
    """

    code: str
    verdict: str  # one of PRECEDENCE
    meaning: str
    is_doubt: bool = False
    min_doubts: int = 0


def _list_flag_rules(verdict: str) -> tuple[Rule, ...]:
    """Rules of the image flags with `verdict`, in the order of FLAGS, each code once."""
    rules = {flag.code: Rule(flag.code, verdict, flag.meaning) for flag in FLAGS if flag.verdict == verdict}
    return tuple(rules.values())


# Rules of one verdict come in the order of their importance, which is that of the reasons in triage.parquet. A row
# without findings, or with notes only, is `trust`. The page shows this table as it is.
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
    Rule("colour", "review", "The file has colours that no detector records; the brightness of its colours is judged."),
    Rule("duplicate", "review", "The same pixels exist elsewhere in the archive."),
    Rule("near_duplicate", "review", "Nearly the same image exists elsewhere in the archive."),
    Rule("pixel_size_suspect", "review", "The pixel size is about 10x or 100x off the other images of its cohort."),
    Rule("no_detections", "review", "Nothing was found: an empty sample, or a detector that fails here."),
    Rule("too_many_blobs", "review", "The detector stopped at its cap, so objects are missing from the count."),
    Rule("no_prediction", "review", "No F1 could be predicted."),
    Rule("low_predicted_f1", "review", "The probability that F1 reaches the limit is lower than trust asks for."),
    Rule("detectors_disagree", "review", "The detector and the others of the run find other objects."),
    Rule("uncertain_class", "review", "The classifier is less certain of the class than the limit for referral asks."),
    Rule(CHECK_FAILED, "review", "A custom check failed on the image, so its limit says nothing."),
    Rule(UNLISTED, "review", "A flag that this version has no rule for."),
    Rule("frames_lost", NOTE, "Part of the file could not be read; the frames that could are judged."),
    Rule("remark", NOTE, "All images of the file could be read; there is something to know about it."),
    Rule("colour_map", NOTE, "The file shows intensities by a colour map; they were read back from its colours."),
    Rule("coloured_annotations", NOTE, "Coloured annotations were replaced by their surroundings."),
    Rule("imaging_conditions", NOTE, "Dose, defocus and pixel size cost F1, by the response surface of the model."),
    Rule("not_classified", NOTE, "The classifier could not look at the image."),
    *_list_flag_rules(NOTE),
)
MEANINGS = {rule.code: rule.meaning for rule in RULES}
# Codes of findings from a classifier: pages of archives without one do not show these rules.
CLASSIFIER_CODES = ("unrelated", "new_class", "shifted_acquisition", "uncertain_class", "not_classified")


def sort_rules(rules: Sequence[Rule]) -> list[Rule]:
    """`rules` by PRECEDENCE of their verdicts; those of one verdict keep their order."""
    return sorted(rules, key=lambda rule: PRECEDENCE.index(rule.verdict))
