"""What twice the dose would give to the images of a run that a low predicted F1 keeps from trust."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.tasks.condition_losses import find_surfaces
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.rules import NOTE, RULES

NOTE_CODES = {rule.code for rule in RULES if rule.verdict == NOTE}
COLUMNS = ["reasons", "verdict", "predicted_loss", "f1_probability_at_twice_dose"]


def select_low_f1(triage: pd.DataFrame) -> pd.DataFrame:
    """Rows of tables.TRIAGE whose only reason against trust, apart from notes, is a low predicted F1."""
    is_low = [set(reasons) - NOTE_CODES == {"low_predicted_f1"} for reasons in triage["reasons"]]
    return triage[np.array(is_low, bool)]


class DoseAdvice(NamedTuple):
    """Counts over a triage table, and the sum of predicted losses."""

    n_known: int = 0  # images whose conditions the surface knows
    total_loss: float = 0.0
    n_low: int = 0  # of them with a low predicted F1 alone, that twice the dose keeps in the grid
    n_gained: int = 0  # of these that would be trusted

    def add(self, triage: pd.DataFrame, trust_probability: float) -> "DoseAdvice":
        """The counts with further rows (COLUMNS of tables.TRIAGE)."""
        loss = triage["predicted_loss"].dropna()
        probability = select_low_f1(triage)["f1_probability_at_twice_dose"].dropna()
        n_gained = int(probability.ge(trust_probability).sum())
        counts = (len(loss), float(loss.sum()), len(probability), n_gained)
        return DoseAdvice(*(own + new for own, new in zip(self, counts)))

    def describe(self) -> list[str]:
        """The mean loss, and the share of images that twice the dose would let trust, as lines; none for no image."""
        if not self.n_known:
            return []
        loss = self.total_loss / self.n_known
        lines = [f"  dose, defocus and pixel size cost {loss:.2f} of F1 on average ({self.n_known:,} images)"]
        if self.n_low:
            lines.append(
                f"  {self.n_low:,} of them lack trust for a low predicted F1 alone: at twice the dose "
                f"{self.n_gained / self.n_low:.0%} of these would be trusted"
            )
        return lines


def read_advice(workspace: Workspace, settings: Settings) -> DoseAdvice:
    """The advice of a workspace's triage table; empty where no quality model has a response surface."""
    advice = DoseAdvice()
    if find_surfaces(settings):
        for rows in parts.iterate_table(workspace.triage, tables.TRIAGE, COLUMNS):
            advice = advice.add(rows, settings.triage.trust_probability)
    return advice
