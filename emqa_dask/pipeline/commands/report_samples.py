"""samples.parquet: results of the trusted images of each sample, from the tables of measurements and verdicts."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.measure.samples import SampleTotals
from emqa_dask.pipeline.workspace import micrograph_ledger, sample_names
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

LEDGER_COLUMNS = ["micrograph_id", *sample_names.LEDGER_COLUMNS, "height_px", "width_px", "partition"]
TRIAGE_COLUMNS = ["micrograph_id", "verdict", "reasons", "detector"]


class Verdicts:
    """Verdict, first reason and detector of every micrograph by its id, in 14 bytes each."""

    def __init__(self, workspace: Workspace):
        codes: dict[str, dict[str | None, int]] = {name: {} for name in ("verdict", "reason", "detector")}
        columns: dict[str, list[NDArray]] = {name: [] for name in codes}
        keys = []
        for rows in parts.iterate_table(workspace.triage, tables.TRIAGE, TRIAGE_COLUMNS):
            rows = rows[rows["micrograph_id"].notna()]
            rows = rows.assign(reason=rows["reasons"].str[0])
            keys.append(_hash_ids(rows["micrograph_id"]))
            for name, numbers in codes.items():
                values = rows[name].astype(object).where(rows[name].notna(), None)
                columns[name].append(np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int16))
        all_keys = np.concatenate([np.zeros(0, np.uint64), *keys])
        order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[order]
        self._codes = {name: np.concatenate([np.zeros(0, np.int16), *columns[name]])[order] for name in codes}
        self._names = {name: np.array(list(numbers), object) for name, numbers in codes.items()}

    def find(self, micrograph_ids: pd.Series) -> pd.DataFrame:
        """verdict, reason and detector of each micrograph, in their order."""
        positions = np.searchsorted(self._keys, _hash_ids(micrograph_ids))
        return pd.DataFrame({name: names[self._codes[name][positions]] for name, names in self._names.items()})


def write_samples(workspace: Workspace, settings: Settings) -> pd.DataFrame:
    """The table samples.parquet, tables.SAMPLES, which is written. Reads the measurements once."""
    groupings = [sample_names.make_grouping(name) for name in settings.report.samples]
    totals = [SampleTotals() for _ in groupings]
    for images, measurements, sizes in _iter_measured(workspace, settings):
        for grouping, grouping_totals in zip(groupings, totals, strict=True):
            names = grouping.name_samples(images).to_numpy()
            grouping_totals.add_images(images.assign(sample=names, is_overlapping=grouping.find_overlaps(images)))
            sample = pd.Series(names, index=images["micrograph_id"])
            grouping_totals.add_measurements(
                *(rows.assign(sample=rows["micrograph_id"].map(sample)) for rows in (measurements, sizes))
            )
    rows = []
    for grouping, grouping_totals in zip(groupings, totals, strict=True):
        for row in grouping_totals.summarise(settings.measure.foil_thickness_uncertainty_nm):
            conditions = grouping.conditions.get(row["sample"], {})
            rows.append({"grouping": grouping.name} | row | conditions)
    samples = tables.conform(pd.DataFrame(rows, columns=tables.SAMPLES.names), tables.SAMPLES).to_pandas()
    with parts.open_table_writer(workspace.samples, tables.SAMPLES) as write:
        write(samples)
    return samples


def _iter_measured(
    workspace: Workspace, settings: Settings
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """Batches of (all current micrographs with their verdicts, measurements and sizes of the trusted ones)."""
    verdicts = Verdicts(workspace)
    folders = list_run_folders(settings)
    part_names = {table: set(parts.list_parts(workspace.uri, folders[table])) for table in ("measurements", "sizes")}
    for ledger in micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS):
        images = pd.concat([ledger, verdicts.find(ledger["micrograph_id"])], axis=1)
        trusted = images.loc[images["verdict"].eq("trust"), ["micrograph_id", "detector", "height_px", "width_px"]]
        names = images.loc[trusted.index, "partition"].unique()
        own_rows = []
        for table, existing in part_names.items():
            own_names = [name for name in names if name in existing]
            rows = parts.read_table(workspace.uri, folders[table], SCHEMAS[table], None, own_names)
            own_rows.append(rows.merge(trusted, on=["micrograph_id", "detector"]))
        yield images, own_rows[0], own_rows[1]


def _hash_ids(micrograph_ids: pd.Series) -> NDArray[np.uint64]:
    """64 bits that stand for each id; two of a million are the same with a probability of 3e-8."""
    return pd.util.hash_array(micrograph_ids.to_numpy(object), categorize=False)
