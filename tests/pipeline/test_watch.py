"""A watched folder: complete versions of files are judged once, whatever happens to the folder; sessions and alarms."""

import hashlib
import http.server
import itertools
import json
import os
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import triage_archive
from emqa_dask.pipeline.commands.watch import watch
from emqa_dask.pipeline.commands.watch_alarms import QUANTITIES, SessionAlarms
from emqa_dask.pipeline.commands.watch_options import WatchOptions
from emqa_dask.pipeline.commands.webhook import Webhook
from emqa_dask.pipeline.workspace.settled_files import SettledFiles
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Archive, Settings, replace
from emqa_dask.store import parts
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.particles import draw_particles

SETTINGS = replace(
    Settings(),
    {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}, "predict": {"models": ["log-synthetic"]}},
)
OPTIONS = WatchOptions(every_s=0.05, settle_s=0.3, is_json=True)


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = draw_particles(np.random.default_rng(seed), (192, 192)).image
    tifffile.imwrite(path, image)


def watch_until(folder, root, n_verdicts, actions=(), options=OPTIONS):
    """Records and messages of a watch that ends after `n_verdicts`; `actions` run one after each further verdict."""
    records, messages = [], []
    pending = iter(actions)

    def show(text):
        records.append(json.loads(text))
        next(pending, lambda: None)()

    deadline_s = time.monotonic() + 120

    def is_ended():
        return len(records) >= n_verdicts or time.monotonic() > deadline_s

    assert watch(str(folder), str(root), SETTINGS, options, say=messages.append, show=show, is_ended=is_ended) == 0
    return records, messages


def list_new_files(files, now_s):
    return [entry.uri for entry in files.list_new(now_s)]


@pytest.fixture
def settled(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder, SettledFiles({str(folder): ""}, Archive(), str(tmp_path / "ws"), DigestSet(), 2.0)


def test_a_file_waits_until_it_has_settled(settled):
    folder, files = settled
    assert list_new_files(files, 0) == []
    (folder / "a.tif").write_bytes(b"half")
    assert list_new_files(files, 10) == []
    (folder / "a.tif").write_bytes(b"half and half")
    assert list_new_files(files, 13) == []  # it grew, so it is seen anew
    assert files.n_waiting == 1
    assert list_new_files(files, 14.9) == []
    assert list_new_files(files, 15) == ["a.tif"]
    assert list_new_files(files, 99) == []  # once
    assert files.n_waiting == 0


def test_a_replaced_file_is_new_whatever_its_date(settled):
    folder, files = settled
    (folder / "a.tif").write_bytes(b"first")
    os.utime(folder / "a.tif", (4e9, 4e9))  # in the future
    assert list_new_files(files, 0) == []
    assert list_new_files(files, 2) == ["a.tif"]
    (folder / "a.tif").write_bytes(b"other")
    os.utime(folder / "a.tif", (1e9, 1e9))  # the clock was set back
    assert list_new_files(files, 3) == []
    assert list_new_files(files, 5) == ["a.tif"]


def test_a_batch_leaves_later_files_out(settled):
    folder, files = settled
    for name in ("a", "b", "c"):
        (folder / f"{name}.tif").write_bytes(b"x")
    files.list_new(0)
    new = files.list_new(5)
    assert sorted(entry.uri for entry in files.select(new[:1])) == [new[0].uri]
    assert len(list(files.select(new[1:]))) == 3


def test_each_complete_version_is_judged_once(tmp_path):
    folder, root = tmp_path / "scans", tmp_path / "ws"
    write_image(folder / "a" / "0.tif", 0)
    (folder / "note.txt").write_text("no image")
    actions = [
        lambda: write_image(folder / "a" / "1.tif", 1),
        lambda: None,
        lambda: write_image(folder / "a" / "0.tif", 2),  # replaced
    ]
    records, _ = watch_until(folder, root, 4, actions)
    assert [record["event"] for record in records] == ["verdict"] * 4
    assert sorted(record["uri"] for record in records) == ["a/0.tif", "a/0.tif", "a/1.tif", "note.txt"]
    later, _ = watch_until(folder, root, 0)
    assert later == []
    expected = triage_archive(folder, str(tmp_path / "run"), SETTINGS, say=lambda text: None)
    stored = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE)
    columns = [name for name in tables.TRIAGE.names if name != "partition"]  # these depend on the order of the files
    pd.testing.assert_frame_equal(stored[columns], expected[columns])


def test_a_later_date_of_the_same_content_gives_no_verdict(tmp_path):
    folder, root = tmp_path / "scans", tmp_path / "ws"
    write_image(folder / "0.tif", 0)

    def date_again():
        os.utime(folder / "0.tif", ns=(2**60, 2**60))
        write_image(folder / "1.tif", 1)

    records, _ = watch_until(folder, root, 2, [date_again])
    assert [record["uri"] for record in records] == ["0.tif", "1.tif"]
    later, _ = watch_until(folder, root, 0)
    assert later == []


def test_a_half_written_file_gives_one_verdict(tmp_path):
    folder, root = tmp_path / "scans", tmp_path / "ws"
    write_image(tmp_path / "whole.tif", 3)
    content = (tmp_path / "whole.tif").read_bytes()
    folder.mkdir()
    (folder / "a.tif").write_bytes(content[: len(content) // 2])
    threading.Timer(1.5, (folder / "a.tif").write_bytes, (content,)).start()
    records, _ = watch_until(folder, root, 1)
    assert [record["uri"] for record in records] == ["a.tif"]
    row = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE).iloc[0]
    assert (row["status"], row["content_sha256"]) == ("ok", hashlib.sha256(content).hexdigest())


def test_no_verdict_on_half_a_file_while_it_grows(tmp_path):
    folder, root = tmp_path / "scans", tmp_path / "ws"
    write_image(tmp_path / "whole.tif", 3)
    content = (tmp_path / "whole.tif").read_bytes()
    folder.mkdir()
    options = WatchOptions(every_s=0.05, settle_s=0.2, is_json=True)  # half a file is shown after 2 s

    def write_slowly():
        (folder / "a.tif").write_bytes(content[: len(content) // 2])
        time.sleep(1)
        for n_bytes in range(len(content) // 2, len(content), len(content) // 60):
            (folder / "a.tif").write_bytes(content[:n_bytes])
            time.sleep(0.1)
        (folder / "a.tif").write_bytes(content)

    threading.Thread(target=write_slowly).start()
    records, _ = watch_until(folder, root, 1, options=options)
    assert [record["verdict"] != "unknown" for record in records] == [True]


def test_a_folder_that_disappears_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("emqa_dask.pipeline.commands.watch.RETRY_S", 0.1)
    folder, root = tmp_path / "scans", tmp_path / "ws"
    write_image(folder / "0.tif", 0)

    def bring_back():
        shutil.move(tmp_path / "away", folder)
        write_image(folder / "1.tif", 1)

    def take_away():
        shutil.move(folder, tmp_path / "away")
        threading.Timer(1.0, bring_back).start()

    records, messages = watch_until(folder, root, 2, [take_away])
    assert [record["uri"] for record in records] == ["0.tif", "1.tif"]
    assert any("waiting until it is back" in text for text in messages)
    assert "the archive is back" in messages


def test_a_folder_that_never_existed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder that is to be watched"):
        watch(str(tmp_path / "none"), str(tmp_path / "ws"), SETTINGS, OPTIONS)


@pytest.mark.parametrize("change", [{"settle_s": 0}, {"every_s": float("nan")}, {"false_alarms": 1.0}])
def test_options_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match="give a"):
        watch(str(tmp_path), str(tmp_path / "ws"), SETTINGS, WatchOptions(**change))


@pytest.fixture
def receiver():
    """A server that refuses the first request: (its URL, bodies that it took)."""
    bodies = []
    numbers = itertools.count()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_refused = next(numbers) == 0
            bodies.extend([] if is_refused else [json.loads(body)])
            self.send_response(503 if is_refused else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    server.server_close()


def test_a_webhook_tries_again_and_never_waits(receiver, monkeypatch):
    url, bodies = receiver
    monkeypatch.setattr("emqa_dask.pipeline.commands.webhook.FIRST_PAUSE_S", 0.05)
    webhook = Webhook(url, lambda text: None)
    start_s = time.monotonic()
    webhook.send({"session": "a"})
    webhook.send({"session": "b"})
    assert time.monotonic() - start_s < 0.5
    webhook.close(10)
    assert bodies == [{"session": "a"}, {"session": "b"}]


def test_a_webhook_is_an_address_of_the_web():
    with pytest.raises(ValueError, match="starts with https"):
        Webhook("file:///etc/passwd", print)


def make_alarm_workspace(root, n, drift_at):
    """A workspace with the tables that alarms read: n images a second apart, and a gap before the last 5."""
    rng = np.random.default_rng(0)
    uris = [f"a/{k:04d}.tif" for k in range(n)]
    ids = [f"{k:032x}" for k in range(n)]
    seconds = np.arange(n) + 7200 * (np.arange(n) >= n - 5)
    catalog = pd.DataFrame({"uri": uris, "content_sha256": ids, "modified_ns": seconds * 10**9, "is_present": True})
    ledger = pd.DataFrame({"micrograph_id": ids, "uri": uris, "content_sha256": ids, "instrument": "T"})
    ledger["stack"] = "s"
    ledger["index"] = np.arange(n)
    ledger["partition"] = "8x8-uint8-nopx-00000000"
    parts.write_table(Workspace(root).catalog, catalog, tables.CATALOG)
    parts.write_table(Workspace(root).micrographs, ledger, tables.MICROGRAPHS)
    values = pd.DataFrame(rng.normal(size=(n, len(QUANTITIES))), columns=list(QUANTITIES)).assign(micrograph_id=ids)
    values.loc[drift_at:, "contrast"] += 4
    folders = list_run_folders(SETTINGS)
    for table, columns in (("features", QUANTITIES[:-1]), ("predictions", QUANTITIES[-1:])):
        rows = values[["micrograph_id", *columns]]
        parts.write_part(root, folders[table], ledger["partition"][0], rows, getattr(tables, table.upper()))
    return uris


def test_a_drift_raises_one_alarm_with_its_images(tmp_path):
    uris = make_alarm_workspace(str(tmp_path), 305, 200)
    alarms = SessionAlarms(Workspace(str(tmp_path)), SETTINGS, 0.01, 1800)
    raised = [alarm for uri in uris for alarm in alarms.add_files([uri])]
    stored = parts.load_table(Workspace(str(tmp_path)).alarms, tables.ALARMS)
    assert stored["statistic"].tolist() == ["contrast"] == [alarm["statistic"] for alarm in raised]
    assert stored["session"][0] == "a, T, 1970-01-01 00:00:00"
    assert abs(int(stored["first_uri"][0][2:6]) - 200) <= 10
    assert int(stored["last_uri"][0][2:6]) == stored["n_images"][0] - 1
    assert 200 < stored["n_images"][0] <= 240
    # A gap of two hours: the last images belong to a session of their own.
    assert [session.test.n_images for session in alarms._sessions.values()] == [5]


def test_a_restart_goes_on_where_the_test_was(tmp_path):
    uris = make_alarm_workspace(str(tmp_path), 150, 999)
    workspace = Workspace(str(tmp_path))
    first = SessionAlarms(workspace, SETTINGS, 0.01, 1e6)
    for uri in uris:
        first.add_files([uri])
    second = SessionAlarms(workspace, SETTINGS, 0.01, 1e6)
    second.replay()
    capital = [[wager.log_capital for wager in alarms._sessions["a, T"].test._wagers] for alarms in (first, second)]
    np.testing.assert_allclose(*capital)
