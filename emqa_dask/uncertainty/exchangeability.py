"""Sequential test of the images of a session: has their distribution changed? An alarm has a stated false-alarm rate.

As long as images are exchangeable (their order says nothing), the conformal p-values of a quantity are independent and
uniform, and a wager on them is a martingale that starts at 1. The probability that it ever reaches 1 / a is at most a
(Ville's inequality), however often it is looked at.

References: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman, "Retrain or not retrain", COPA 2021 (PMLR 152);
Vovk, Nouretdinov & Gammerman, ICML 2003.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

STAKES = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # slopes of the wagers 1 + stake * (p - 1/2): for low or high values
JUMP = 0.001  # share of the capital that is spread over all wagers at each image: the drift may begin at any of them
MAX_IMAGES = 20_000  # after so many without an alarm a test starts again: bounds its memory


class Ranking:
    """The values of a quantity so far, sorted."""

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def add(self, value: float, tie_breaker: float) -> float:
        """Conformal p-value of `value` among all values so far and itself; uniform where they are exchangeable.

        It is the share of values above; of the equal ones, itself included, the share `tie_breaker`, uniform from 0 to
        1, counts. NaN has the p-value NaN and is left out of the others.
        """
        if math.isnan(value):
            return math.nan
        n_not_above = bisect.bisect_right(self._sorted, value)
        n_equal = n_not_above - bisect.bisect_left(self._sorted, value) + 1
        self._sorted.insert(n_not_above, value)
        n = len(self._sorted)
        return (n - 1 - n_not_above + tie_breaker * n_equal) / n


class Wager:
    """A martingale on p-values: the mean of wagers on low and high ones, which share their capital again and again."""

    def __init__(self) -> None:
        self.log_capital = 0.0
        self._shares = np.full(len(STAKES), 1 / len(STAKES))  # of the capital, in each wager

    def add(self, p: float) -> float:
        """Logarithm of the capital after `p`; as before for NaN."""
        if math.isnan(p):
            return self.log_capital
        shares = (1 - JUMP) * self._shares + JUMP / len(STAKES)
        shares = shares * np.maximum(1 + STAKES * (p - 0.5), 1e-12)
        total = float(shares.sum())
        self._shares = shares / total
        self.log_capital += math.log(total)
        return self.log_capital


class Change(NamedTuple):
    """A quantity that has changed."""

    quantity: str
    log_martingale: float
    threshold: float
    n_images: int  # of the session up to the alarm
    first: int  # number of the first image that shows the change, from 0 in the session


class DriftTest:
    """Test of one session for a change of any of several quantities, an image at a time.

    Without a change the probability of an alarm up to the first one is at most `false_alarms`, of all quantities
    together (Bonferroni). After an alarm, and after MAX_IMAGES, the test starts again with the next image.
    """

    def __init__(self, quantities: Sequence[str], false_alarms: float, seed: int = 0) -> None:
        self.threshold = math.log(len(quantities) / false_alarms)
        self.n_images = 0
        self._quantities = tuple(quantities)
        self._rng = np.random.default_rng(seed)
        self._restart()

    def _restart(self) -> None:
        self._start = self.n_images
        self._rankings = [Ranking() for _ in self._quantities]
        self._wagers = [Wager() for _ in self._quantities]
        self._lowest = [(0.0, self.n_images)] * len(self._quantities)  # capital, and the number of the image behind it

    def add(self, values: Mapping[str, float]) -> Change | None:
        """The change that the next image proves, if any; `values` of the quantities, NaN where unknown."""
        if self.n_images - self._start >= MAX_IMAGES:
            self._restart()
        tie_breakers = self._rng.random(len(self._quantities))
        self.n_images += 1
        for k, quantity in enumerate(self._quantities):
            capital = self._wagers[k].add(self._rankings[k].add(values[quantity], tie_breakers[k]))
            if capital <= self._lowest[k][0]:
                self._lowest[k] = (capital, self.n_images)
        k = int(np.argmax([wager.log_capital for wager in self._wagers]))
        capital = self._wagers[k].log_capital
        if capital < self.threshold:
            return None
        change = Change(self._quantities[k], capital, self.threshold, self.n_images, self._lowest[k][1])
        self._restart()
        return change
