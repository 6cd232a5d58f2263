"""The lots' study in tables, and which of paper D's orderings hold on it."""

import numpy as np
import pandas as pd

COLUMNS = ("accuracy", "nll", "ece", "ece_equal_mass", "risk_coverage_area", "error_at_90_percent_coverage")
KINDS = ("changed", "unseen", "photographs", "cifar10")
# What is compared, which way is better, and who is to be better than whom.
ENSEMBLE_FIRST = (("ensemble", "softmax"), ("ensemble", "dropout"))
ORDERINGS = {
    "the ensemble's accuracy is the highest": ("accuracy", 1, ENSEMBLE_FIRST),
    "the ensemble's NLL is the lowest (in the paper the highest)": ("nll", -1, ENSEMBLE_FIRST),
    "the ensemble's ECE is the lowest, 20 equal bins": ("ece", -1, ENSEMBLE_FIRST),
    "the ensemble's ECE is the lowest, 20 bins of equal mass": ("ece_equal_mass", -1, ENSEMBLE_FIRST),
    "dropout's ECE is below softmax's": ("ece", -1, (("dropout", "softmax"),)),
    "dropout's NLL is below softmax's": ("nll", -1, (("dropout", "softmax"),)),
    "the ensemble's area under risk and coverage is the lowest": ("risk_coverage_area", -1, ENSEMBLE_FIRST),
    "the ensemble's error at 90 % coverage is the lowest": ("error_at_90_percent_coverage", -1, ENSEMBLE_FIRST),
    **{
        f"the ensemble's entropy tells {kind} best": (f"auroc {kind}", 1, ENSEMBLE_FIRST)
        for kind in KINDS
    },
    "tempered, the ensemble's NLL is the lowest": ("nll tempered", -1, ENSEMBLE_FIRST),
    "tempered, the ensemble's ECE is the lowest, 20 equal bins": ("ece tempered", -1, ENSEMBLE_FIRST),
}  # fmt: skip
RISING = ("test", "changed", "unseen", "photographs")


def orderings(seeds: dict) -> list[dict]:
    """Of each ordering: what it says, whether it `holds` in the mean over seeds, in how many `seeds` of `of`."""
    results = []
    for says, (key, sign, pairs) in ORDERINGS.items():
        rows = [seed["methods"] for seed in seeds.values() if key in seed["methods"]["ensemble"]]
        gains = np.array([[sign * (row[a][key] - row[b][key]) for a, b in pairs] for row in rows])
        results += [_verdict(says, gains)] if len(rows) else []
    for method in ("softmax", "dropout", "ensemble"):
        rows = [[seed["methods"][method][f"entropy {kind}"] for kind in RISING] for seed in seeds.values()]
        if rows:
            results.append(_verdict(f"{method}'s mean entropy rises: {' < '.join(RISING)}", np.diff(np.array(rows))))
    return results


def _verdict(says: str, gains: np.ndarray) -> dict:
    """`gains` (seeds, comparisons): all have to be above 0."""
    is_so = (gains > 0).all(axis=1)
    return {"says": says, "holds": bool((gains.mean(axis=0) > 0).all()), "seeds": int(is_so.sum()), "of": len(is_so)}


def tables(found: dict) -> str:
    """Markdown: each seed's and the mean figures, ensembles by their size, learning curve, shapes and orderings."""
    if not found["seeds"]:
        return "no seed is trained: give more --minutes"
    each = pd.DataFrame(
        [
            {"seed": seed, "method": method, **row}
            for seed, part in found["seeds"].items()
            for method, row in part["methods"].items()
        ]
    )
    mean = each.drop(columns="seed").groupby("method", sort=False).mean().reset_index().assign(seed="mean")
    both = pd.concat([each, mean])
    members = ", ".join(f"seed {seed}: {part['members']}" for seed, part in found["seeds"].items())
    parts = [
        f"Members: {members}",
        _table(both, ["seed", "method", *COLUMNS, "confidence", "auroc_wrong_by_entropy"]),
        _table(both, ["seed", "method", *(name for name in both.columns if name.endswith(" tempered"))]),
        _table(both, ["seed", "method", *_starting(both, "auroc ")]),
        _table(both, ["seed", "method", *_starting(both, "entropy ")]),
        _table(both, ["seed", "method", "accuracy", *_starting(both, "accuracy ")]),
    ]
    sizes = [
        {"members": int(n), **row} for seed in found["seeds"].values() for n, row in seed["by_members"].items()
    ]  # fmt: skip
    parts.append(_table(pd.DataFrame(sizes).groupby("members").mean().reset_index(), ["members", *COLUMNS]))
    for method, curve in found["learning_curve"].items():
        points = pd.DataFrame(curve["points"])
        if len(points):
            parts.append(f"{method}\n\n" + _table(points, ["labels", "members", "accuracy", "confidence", "ece"]))
        parts += [f"{method}, by {name}: {curve[name]}" for name in ("accuracy", "confidence") if name in curve]
    for method, shape in found["shapes"].items():
        told = {key: value for key, value in shape.items() if key.startswith("told")}
        parts.append(f"kind by shape of {shape['cohorts']} cohorts' entropies, {method}: {told}")
    parts.append("\n".join(
        f"- {row['says']}: {'holds' if row['holds'] else 'FAILS'} in the mean, in {row['seeds']} of {row['of']} seeds"
        for row in found["orderings"]
    ))  # fmt: skip
    return "\n\n".join(parts)


def _starting(table: pd.DataFrame, start: str) -> list[str]:
    return [name for name in table.columns if name.startswith(start)]


def _table(table: pd.DataFrame, columns: list[str]) -> str:
    columns = [name for name in columns if name in table.columns]
    rows = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in table[columns].to_numpy(object)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))
