"""RO-Crate metadata of a workspace: what its files are, and which program made them from which archive.

RO-Crate 1.3 (https://w3id.org/ro/crate/1.3) is JSON-LD that repositories and data catalogues read.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

PARQUET = "application/vnd.apache.parquet"
FILES = {  # of a workspace: type and description
    "triage.parquet": (PARQUET, "One row for each micrograph and each file without one: verdict, reasons, measures"),
    "triage.csv": ("text/csv", "The same as text for spreadsheets"),
    "catalog.parquet": (PARQUET, "One row for each file of the archive: format, status, header"),
    "micrographs.parquet": (PARQUET, "One row for each micrograph: stack, slot, shape, pixel size, instrument, header"),
    "flags.parquet": (PARQUET, "Flags of images: measured faults, with value and limit"),
    "duplicate_groups.parquet": (PARQUET, "Micrographs that show the same frame"),
    "samples.parquet": (PARQUET, "Measurements by sample"),
    "estimates.parquet": (PARQUET, "Estimates with confidence intervals"),
    "failures.parquet": (PARQUET, "Files and micrographs on which a stage failed"),
    "drifts.parquet": (PARQUET, "Drift of each session's classifier outputs"),
    "sessions.parquet": (PARQUET, "Sessions with a classifier's summary"),
    "alarms.parquet": (PARQUET, "Drift alarms of emqa watch"),
    "detector_choices.parquet": (PARQUET, "Detector that was chosen for each session"),
    "review_plan.parquet": (PARQUET, "Images that a person should check, with their probabilities"),
    "settings.toml": ("application/toml", "Settings of the last run"),
    "provenance.json": ("application/json", "Origin of the outputs: command, versions, models, digests"),
}
FOLDERS = {
    "micrographs.zarr": "All micrographs as OME-Zarr 0.5",
    "report": "The report as static pages; it begins at index.html",
    "detections": "Detections, a Parquet file for each partition",
    "predictions": "Predicted F1, precision and recall, a Parquet file for each partition",
    "features": "Image statistics, a Parquet file for each partition",
    "measurements": "Measurements of each image, a Parquet file for each partition",
    "sizes": "Diameters of objects, a Parquet file for each partition",
    "classifications": "Outputs of the classifier, a Parquet file for each partition",
    "decisions": "Decisions of reviewers, a JSON file each",
}
CONFORMS = {"micrographs.zarr": "https://ngff.openmicroscopy.org/0.5/"}


def describe_crate(names: Iterable[str], record: Mapping) -> dict:
    """JSON-LD of a workspace with the files and folders `names`; other names are left out.

    `record` is that of provenance.json: command, archive, started, finished, versions, verdicts, quality_models,
    networks. The digests of files are there.
    """
    from rocrate.model.contextentity import ContextEntity  # these take 0.3 s
    from rocrate.model.data_entity import DataEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate()
    verdicts = ", ".join(f"{n:,} {verdict}" for verdict, n in record["verdicts"].items())
    crate.name = f"Triage of {record['archive']}"
    crate.description = f"Verdicts of emqa_dask on an archive of electron micrographs: {verdicts or 'none'}"
    crate.datePublished = _format_time(record["finished"])
    parts = []
    for name in names:
        if properties := _describe_item(name):
            identifier = name if properties["@type"] == "File" else f"{name}/"
            parts.append(crate.add(DataEntity(crate, identifier, properties=properties)))
    program = {"@type": "SoftwareApplication", "name": "emqa_dask", "version": record["versions"]["emqa_dask"]}
    program["softwareRequirements"] = [f"{k} {v}" for k, v in sorted(record["versions"].items()) if k != "emqa_dask"]
    instrument = crate.add(ContextEntity(crate, "#emqa_dask", properties=program))
    models = [
        crate.add(ContextEntity(crate, f"#model-{k}", {"@type": "CreativeWork", "name": name, "identifier": digest}))
        for k, (name, digest) in enumerate(sorted({**record["quality_models"], **record["networks"]}.items()))
    ]
    archive = crate.add(ContextEntity(crate, "#archive", {"@type": "Collection", "name": record["archive"]}))
    action = {"@type": "CreateAction", "name": record["command"], "startTime": _format_time(record["started"])}
    action |= {"endTime": _format_time(record["finished"]), "instrument": instrument, "object": [archive, *models]}
    crate.root_dataset["mentions"] = crate.add(ContextEntity(crate, "#run", properties={**action, "result": parts}))
    return crate.metadata.generate()


def _describe_item(name: str) -> dict:
    """Properties of a file or folder of a workspace; empty for one that is not described."""
    if name in FILES:
        encoding, description = FILES[name]
        return {"@type": "File", "name": description, "encodingFormat": encoding}
    table = name if name in FOLDERS else name.rpartition("-")[0]
    if table not in FOLDERS:
        return {}
    return {"@type": "Dataset", "name": FOLDERS[table]} | (
        {"conformsTo": {"@id": CONFORMS[name]}} if name in CONFORMS else {}
    )


def _format_time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
