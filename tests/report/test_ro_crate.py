"""RO-Crate metadata of a workspace: valid JSON-LD that the library reads again, with every part of the workspace."""

import json

from rocrate.rocrate import ROCrate

from emqa_dask.report.ro_crate import describe_crate

RECORD = {
    "command": "emqa triage scans",
    "archive": "/data/scans",
    "started": 0.0,
    "finished": 86400.0,
    "versions": {"emqa_dask": "9.8", "numpy": "2.0"},
    "verdicts": {"trust": 1234, "junk": 1},
    "quality_models": {"log-f1": "ab"},
    "networks": {},
}


def test_the_library_reads_the_crate_again(tmp_path):
    names = ["triage.parquet", "micrographs.zarr", "detections-0123abcd", "lock.json", "damaged"]
    (tmp_path / "ro-crate-metadata.json").write_text(json.dumps(describe_crate(names, RECORD)))
    (tmp_path / "triage.parquet").touch()
    crate = ROCrate(tmp_path)
    assert {part.id for part in crate.root_dataset["hasPart"]} == {
        "triage.parquet",
        "micrographs.zarr/",
        "detections-0123abcd/",
    }
    assert crate.root_dataset["datePublished"] == "1970-01-02T00:00:00+00:00"
    assert "1,234 trust, 1 junk" in crate.root_dataset["description"]
    run = crate.get("#run")
    assert run["instrument"]["version"] == "9.8"
    assert [thing["name"] for thing in run["object"]] == ["/data/scans", "log-f1"]
    assert run["result"][0].type in ("File", "Dataset")
