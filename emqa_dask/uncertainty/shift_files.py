"""Shift models as files: arrays in a safetensors file, the rest in the table `shift` of the classifier's card."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from emqa_dask import domain_distance, models
from emqa_dask.uncertainty import fusion
from emqa_dask.uncertainty.domain_reference import DomainReference
from emqa_dask.uncertainty.embedding_distances import EmbeddingReference
from emqa_dask.uncertainty.shift_kinds import LogisticModel
from emqa_dask.uncertainty.shift_model import ShiftModel

SHIFT_MODEL_FILE = "shift.safetensors"
SCORE_ARRAYS = {  # name in the file: field of DomainReference
    "typical": "distance_scale",
    "middle": "score_medians",
    "span": "score_steps",
    "disagreement": "disagreement_scale",
    "centre": "statistic_medians",
    "spread": "statistic_ranges",
}
DOMAIN_ARRAYS = ("centre", "scale", "whiten", "rows")


def write_shift_model(model: ShiftModel, directory: Path) -> dict:
    """Writes SHIFT_MODEL_FILE and returns the card's table `shift`: kinds, names and limits."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays, table = _pack_reference(model.reference)
    arrays |= {f"odds.{name}": array for name, array in vars(model.shift_logits).items()}
    arrays |= {f"kinds.{name}": array for name, array in vars(model.kind_logits).items()}
    arrays |= {"middle": model.scale.medians, "span": model.scale.steps}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / SHIFT_MODEL_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    table |= {"kinds": list(model.kinds), "fused": list(model.scale.names), "limit": model.scale.limit}
    table |= {"false_flags": model.false_flags, "content": models.digest_model_card(models.CONTENT_MODEL)}
    return {"shift": table}


def read_shift_model(directory: Path) -> ShiftModel | None:
    """The shift model in a directory, its file checked against the card's SHA-256; None without a table `shift`."""
    model_card = models.read_model_card(directory)
    if "shift" not in model_card:
        return None
    table = model_card["shift"]
    if SHIFT_MODEL_FILE not in model_card.get("files", {}):
        raise ValueError(
            f"{directory / 'card.toml'}: has a table shift but no {SHIFT_MODEL_FILE}; train the classifier again"
        )
    if table.get("content") != models.digest_model_card(models.CONTENT_MODEL):
        raise ValueError(
            f"{directory / 'card.toml'}: its domain was fitted with another version's network `content`; train "
            "the classifier again"
        )
    arrays = safetensors.numpy.load_file(models.check_file(directory, SHIFT_MODEL_FILE, model_card))
    return ShiftModel(
        reference=_unpack_reference(arrays, table),
        kinds=tuple(table["kinds"]),
        shift_logits=LogisticModel(**_select_prefixed(arrays, "odds")),
        kind_logits=LogisticModel(**_select_prefixed(arrays, "kinds")),
        scale=fusion.FusionScale(tuple(table["fused"]), arrays["middle"], arrays["span"], table["limit"]),
        false_flags=table["false_flags"],
    )


def _pack_reference(reference: DomainReference) -> tuple[dict[str, NDArray], dict]:
    """The arrays of the reference by name, and its entries of the card's table."""
    arrays = {f"scores.{name}": getattr(reference, field) for name, field in SCORE_ARRAYS.items()}
    table: dict = {"members": len(reference.members)}
    for name, members in (("member", reference.members), ("background", reference.backgrounds)):
        for k, member in enumerate(members):
            arrays |= {f"{name}_{k}.{key}": array for key, array in member._asdict().items()}
    arrays |= {f"content.{key}": array for key, array in reference.content._asdict().items()}
    for name in ("statistics", "spectrum"):
        domain = getattr(reference, name)
        arrays |= {f"{name}.{key}": getattr(domain, key) for key in DOMAIN_ARRAYS}
        table[name] = {"columns": list(domain.columns), "limit": domain.limit}
    return arrays, table


def _unpack_reference(arrays: Mapping[str, NDArray], table: Mapping) -> DomainReference:
    """The reference from the arrays and the table of _pack_reference()."""
    scores = _select_prefixed(arrays, "scores")
    return DomainReference(
        members=_unpack_members(arrays, "member", table["members"]),
        backgrounds=_unpack_members(arrays, "background", table["members"]),
        content=EmbeddingReference(**_select_prefixed(arrays, "content")),
        statistics=_unpack_domain(arrays, table, "statistics"),
        spectrum=_unpack_domain(arrays, table, "spectrum"),
        **{field: scores[name] for name, field in SCORE_ARRAYS.items()},
    )


def _unpack_members(arrays: Mapping[str, NDArray], name: str, n_members: int) -> tuple[EmbeddingReference, ...]:
    return tuple(EmbeddingReference(**_select_prefixed(arrays, f"{name}_{k}")) for k in range(n_members))


def _unpack_domain(arrays: Mapping[str, NDArray], table: Mapping, name: str) -> domain_distance.Domain:
    domain_arrays = _select_prefixed(arrays, name)
    return domain_distance.Domain(tuple(table[name]["columns"]), **domain_arrays, limit=table[name]["limit"])


def _select_prefixed(arrays: Mapping[str, NDArray], prefix: str) -> dict[str, NDArray]:
    """The arrays whose names begin with `prefix` and a dot, by the rest of the name."""
    return {key.removeprefix(f"{prefix}."): array for key, array in arrays.items() if key.startswith(f"{prefix}.")}
