"""samples.parquet of whole runs: against measurements and verdicts, by every grouping, and faults of CSV files."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import sample_names
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

SETTINGS = {
    "run": {"scheduler": "in-process"},
    "detect": {"detectors": ["log"]},
    "predict": {"models": ["log-synthetic"]},
    "measure": {"foil_thickness_nm": 60.0},
    "triage": {"trust_f1": 0.1, "trust_probability": 0.5},
}
LEDGER = pd.DataFrame(
    {
        "uri": ["day 1/a/x.tif", "day 1/b/y.tif", "z.tif"],
        "instrument": ["Talos", None, ""],
        "magnification": [1000.0, np.nan, 0.0],
        "acquired": ["2020-05-01T10:00:00", "2020-05-02", None],
    }
)


@pytest.fixture(scope="module")
def sampled_run(small_archive, tmp_path_factory):
    """Workspace and settings of a run with samples of all images and of a CSV file."""
    folder = tmp_path_factory.mktemp("samples")
    csv = folder / "doses.csv"
    csv.write_text("uri,sample,dose,temperature\n*/nothing,unused,9,\n*,all,0.5,300\n")
    settings = replace(Settings(), SETTINGS | {"report": {"samples": ["session", "date", str(csv)]}})
    run(str(small_archive), str(folder / "ws"), settings, say=lambda text: None)
    return folder, settings


def test_totals_are_those_of_trusted_images(sampled_run):
    folder, settings = sampled_run
    workspace = Workspace(str(folder / "ws"))
    samples = parts.load_table(workspace.samples, tables.SAMPLES)
    triage = parts.load_table(workspace.triage, tables.TRIAGE)
    triage = triage[triage["micrograph_id"].notna()]
    measurements = parts.read_table(workspace.uri, list_run_folders(settings)["measurements"], SCHEMAS["measurements"])
    trusted = triage[triage["verdict"] == "trust"].merge(measurements, on=["micrograph_id", "detector"])
    trusted = trusted[trusted["label"].isna() & trusted["area_um2"].notna()]
    assert len(trusted) >= 3
    (row,) = samples[samples["sample"].eq("all") & samples["label"].isna()].to_dict("records")
    assert (row["dose"], row["temperature"]) == (0.5, 300)
    assert row["n_images"] == len(triage)
    assert row["n_trusted"] == triage["verdict"].eq("trust").sum()
    assert row["n_measured"] == len(trusted)
    assert row["n_measured"] + sum(item["n_images"] for item in row["excluded"]) == len(triage)
    assert row["density_per_um2"] == pytest.approx(trusted["n_corrected"].sum() / trusted["area_um2"].sum())
    volume = trusted["volume_nm3"].sum()
    solid = trusted["area_um2"].sum() * 1e6 * 60 - volume
    assert row["swelling_percent"] == pytest.approx(100 * volume / solid)
    assert row["density_per_um2_low"] < row["density_per_um2"] < row["density_per_um2_high"]
    assert sum(row["size_counts"]) == pytest.approx(row["density_per_um2"] * row["area_um2"])
    by_session = samples[samples["grouping"].eq("session")].drop_duplicates("sample")
    assert by_session["n_images"].sum() == len(triage)


def test_changed_doses_write_the_report_again(sampled_run):
    folder, settings = sampled_run
    workspace = Workspace(str(folder / "ws"))
    run(None, workspace.uri, settings, steps=("report",), say=lambda text: None)
    csv = folder / "doses.csv"
    csv.write_text(csv.read_text().replace("0.5", "0.7"))
    run(None, workspace.uri, settings, steps=("report",), say=lambda text: None)
    samples = parts.load_table(workspace.samples, tables.SAMPLES)
    assert samples.loc[samples["sample"].eq("all"), "dose"].eq(0.7).all()


@pytest.mark.parametrize(
    ("grouping", "names"),
    [
        ("session", ["day 1, Talos, 1000x", "day 1", "all"]),
        ("folder", ["day 1", "day 1", "."]),
        ("folder:2", ["day 1/a", "day 1/b", "."]),
        ("instrument", ["Talos", "unknown", "unknown"]),
        ("date", ["2020-05-01", "2020-05-02", "unknown"]),
    ],
)
def test_groupings_name_samples(grouping, names):
    assert list(sample_names.make_grouping(grouping).name_samples(LEDGER)) == names


def test_first_pattern_gives_the_sample(tmp_path):
    csv = tmp_path / "samples.csv"
    csv.write_text("uri, sample, dose\nday 1/a/*, irradiated, 2e3\nday 1/*, reference,\n")
    grouping = sample_names.make_grouping(str(csv))
    assert list(grouping.name_samples(LEDGER)) == ["irradiated", "reference", "no sample"]
    assert grouping.conditions["irradiated"]["dose"] == 2000
    assert np.isnan(grouping.conditions["reference"]["dose"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uri,name\n*,a\n", "no column sample"),
        ("uri,sample,colour\n*,a,red\n", "column colour"),
        ("uri,sample,dose\n*,a,much\n", "line 2: dose is 'much'"),
        ("uri,sample\n,a\n", "line 2: uri and sample"),
        ("uri,sample,dose\na/*,a,1\nb/*,a,2\n", "line 3: sample 'a'"),
        ("uri,sample\na/*,a,\nb/*,b,\n", "Expected 2 fields in line 2, saw 3"),
        ("uri;sample\n*;a\n", "no column uri"),
        ("uri,sample,sample\n*,a,b\n", "the column sample occurs twice"),
        ("", "no CSV in UTF-8"),
        ("uri,sample,dose\n*\n", "line 2: uri and sample"),
    ],
)
def test_faults_of_a_csv_file_are_named(tmp_path, text, message):
    csv = tmp_path / "samples.csv"
    csv.write_text(text)
    with pytest.raises(SettingsError, match=message):
        sample_names.make_grouping(str(csv))


def test_spreadsheets_write_csv_files_that_are_read(tmp_path):
    csv = tmp_path / "samples.csv"
    csv.write_bytes('\ufeffuri,sample,dose\r\n"day 1/*",Zr\u00b3,"1.5"\r\n'.encode())
    grouping = sample_names.make_grouping(str(csv))
    assert list(grouping.name_samples(LEDGER)) == ["Zr\u00b3", "Zr\u00b3", "no sample"]
    assert grouping.conditions["Zr\u00b3"]["dose"] == 1.5
    csv.write_bytes("uri,sample\n*,Zr\u00b3\n".encode("latin-1"))
    with pytest.raises(SettingsError, match="no CSV in UTF-8"):
        sample_names.make_grouping(str(csv))


def test_images_of_several_samples_are_counted(tmp_path):
    csv = tmp_path / "samples.csv"
    csv.write_text("uri,sample\nday 1/a/*,x\nday 1/*,y\nday 1/b/*,y\n*,z\n")
    assert sample_names.make_grouping(str(csv)).find_overlaps(LEDGER).tolist() == [True, False, False]
    assert not sample_names.make_grouping("folder").find_overlaps(LEDGER).any()


@pytest.mark.parametrize("grouping", ["sessions", "folder:0", "folder:x", ""])
def test_unknown_groupings_are_refused(grouping):
    with pytest.raises(SettingsError, match=r"report\.samples"):
        replace(Settings(), {"report": {"samples": [grouping]}})


def test_missing_csv_file_is_named():
    with pytest.raises(SettingsError, match="no file"):
        sample_names.make_grouping("absent.csv")


def test_missing_csv_file_is_named_before_anything_is_read(tmp_path):
    settings = replace(Settings(), SETTINGS | {"report": {"samples": ["absent.csv"]}})
    with pytest.raises(SettingsError, match=r"no file .*absent\.csv"):
        run(str(tmp_path), str(tmp_path / "ws"), settings, say=lambda text: None)
    assert not (tmp_path / "ws").exists()
