"""Tables in the published layouts, made up."""

import numpy as np
import pandas as pd

SPLITS = ("A_B", "A&B_C", "A:  over_under", "A_A", "A:  over_over")


def raw_table(n=90, seed=0):
    """A table in the published format whose F1 follows the scores, keeping every identity."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        counts = int(rng.integers(3, 60))
        scores = rng.beta(rng.uniform(1, 6), 1.5, counts) * 0.9 + 0.1
        hits = rng.binomial(counts, np.clip(scores.mean(), 0, 1))
        true = hits + int(rng.integers(0, 1 + counts // 2)) + 1
        p = hits / counts
        r = hits / true
        sizes = rng.lognormal(-6, 0.4, counts)
        shapes = 1 + 0.1 * rng.random(counts)
        rows.append(
            {
                "names": f"image {i % 70}.png", "f1": 2 * p * r / (p + r) if hits else np.nan,
                "precision": p, "recall": r,
                "area_ratio": sizes.sum(), "image_confidence": scores @ sizes / sizes.sum(),
                "avg obj conf": scores.mean(), "avg obj size": sizes.mean(), "stdev obj conf": scores.std(),
                "stdev obj size": sizes.std(), "avg pred shape": shapes.mean(), "stdev pred shape": shapes.std(),
                "counts": counts, "swell": rng.normal(),
                **{f"num_0.{b}": int((np.floor(scores * 10) == b).sum()) for b in range(1, 10)},
                "label": SPLITS[i % len(SPLITS)],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def write(table, path):
    table.to_csv(path, index=False)
    return path


def other_layout(raw):
    """The 833-row version: single spaces, neither shapes nor swelling."""
    label = raw["label"].str.replace("  ", " ")
    return raw.assign(label=label).drop(columns=["avg pred shape", "stdev pred shape", "swell"])
