"""Quality models as files: arrays in a safetensors file, everything else in the model's card."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from emqa_dask import models
from emqa_dask.predict import conformal
from emqa_dask.predict.gaussian_process import GaussianProcess
from emqa_dask.predict.quality_model import Component, QualityModel, TargetModel
from emqa_dask.predict.trees import TreeEnsemble

QUALITY_MODEL_FILE = "quality_model.safetensors"
REGRESSOR_TYPES = {"trees": TreeEnsemble, "gaussian_process": GaussianProcess}  # name on the card: class
ARRAYS = ("typical", "spread", "background")  # fields of QualityModel that the file holds


def write_quality_model(model: QualityModel, directory: Path) -> dict:
    """Writes QUALITY_MODEL_FILE and returns the model's table of the card, under the key `quality_model`."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(model, name) for name in ARRAYS}
    record = {f.name: getattr(model, f.name) for f in fields(QualityModel) if f.name not in (*ARRAYS, "targets")}
    record = {**record, "columns": list(model.columns), "targets": {}}
    record["agreement_detectors"] = list(model.agreement_detectors)
    for name, target in model.targets.items():
        target_values = {"offset": target.offset, "spread_floor": target.spread_floor}
        arrays[f"{name}.residuals"] = target.residuals
        components = {}
        for i, component in enumerate(target.components):
            components[str(i)], own_arrays = _pack_component(component)
            arrays |= {f"{name}.{i}.{key}": array for key, array in own_arrays.items()}
        record["targets"][name] = {**target_values, "components": components}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / QUALITY_MODEL_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    return {"quality_model": record}


def _pack_component(component: Component) -> tuple[dict, dict[str, NDArray]]:
    """The table of the card and the arrays of a component."""
    kind = next(name for name, type_ in REGRESSOR_TYPES.items() if isinstance(component.regressor, type_))
    record = {"slope": component.slope, "columns": list(component.columns), "type": kind}
    arrays = {field.name: getattr(component.regressor, field.name) for field in fields(component.regressor)}
    if "is_mean" in arrays:
        record["is_mean"] = arrays.pop("is_mean")
    return record, arrays


def read_quality_model(directory: Path) -> QualityModel:
    """The quality model in a directory, its file checked against the card's SHA-256; ModelError for another model."""
    model_card = models.load_model_card(directory)
    if "quality_model" not in model_card or QUALITY_MODEL_FILE not in model_card.get("files", {}):
        raise models.ModelError(f"{directory / 'card.toml'}: not the card of a quality model")
    arrays = safetensors.numpy.load_file(directory / QUALITY_MODEL_FILE)
    record = dict(model_card["quality_model"])
    tables = record.pop("targets")
    targets = {name: _unpack_target(name, table, arrays, record["coverage"]) for name, table in tables.items()}
    columns = tuple(record.pop("columns"))
    record["agreement_detectors"] = tuple(record.get("agreement_detectors", ()))  # none on cards of version 0.1
    return QualityModel(targets, columns, **record, **{name: arrays[name] for name in ARRAYS})


def _unpack_target(name: str, table: Mapping, arrays: Mapping[str, NDArray], coverage: float) -> TargetModel:
    """The model of the target `name` from its table of the card and the file's arrays.

    Files of version 0.1 have the widths of the interval instead of the quantiles of the residuals.
    """
    components = []
    for i, record in table["components"].items():
        prefix = f"{name}.{i}."
        target_arrays = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        if "is_mean" in record:
            target_arrays["is_mean"] = record["is_mean"]
        regressor = REGRESSOR_TYPES[record["type"]](**target_arrays)
        components.append(Component(record["slope"], tuple(record["columns"]), regressor))
    residuals = arrays.get(f"{name}.residuals")
    if residuals is None:
        residuals = conformal.convert_widths(table["width_low"], table["width_high"], coverage)
    return TargetModel(tuple(components), table["offset"], residuals, table["spread_floor"])
