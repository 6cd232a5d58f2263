"""One flipped bit in any file of a workspace: `emqa verify` finds it."""

import shutil

import numpy as np
import pytest
import tifffile

from emqa_dask import tables
from emqa_dask.cli import main
from emqa_dask.pipeline.workspace.integrity import verify
from emqa_dask.settings import SettingsError
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.store.marker import DamagedMarkerError
from emqa_dask.synthetic.particles import draw_particles

# Of these the error says which file was changed.
CHECKED_AT_START = {"settings.toml": SettingsError, "workspace.json": DamagedMarkerError}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with every kind of file: of runs, a report, a plan of a review, a decision, a watch."""
    root = tmp_path_factory.mktemp("flipped")
    scans = root / "scans"
    scans.mkdir()
    for k in range(4):
        image = draw_particles(np.random.default_rng(k), (256, 256)).image
        tifffile.imwrite(scans / f"{k}.tif", image, resolution=(1e7, 1e7), resolutionunit="CENTIMETER")
    (scans / "not an image.tif").write_bytes(b"II*\0")
    options = ["--detector", "log", "--set", "run.scheduler=in-process", "--set", "store.shard_length=2"]
    assert main(["triage", str(scans), "--workspace", str(root / "ws"), *options]) == 2
    own = Workspace(str(root / "ws"))
    for uri, schema in (
        (own.alarms, tables.ALARMS),
        (own.detector_choices, tables.DETECTOR_CHOICES),
        (own.estimates, tables.ESTIMATES),
    ):
        parts.write_table(uri, tables.empty(schema), schema)
    main(["review", "plan", own.uri, "--budget", "2"])
    (root / "ws/lock.json").unlink(missing_ok=True)
    return root / "ws"


def test_verify_finds_a_flipped_bit_in_any_file(workspace, tmp_path):
    names = sorted(path.relative_to(workspace) for path in workspace.rglob("*") if path.is_file())
    assert {path.parts[0] for path in map(type(workspace), names)} >= {"report", "micrographs.zarr", "alarms.parquet"}
    assert verify(str(workspace), lambda _: None) == 0
    unnoticed = [str(name) for name in names if not is_noticed(workspace, name, tmp_path / "copy")]
    assert unnoticed == []


def is_noticed(workspace, name, copy):
    """Whether verify notices one flipped bit in the middle of the file `name` of a copy of the workspace."""
    shutil.copytree(workspace, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    lines = []
    try:
        exit_code = verify(str(copy), lines.append)
    except tuple(CHECKED_AT_START.values()) as error:
        return isinstance(error, CHECKED_AT_START.get(str(name), ())) and str(copy / name) in str(error)
    finally:
        shutil.rmtree(copy)
    return exit_code == 2 and bool(lines)
