"""Quality models that fit the detectors of a run: some look at the agreement with other detectors."""

from collections.abc import Sequence

from emqa_dask import models
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.settings import Detect


def list_other_detectors(detector: str, settings: Detect) -> tuple[str, ...]:
    """Detectors that search each image beside `detector`, in the alphabet's order; none of an automatic choice."""
    if settings.is_automatic:
        return ()
    return tuple(sorted(set(name_detectors(settings)) - {detector}))


def fits_detectors(model: str, settings: Detect) -> bool:
    """Whether a quality model can be used with the detectors of `settings`: agreement has to be with the same ones."""
    needed = models.read_agreement_detectors(model)
    return not needed or needed == list_other_detectors(models.read_detector_and_floor(model)[0], settings)


def select_fitting_models(names: Sequence[str], settings: Detect) -> list[str]:
    """Those of the quality models `names` that can be used with the detectors of `settings`, in order."""
    return [name for name in names if fits_detectors(name, settings)]
