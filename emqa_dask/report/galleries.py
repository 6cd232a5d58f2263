"""Images that the page shows as galleries: those with the lowest predicted F1, and the most uncertain ones."""

from typing import NamedTuple

import numpy as np
import pandas as pd

N_SHOWN = 12  # images of a gallery
SHOWN_VERDICTS = ("trust", "review", "out_of_domain")  # junk needs no look
COLUMNS = ["micrograph_id", "uri", "verdict", "predicted_f1", "predicted_f1_low", "predicted_f1_high"]


class Gallery(NamedTuple):
    """Images with a title and what they were chosen by."""

    title: str
    criterion: str
    rows: pd.DataFrame  # COLUMNS, and value; the index is the position of the row


class Galleries:
    """The images of the galleries; add() batches of tables.TRIAGE in order."""

    def __init__(self) -> None:
        self._n_rows = 0
        self._candidates: dict[str, pd.DataFrame] = {}

    def add(self, rows: pd.DataFrame) -> None:
        """Add `rows`."""
        rows = rows.set_axis(np.arange(self._n_rows, self._n_rows + len(rows)))
        self._n_rows += len(rows)
        rows = rows[rows["verdict"].isin(SHOWN_VERDICTS) & rows["micrograph_id"].notna()]
        values = {
            "worst": -rows["predicted_f1"].astype(float),
            "entropy": rows["predictive_entropy_nats"].astype(float),
            "interval": (rows["predicted_f1_high"] - rows["predicted_f1_low"]).astype(float),
        }
        for name, value in values.items():
            own = rows[COLUMNS].assign(value=value).dropna(subset="value").nlargest(N_SHOWN, "value")
            earlier = self._candidates.get(name, own.iloc[:0])
            both = pd.concat([earlier, own]) if len(earlier) else own
            self._candidates[name] = both.nlargest(N_SHOWN, "value")

    def list_galleries(self) -> list[Gallery]:
        """The worst images, and the most uncertain ones: by the classifier's entropy, or by the interval of F1."""
        worst, entropy, interval = (
            self._candidates.get(name, pd.DataFrame()) for name in ("worst", "entropy", "interval")
        )
        galleries = [Gallery("Lowest predicted F1", "predicted F1", worst)]
        if len(entropy):
            galleries.append(Gallery("Most uncertain class", "entropy, nats", entropy))
        galleries.append(Gallery("Most uncertain F1", "width of the interval", interval))
        return [gallery for gallery in galleries if len(gallery.rows)]

    def list_positions(self) -> np.ndarray:
        """Positions of all images of the galleries, ascending."""
        positions = [gallery.rows.index.to_numpy(int) for gallery in self.list_galleries()]
        return np.unique(np.concatenate([np.zeros(0, int), *positions]))
