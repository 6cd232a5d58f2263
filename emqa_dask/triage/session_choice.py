"""The detector of a session, chosen from a first look at a few of its images, and the reason in words."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MIN_LATTICE_FRACTION = 0.1  # of the spectrum's power in peaks: in the middle image of a session of atom columns
MIN_SCORE_SUM = 1.0  # of a network in the middle image: an object, or several doubtful ones
MIN_CLASS_SHARE = 0.95  # of the scores; below, all classes count: classes of unseen objects are doubtful
MIN_DOTS = 20  # in the middle image


class Look(NamedTuple):
    """What a first look at an image gave."""

    score_sums: Mapping[str, float]  # class of the network: sum of the scores of its detections
    lattice_fraction: float  # see featurise.lattice_peaks
    n_dots: int  # small blobs by LoG; counted where the network sees nothing


class SessionChoice(NamedTuple):
    """The detector of a session."""

    detector: str  # log, or a network
    classes: tuple[str, ...]  # of the network's detections that count; empty: all
    content: str  # lattice, dots, a class, mixed or nothing
    because: str


def choose_session_detector(looks: Sequence[Look], network: str, class_networks: Mapping[str, str]) -> SessionChoice:
    """The detector for a session with these looks, one at least.

    log for atom columns and dots; where a class prevails its network of `class_networks`, if it has one; else
    `network`, which took the looks.
    """
    n_images = f"in {len(looks)} image{'s' if len(looks) > 1 else ''}"
    fraction = float(np.median([look.lattice_fraction for look in looks]))
    if fraction >= MIN_LATTICE_FRACTION:
        because = f"{fraction:.0%} of the spectrum's power is in the peaks of a lattice ({n_images})"
        return SessionChoice("log", (), "lattice", because)
    totals: dict[str, float] = {}
    for look in looks:
        for name, score_sum in look.score_sums.items():
            totals[name] = totals.get(name, 0.0) + score_sum
    middle = float(np.median([sum(look.score_sums.values()) for look in looks]))
    if middle < MIN_SCORE_SUM:
        return _choose_without_objects(looks, network, n_images)
    name = max(sorted(totals), key=totals.__getitem__)
    share = totals[name] / sum(totals.values())
    if share >= MIN_CLASS_SHARE or len(totals) == 1:
        because = f"{share:.0%} of the scores are of class {name} ({n_images})"
        if name in class_networks:
            return SessionChoice(class_networks[name], (), name, because)
        return SessionChoice(network, (name,), name, because)
    shares = ", ".join(f"{key} {value / sum(totals.values()):.0%}" for key, value in sorted(totals.items()))
    return SessionChoice(network, (), "mixed", f"no class prevails: {shares} of the scores ({n_images})")


def _choose_without_objects(looks: Sequence[Look], network: str, n_images: str) -> SessionChoice:
    """The choice where the network sees no object in the middle image."""
    n_dots = int(np.median([look.n_dots for look in looks]))
    if n_dots >= MIN_DOTS:
        because = f"{network} sees nothing, and there are {n_dots} small dots in the middle image ({n_images})"
        return SessionChoice("log", (), "dots", because)
    return SessionChoice(network, (), "nothing", f"nothing was recognised ({n_images}); all classes count")
