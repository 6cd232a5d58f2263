"""Laws of ingest: what it leaves depends on the archive alone, whatever happened on the way."""

import os
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.archive.scan import scan_archive
from emqa_dask.pipeline.commands import ingest, make_tables
from emqa_dask.pipeline.tasks import survey
from emqa_dask.pipeline.workspace import archive_sources, batches, file_catalog, micrograph_ledger, part_folders
from emqa_dask.run.execute import Result, Task, execute
from emqa_dask.run.supervise import CallFailed, call_directly
from emqa_dask.settings import replace
from emqa_dask.store import digests, files, marker, parts, plan, stacks
from emqa_dask.store.layout import Workspace

FILES = "survey", "survey-micrographs"


def micrograph(path, height=8, seed=0, frames=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (frames, height, 12) if frames > 1 else (height, 12)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(0, 999, shape, np.uint16), photometric="minisblack")


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """24 micrographs of three shapes, a stack of three frames, a text and a damaged file, in two folders."""
    folder = tmp_path_factory.mktemp("sessions")
    for k in range(24):
        micrograph(folder / f"session {k % 2}" / f"image {k:02d}.tif", 8 + k % 3, k)
    micrograph(folder / "session 1" / "stack.tif", 9, 99, frames=3)
    (folder / "session 0" / "notes.txt").write_text("the gun was unstable")
    whole = (folder / "session 0" / "image 00.tif").read_bytes()
    (folder / "session 0" / "damaged.tif").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def small(in_process):
    return replace(in_process, {"archive": {"files_per_task": 3}, "store": {"shard_length": 4}})


def run(root, archive, settings, seed=None, call=call_directly) -> list[Result]:
    """Ingest with tasks done in this process, with `seed` in an order of their own; the results."""
    done: list[Result] = []

    def execute_here(function, tasks, stage):
        tasks = list(tasks)
        if seed is not None:
            random.Random(seed).shuffle(tasks)
        for result in execute(lambda *args, **_: function(*args, call=call), tasks, stage=stage):
            done.append(result)
            yield result

    ingest.ingest(Workspace(str(root)), str(archive), settings, execute_here)
    return done


def left(root) -> dict[str, object]:
    """Both tables as they are, and what the stacks say of themselves."""
    root = str(root)
    found = {
        "catalog": files.read_bytes(Workspace(root).catalog),
        "ledger": files.read_bytes(Workspace(root).micrographs),
    }
    for stack in stacks.read_shard_lengths(root):
        for name in ("zarr.json", "0/zarr.json"):
            found[f"{stack}/{name}"] = parts.read_json(files.join(Workspace(root).stack(stack), name))
    return found


def catalog(root) -> pd.DataFrame:
    return parts.load_table(Workspace(str(root)).catalog, tables.CATALOG).set_index("uri")


def ledger(root) -> pd.DataFrame:
    return parts.load_table(Workspace(str(root)).micrographs, tables.MICROGRAPHS)


def assert_lawful(root, archive) -> None:
    """Every file has its row, every micrograph one slot, partitions lie together, and the stacks know their slots."""
    rows = catalog(root)
    slots = ledger(root)
    assert set(rows.index) >= {p.relative_to(archive).as_posix() for p in archive.rglob("*") if p.is_file()}
    assert rows.index.is_unique
    assert slots["micrograph_id"].is_unique
    assert not slots.duplicated(["stack", "index"]).any()
    lengths = stacks.read_shard_lengths(str(root))
    found = list(micrograph_ledger.iter_partitions(Workspace(str(root))))
    assert len({partition.name for partition, _ in found}) == len(found) == slots["partition"].nunique()
    pd.testing.assert_frame_equal(pd.concat([of for _, of in found], ignore_index=True), slots)
    for partition, of in found:
        assert set(of["partition"]) == {partition.name}
        assert list(of["index"]) == list(range(partition.start, partition.stop))
        assert partition.start % lengths[partition.stack] == 0
        assert len(partition) <= lengths[partition.stack]
    for stack, of in slots.groupby("stack"):
        said = parts.read_json(files.join(Workspace(str(root)).stack(stack), "zarr.json"))["attributes"]["emqa_dask"]
        assert [i for run in said["occupied"] for i in range(*run)] == sorted(of["index"])
    for folder in FILES:
        assert parts.list_parts(str(root), folder) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_in_which_tasks_finish_changes_nothing(sessions, small, tmp_path, seed):
    run(tmp_path / "one", sessions, small)
    run(tmp_path / "other", sessions, small, seed)
    assert left(tmp_path / "one") == left(tmp_path / "other")
    assert_lawful(tmp_path / "one", sessions)


def test_batches_change_nothing_where_the_shards_are_the_same(sessions, small, tmp_path):
    run(tmp_path / "one", sessions, small)
    run(tmp_path / "other", sessions, replace(small, {"archive": {"files_per_task": 50}}))
    assert left(tmp_path / "one") == left(tmp_path / "other")


def test_catalog_and_slots_are_in_the_order_of_the_scan(sessions, small, tmp_path):
    run(tmp_path, sessions, small)
    assert list(catalog(tmp_path).index) == [e.uri for e in scan_archive(str(sessions))]
    for _, of in ledger(tmp_path).groupby("stack"):
        assert list(zip(of["uri"], of["frame"])) == sorted(zip(of["uri"], of["frame"]))
    paths = ledger(tmp_path).drop_duplicates("uri").set_index("uri")["path"]
    assert all(os.path.samefile(path, sessions / uri) for uri, path in paths.items())


class Killed(BaseException):
    """The process ends here."""


def test_a_run_killed_at_any_write_ends_as_undisturbed(sessions, small, tmp_path, monkeypatch):
    few = replace(small, {"archive": {"files_per_task": 9}})
    run(tmp_path / "whole", sessions, few)
    write_whole = files.write_whole
    write_bytes = files.write_bytes
    remove = file_catalog._remove
    n_writes = 0
    for fatal in range(100):
        root = tmp_path / f"killed {fatal}"
        n = 0
        is_killed = False

        def count(action, *args, fatal=fatal):
            nonlocal n
            n += 1
            if n > fatal:
                raise Killed
            return action(*args)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_whole", lambda uri: count(write_whole, uri))
            patch.setattr(files, "write_bytes", lambda uri, data: count(write_bytes, uri, data))
            patch.setattr(ingest, "_remove", lambda *args: count(remove, *args))
            try:
                run(root, sessions, few)
            except Killed:
                is_killed = True
        n_found = len(parts.list_parts(str(root), FILES[0]))
        again = run(root, sessions, few)
        assert left(root) == left(tmp_path / "whole"), fatal
        assert_lawful(root, sessions)
        if not is_killed:
            n_writes = fatal
            break
        if not files.exists(Workspace(str(root)).catalog):
            assert [r.outcome for r in again].count("found") == n_found
    assert n_writes > 12


def test_a_workspace_in_a_bucket_is_the_same(sessions, small, tmp_path):
    root = f"memory://run[1]{tmp_path}"
    run(tmp_path, sessions, small)
    run(root, sessions, small)
    assert left(root) == left(tmp_path)
    assert_lawful(root, sessions)
    assert run(root, sessions, small) == []


def test_runs_in_steps_lose_nobody_and_touch_no_slot(sessions, small, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(sessions / "session 1", archive / "session 1")
    run(root, archive, small)
    before = ledger(root)
    shutil.copytree(sessions / "session 0", archive / "session 0")
    results = run(root, archive, small)
    assert sum(r.task.n_images for r in results) == 14
    assert_lawful(root, archive)
    pd.testing.assert_frame_equal(ledger(root).head(len(before)), before)
    assert set(ledger(root)["partition"].iloc[len(before) :]).isdisjoint(before["partition"])
    whole = tmp_path / "whole"
    run(whole, sessions, small)
    assert set(ledger(root)["micrograph_id"]) == set(ledger(whole)["micrograph_id"])
    columns = ["content_sha256", "kind", "status", "reason", "error", "n_frames"]
    pd.testing.assert_frame_equal(catalog(root)[columns].sort_index(), catalog(whole)[columns].sort_index())
    assert run(root, archive, small) == []


def test_changed_touched_moved_and_deleted_files(sessions, small, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(sessions, archive)
    run(root, archive, small)
    before = ledger(root)
    folder = archive / "session 0"
    micrograph(folder / "image 02.tif", 8, 1000)  # changed
    os.utime(folder / "image 02.tif", (5, 5))
    os.utime(folder / "image 04.tif", (5, 5))  # touched
    (folder / "image 06.tif").rename(archive / "moved.tif")
    (folder / "image 08.tif").unlink()
    results = run(root, archive, small)
    assert sum(r.task.n_images for r in results) == 3
    assert_lawful(root, archive)
    after = ledger(root)
    pd.testing.assert_frame_equal(after.head(len(before)), before)
    assert list(after["uri"].iloc[len(before) :]) == ["moved.tif", "session 0/image 02.tif"]
    assert catalog(root).loc["session 0/image 04.tif", "modified_ns"] == 5_000_000_000
    now = pd.concat(micrograph_ledger.iter_current(Workspace(str(root))))
    assert list(now.columns) == tables.MICROGRAPHS.names
    assert now["uri"].value_counts()["session 0/image 02.tif"] == 1
    assert len(now) == len(after) - 3  # but for what image 02 was before, and the two files that are gone
    gone = catalog(root)["is_present"].eq(False)
    assert sorted(gone.index[gone]) == ["session 0/image 06.tif", "session 0/image 08.tif"]
    pd.testing.assert_series_equal(catalog(root)["status"].eq("removed"), gone, check_names=False)
    pd.testing.assert_frame_equal(
        pd.concat(micrograph_ledger.iter_current(Workspace(str(root)), ["uri", "frame"])), now[["uri", "frame"]]
    )


def test_removed_files_that_come_back_have_their_status(sessions, small, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(sessions, archive)
    run(root, archive, small)
    statuses = catalog(root)["status"]
    assert set(statuses) == {"ok", "failed", "skipped"}
    names = [f"session 0/{name}" for name in ("image 00.tif", "notes.txt", "damaged.tif")]
    for name in names:
        (archive / name).rename(tmp_path / os.path.basename(name))
    run(root, archive, small)
    assert catalog(root)["status"].to_dict() == statuses.to_dict() | dict.fromkeys(names, "removed")
    for name in names:
        (tmp_path / os.path.basename(name)).rename(archive / name)
    results = run(root, archive, small)
    assert catalog(root)["status"].to_dict() == statuses.to_dict()
    assert sum(r.task.n_images for r in results) == 2  # the file with images is known
    assert catalog(root)["is_present"].all()


def test_a_touched_file_under_another_pixel_size_keeps_its_slot(sessions, small, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    micrograph(archive / "a.tif")
    run(root, archive, small)
    before = left(root)
    os.utime(archive / "a.tif", (5, 5))
    run(root, archive, replace(small, {"archive": {"nm_per_pixel": 0.5}}))
    after = left(root)
    assert after.pop("catalog") != before.pop("catalog")
    assert after == before


def test_files_over_a_limit_are_read_once_it_is_raised(small, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    micrograph(archive / "large.tif", 900)
    micrograph(archive / "small.tif")
    limit = {"archive": {"max_megapixels": 0.0012345678}}
    run(root, archive, replace(small, limit))
    assert "over the limit" in catalog(root).loc["large.tif", "reason"]
    assert run(root, archive, replace(small, limit)) == []
    assert run(root, archive, replace(small, {"archive": {"max_megapixels": 0.001}})) == []
    assert [r.task.n_images for r in run(root, archive, small)] == [1]
    assert list(catalog(root)["status"]) == ["ok", "ok"]
    assert run(root, archive, replace(small, limit)) == []
    assert_lawful(root, archive)


def test_a_zarr_folder_is_surveyed_once(small, tmp_path):
    import zarr

    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    zarr.create_array(str(archive / "image.zarr"), data=np.arange(96, dtype=np.uint16).reshape(8, 12))
    assert len(run(root, archive, small)) == 1
    assert catalog(root).loc["image.zarr", "size_bytes"] > 0
    assert run(root, archive, small) == []


def test_a_list_that_names_a_file_twice_gives_one_row(small, tmp_path):
    micrograph(tmp_path / "raw" / "a.tif")
    micrograph(tmp_path / "raw" / "b.tif", seed=1)
    (tmp_path / "files.txt").write_text("raw/b.tif\nraw\n")
    run(tmp_path / "ws", tmp_path / "files.txt", small)
    assert list(catalog(tmp_path / "ws").index) == ["raw/b.tif", "raw/a.tif"]
    assert len(ledger(tmp_path / "ws")) == 2


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_workspace_inside_the_archive_is_not_scanned(small, tmp_path, prefix):
    micrograph(tmp_path / "a.tif")
    root = f"{prefix}{tmp_path}/ws"
    marker.claim_workspace(root, str(tmp_path))
    run(root, tmp_path, small)
    assert run(root, tmp_path, small) == []
    assert list(catalog(root).index) == ["a.tif"]
    marker.claim_workspace(f"{prefix}{tmp_path}/empty/ws", "")
    with pytest.raises(ValueError, match="no file in it beside the workspace"):
        run(f"{prefix}{tmp_path}/empty/ws", tmp_path / "empty", small)


@pytest.mark.parametrize("kind", ["crash", "timeout", "memory", "error"])
def test_a_file_on_which_its_reader_dies_costs_one_row(sessions, small, tmp_path, kind):
    guilty = "session 1/image 05.tif"

    def call(function, entry, *args, label="", megapixels=0.0):
        assert label == entry.uri
        if entry.uri == guilty:
            raise CallFailed(kind, "it was ended by SIGSEGV", "where", 2, 123)
        return function(entry, *args)

    root = tmp_path / "ws"
    run(root, sessions, small, call=call)
    run(tmp_path / "whole", sessions, small)
    assert_lawful(root, sessions)
    row = catalog(root).loc[guilty]
    assert (row["status"], row["reason"], row["error"]) == ("failed", survey.REASONS[kind], "it was ended by SIGSEGV")
    same = catalog(tmp_path / "whole").drop(index=guilty)
    pd.testing.assert_frame_equal(catalog(root).drop(index=guilty), same)
    assert set(ledger(tmp_path / "whole")["uri"]) - set(ledger(root)["uri"]) == {guilty}
    (failure,) = parts.read_table(str(root), part_folders.SURVEY_FAILURES, tables.FAILURES).to_dict("records")
    assert (failure["uri"], failure["stage"], failure["kind"]) == (guilty, "ingest", kind)
    assert (failure["traceback"], failure["attempts"], failure["peak_memory_bytes"]) == ("where", 2, 123)

    assert run(root, sessions, small) == []  # once more only when asked to
    file_catalog.forget_files(Workspace(str(root)), [guilty])
    assert parts.list_parts(str(root), part_folders.SURVEY_FAILURES) == []
    assert [r.task.n_images for r in run(root, sessions, small)] == [1]
    assert_lawful(root, sessions)
    pd.testing.assert_frame_equal(catalog(root).sort_index(), catalog(tmp_path / "whole").sort_index())


def test_a_lost_task_blames_no_file_and_is_repeated(sessions, small, tmp_path):
    def losing(function, tasks, stage):
        for task in tasks:
            (result,) = execute(function, [task], stage=stage)
            if any(entry.uri.endswith("05.tif") for entry in task.args[2]):
                for folder in FILES:
                    files.remove_file(Workspace(str(tmp_path / "ws")).part(folder, task.name))
                result = Result(
                    task, "failed", result.event, failure_kind="crash", error="its worker was lost 10 times"
                )
            yield result

    ingest.ingest(Workspace(str(tmp_path / "ws")), str(sessions), small, losing)
    assert_lawful(tmp_path / "ws", sessions)
    lost = catalog(tmp_path / "ws")["reason"].eq(part_folders.SURVEY_FAILED)
    assert lost.sum() == 3
    said = parts.read_table(str(tmp_path / "ws"), part_folders.SURVEY_FAILURES, tables.FAILURES)
    assert set(said["uri"]) == set(lost.index[lost])
    results = run(tmp_path / "ws", sessions, small)
    assert sum(r.task.n_images for r in results) == 3
    run(tmp_path / "whole", sessions, small)
    pd.testing.assert_frame_equal(catalog(tmp_path / "ws").sort_index(), catalog(tmp_path / "whole").sort_index())


def test_forgetting_during_a_survey_that_was_killed_surveys_again(sessions, small, tmp_path):
    root = str(tmp_path)
    victim = "session 0/damaged.tif"

    def one_task(function, tasks, stage):
        for result in execute(function, tasks, stage=stage):
            yield result
            raise Killed

    with pytest.raises(Killed):
        ingest.ingest(Workspace(root), str(sessions), small, one_task)
    (name,) = parts.list_parts(root, FILES[0])
    assert victim in set(parts.read_part(root, FILES[0], name, tables.CATALOG)["uri"])
    file_catalog.forget_files(Workspace(root), [victim])
    assert [r.outcome for r in run(tmp_path, sessions, small)].count("found") == 0


def entries(n, size_bytes=1):
    """(entry, key) of n files, of `size_bytes` each."""
    made = [Entry(f"{i}.tif", f"/{i}.tif", size_bytes, i) for i in range(n)]
    return list(zip(made, map(bytes, digests.digest_texts(e.uri for e in made))))


def test_batches_grow_with_the_archive_within_their_bounds():
    made = entries(60_000)
    found = [batch for batch, _ in batches.iter_batches(made, 32)]
    assert [entry for batch in found for entry in batch] == [entry for entry, _ in made]
    sizes = [len(batch) for batch in found]
    assert sizes[:64] == [32] * 64
    assert max(sizes) <= 512
    assert np.mean(sizes[-50:-1]) > 300
    assert min(sizes[-50:-1]) >= 256
    large = [batch for batch, _ in batches.iter_batches(entries(100, batches.BATCH_BYTES // 10), 32)]
    assert [len(batch) for batch in large] == [10] * 10
    assert [len(batch) for batch, _ in batches.iter_batches(entries(3, 2 * batches.BATCH_BYTES), 32)] == [1, 1, 1]


@pytest.mark.parametrize("at", [0, 3000, 30_000])
def test_a_file_that_comes_in_between_changes_few_batches(at):
    made = entries(50_000)
    new = (Entry("new.tif", "/new.tif", 1, 1), bytes(digests.digest_texts(["new"])[0]))
    before = {tuple(keys) for _, keys in batches.iter_batches(made, 32)}
    after = {tuple(keys) for _, keys in batches.iter_batches([*made[:at], new, *made[at:]], 32)}
    assert sum(map(len, after - before)) < (4096 if at < 2048 else 2048)


def test_partitions_and_current_stream_whole_partitions(sessions, small, tmp_path, monkeypatch):
    run(tmp_path, sessions, small)
    whole = [(partition, of) for partition, of in micrograph_ledger.iter_partitions(Workspace(str(tmp_path)))]
    now = pd.concat(micrograph_ledger.iter_current(Workspace(str(tmp_path))), ignore_index=True)
    for rows in (1, 2, 5):
        monkeypatch.setattr(plan, "MICROGRAPHS_PER_BATCH", rows)
        for (partition, of), (same, columns) in zip(
            whole, micrograph_ledger.iter_partitions(Workspace(str(tmp_path)), ["uri", "frame"]), strict=True
        ):
            assert partition == same
            pd.testing.assert_frame_equal(columns.reset_index(drop=True), of[["uri", "frame"]].reset_index(drop=True))
        assert list(micrograph_ledger.list_partitions(Workspace(str(tmp_path)))) == [
            partition for partition, _ in whole
        ]
        pieces = list(micrograph_ledger.iter_current(Workspace(str(tmp_path))))
        assert not pd.concat([of["partition"].drop_duplicates() for of in pieces]).duplicated().any()
        pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), now)


def test_packed_rows_of_a_partition_are_its_rows(sessions, small, tmp_path):
    run(tmp_path, sessions, small)
    workspace = Workspace(str(tmp_path))
    for columns in (make_tables.TASK_COLUMNS, (*make_tables.TASK_COLUMNS, *make_tables.CHECK_COLUMNS)):
        packed = micrograph_ledger.iter_packed_partitions(workspace, columns)
        for (partition, rows), (same, data) in zip(
            micrograph_ledger.iter_partitions(workspace, columns), packed, strict=True
        ):
            assert partition == same
            pd.testing.assert_frame_equal(micrograph_ledger.unpack_rows(data), rows.reset_index(drop=True))


def test_nothing_is_there_before_the_first_ingest(tmp_path):
    assert list(micrograph_ledger.iter_partitions(Workspace(str(tmp_path)))) == []
    assert list(micrograph_ledger.iter_current(Workspace(str(tmp_path)))) == []
    file_catalog.forget_files(Workspace(str(tmp_path)), ["a.tif"])
    assert not files.exists(Workspace(str(tmp_path)).catalog)


def test_a_task_names_its_files_and_their_dependencies(sessions, small, tmp_path):
    def names(settings):
        workspace = Workspace(str(tmp_path))
        digest_sets = (digests.DigestSet(), digests.DigestSet())
        archive_files = archive_sources.ArchiveFiles({str(sessions): ""}, settings.archive)
        new_files = batches.iter_new_files(workspace, archive_files, settings.archive, *digest_sets)
        tasks = ingest._make_survey_tasks(workspace, new_files, settings, [])
        return [task.name for task in tasks if isinstance(task, Task)]

    assert names(small) == names(small)
    assert set(names(small)).isdisjoint(names(replace(small, {"archive": {"nm_per_pixel": 0.5}})))
    assert set(names(small)).isdisjoint(names(replace(small, {"archive": {"max_megapixels": 9.0}})))
    assert names(small) == names(replace(small, {"store": {"shard_length": 9}}))
