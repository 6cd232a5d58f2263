"""Files of instruments that are cut anywhere answer at once: no reader waits for an end that does not come."""

import bz2
import multiprocessing
from pathlib import Path

import pytest

from emqa_dask.archive.entries import Entry
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

SUFFIXES = (".dm3", ".dm4", ".ser", ".emi", ".elid", ".emd", ".h5", ".mrc", ".map", ".tif")
LIMIT_S = 60  # a reader that never ends is stopped then; they take milliseconds


def rows_of_cuts(path: str, data: bytes) -> list[tuple[str, str]]:
    """(status, reason) of `data` cut at every 20th, written to `path` one after the other."""
    found = []
    for k in range(20):
        Path(path).write_bytes(data[: len(data) * k // 20])
        row, _ = survey_file(Entry(Path(path).name, path), Archive())
        found.append((row["status"], row["reason"]))
    return found


def test_cut_files_of_instruments_answer_at_once(real, tmp_path):
    paths = [p for p in sorted(real.glob("formats_*/**/*")) if p.suffix in SUFFIXES]
    assert len(paths) > 10
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for path in paths:
            answer = pool.apply_async(rows_of_cuts, (str(tmp_path / path.name), path.read_bytes()))
            for status, reason in answer.get(LIMIT_S):
                assert status in ("ok", "skipped") or reason, path.name


def test_elid_without_its_end_is_named(real, tmp_path):
    (path,) = real.glob("formats_rsciio/**/*.elid")
    data = path.read_bytes()
    for cut in (12, len(data) // 2, len(data) - 1):
        (tmp_path / "x.elid").write_bytes(data[:cut])
        (entry,) = scan_archive(tmp_path / "x.elid")
        row, found = survey_file(entry, Archive())
        assert (row["status"], found) == ("failed", [])
        assert row["reason"].startswith("truncated ELID: its bzip2 stream has no end")
    plain = bz2.decompress(data)
    for content in (plain[: len(plain) // 2], bytes(10)):  # a whole stream that does not hold all of an ELID
        (tmp_path / "x.elid").write_bytes(bz2.compress(content))
        (entry,) = scan_archive(tmp_path / "x.elid")
        assert survey_file(entry, Archive())[0]["status"] == "failed"


def test_elid_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("emqa_dask.archive.checks.guards.MAX_ELID_BYTES", 2**20)
    (tmp_path / "x.elid").write_bytes(bz2.compress(bytes(2**21)))
    (entry,) = scan_archive(tmp_path / "x.elid")
    assert survey_file(entry, Archive())[0]["reason"] == "an ELID of over 1,048,576 bytes of data is not read"


@pytest.mark.parametrize("content", [b"\n" * 50, b" \n \r\n" * 5000])
def test_dens_of_blank_lines_is_refused(tmp_path, content):
    (tmp_path / "x.dens").write_bytes(content)
    (entry,) = scan_archive(tmp_path / "x.dens")
    assert survey_file(entry, Archive())[0]["reason"] == "a DENS log without a line of text"
