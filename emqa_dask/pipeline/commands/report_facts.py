"""Facts about a run that the page shows: command, versions, settings and models."""

import importlib.metadata
import platform
import shlex
import sys

from emqa_dask import __version__, models, tables
from emqa_dask.pipeline.workspace.detector_choices import iter_choice_lines, load_choices
from emqa_dask.settings import Settings, dump
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

PACKAGES = (
    "dask",
    "distributed",
    "zarr",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "scikit-learn",
    "rosettasciio",
    "torch",
)
CARD_SECTIONS = ("forest", "quality_model", "training", "matching", "ensemble")  # of model cards, shown on the page


def collect_facts(workspace: Workspace, source: str, settings: Settings) -> dict:
    """Facts by name, without credentials: archive, workspace, command, sizes, versions, settings and models."""
    is_command = sys.argv[0].endswith(("emqa", "__main__.py"))
    command = shlex.join(["emqa", *sys.argv[1:]]) if is_command else "Python"
    catalog = parts.iterate_table(workspace.catalog, tables.CATALOG, ["size_bytes"])
    sizes = parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, ["height_px", "width_px"])
    choices = load_choices(workspace).to_dict("records") if settings.detect.is_automatic else []
    return {
        "archive": files.redact(source),
        "workspace": files.redact(workspace.uri),
        "command": files.redact(command),
        "n_files": parts.count_rows(workspace.catalog),
        "n_bytes": sum(int(rows["size_bytes"].sum()) for rows in catalog),
        "n_megapixels": sum(float((rows["height_px"] * rows["width_px"]).sum()) for rows in sizes) / 1e6,
        "versions": list_versions(),
        "settings": files.redact(dump(settings)),
        "models": _describe_models(settings),
        **({"detectors of sessions": list(iter_choice_lines(choices))} if choices else {}),
    }


def list_versions() -> dict[str, str]:
    """Versions of emqa_dask, Python and the packages that results depend on."""
    base_versions = {"emqa_dask": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return base_versions | {name: _read_version(name) for name in PACKAGES}


def _read_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # torch is needed for networks only
        return "not installed"


def list_networks(settings: Settings) -> tuple[str, ...]:
    """Networks of the run: detectors, then the classifier."""
    return (*settings.detect.networks, *filter(None, [settings.classify.model]))


def digest_models(names: tuple[str, ...]) -> dict[str, str]:
    """Digest of each model by its name."""
    return {name: models.digest_model_card(models.locate_model(name)) for name in names}


def _describe_models(settings: Settings) -> dict[str, str]:
    """Entries of the model cards: training, detector and measured quality of each model."""
    descriptions = {}
    for name in dict.fromkeys((*list_networks(settings), *settings.predict.models)):
        model_card = models.read_model_card(models.locate_model(name))
        card_entries = {key: str(value) for key, value in model_card.items() if not isinstance(value, dict)}
        for section in CARD_SECTIONS:
            scalar_entries = {
                key: value for key, value in model_card.get(section, {}).items() if not isinstance(value, list | dict)
            }
            card_entries |= {key: str(value) for key, value in scalar_entries.items()}
        for key, figure_table in model_card.get("measured", {}).items():
            figure_pairs = figure_table.items() if isinstance(figure_table, dict) else [(key, figure_table)]
            figures = [
                f"{label.replace('_', ' ')} {figure}" for label, figure in figure_pairs if not isinstance(figure, list)
            ]
            card_entries[f"measured {key}"] = ", ".join(figures)
        title = model_card.get("name", name)
        descriptions |= {f"{title}: {key}": value for key, value in card_entries.items() if key != "name"}
    return descriptions
