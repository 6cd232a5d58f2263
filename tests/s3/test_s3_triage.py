"""A triage whose archive and workspace lie in a bucket gives the tables that it gives on a disk; on a bad network too.

Slow by nature: what waits is the back-off after each fault.
"""

import collections
import re

import pandas as pd
import pytest

from emqa_dask.pipeline.commands.triage import triage_archive
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, replace
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.archive import synthesise

pytestmark = pytest.mark.real
PATHS = ["path", "modified_ns"]  # where a file lay and when it came there: another one in a bucket
SETTINGS = {
    "store": {"shard_length": 4},
    "run": {"scheduler": "in-process", "workers": 2},
    "detect": {"detectors": ["log"]},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3") / "archive"
    synthesise(folder, "demo", n=9, seed=31, shape=(128, 160))
    return folder


@pytest.fixture(scope="module")
def on_disk(archive):
    root = str(archive.with_name("ws"))
    quietly(str(archive), root, replace(Settings(), SETTINGS))
    return root


def quietly(source: str, root: str, settings: Settings) -> pd.DataFrame:
    return triage_archive(source, root, settings, say=lambda words: None)


def n_images_in(micrographs: pd.DataFrame) -> int:
    """How many files have to be fetched for the shards: one that lies in two partitions twice."""
    return len(micrographs[["uri", "partition"]].drop_duplicates())


def upload(archive, bucket: str, port: int) -> str:
    """Copy `archive` into the bucket, past the proxy."""
    boto3 = pytest.importorskip("boto3", reason="moto is not installed: pip install -e '.[dev,s3]'")
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    for path in sorted(p for p in archive.rglob("*") if p.is_file()):
        client.put_object(Bucket=bucket[5:], Key=f"data/{path.relative_to(archive)}", Body=path.read_bytes())
    return f"{bucket}/data"


def tables_of(root: str, settings: Settings) -> dict[str, pd.DataFrame]:
    """All tables of a workspace, their rows in an order of their own."""
    where = list_run_folders(settings)
    made = {name: parts.read_table(root, where[name], schema) for name, schema in SCHEMAS.items() if name in where}
    for uri in (
        Workspace(root).triage,
        Workspace(root).catalog,
        Workspace(root).micrographs,
        Workspace(root).flags,
    ):
        fs, path = files.locate(uri)
        with fs.open(path, "rb") as stream:
            made[uri.rpartition("/")[2]] = pd.read_parquet(stream)
    kept = {name: rows.drop(columns=PATHS, errors="ignore") for name, rows in made.items()}
    return {name: rows.iloc[rows.map(repr).apply("|".join, axis=1).argsort()] for name, rows in kept.items()}


def assert_same_tables(root: str, on_disk: str, settings: Settings) -> None:
    found = tables_of(root, settings)
    expected = tables_of(on_disk, settings)
    assert list(found) == list(expected)
    for name, rows in expected.items():
        assert len(rows) or name == "flags.parquet", name
        pd.testing.assert_frame_equal(
            found[name].reset_index(drop=True), rows.reset_index(drop=True), check_exact=True, obj=name
        )
    csv = files.read_bytes(Workspace(root).triage_csv)
    assert csv == files.read_bytes(Workspace(on_disk).triage_csv)


@pytest.mark.parametrize("scheduler", ["in-process", "local"])
def test_tables_on_a_faulty_bucket_equal_those_on_disk(faulty, s3_port, archive, on_disk, scheduler):
    bucket, proxy = faulty
    source = upload(archive, bucket, s3_port)
    settings = replace(Settings(), SETTINGS | {"run": {"scheduler": scheduler, "workers": 2}})
    quietly(source, f"{bucket}/ws", settings)
    met = collections.Counter(request.fault for request in proxy.requests)
    print(f"{scheduler}: {dict(met)}")
    assert sum(met.values()) - met[""] >= 10
    assert met["stall"]
    proxy.fail_rate = proxy.stall_rate = 0.0
    assert_same_tables(f"{bucket}/ws", on_disk, settings)
    assert "lock.json" not in files.list_names(f"{bucket}/ws")


def test_requests_are_few_and_none_is_made_for_nothing(healthy, s3_port, archive, on_disk):
    bucket, proxy = healthy
    source = upload(archive, bucket, s3_port)
    settings = replace(Settings(), SETTINGS)
    quietly(source, f"{bucket}/ws", settings)
    counts: collections.Counter = collections.Counter()
    # The holder of the lock looks at it and beats by time, so that a slow machine has more of these requests.
    requests = [request for request in proxy.requests if not re.search(r"/\.beat-|/lock\b", request.path)]
    for request in requests:
        path = request.path.partition("?")
        kind = "list" if "list-type" in path[2] else request.method.lower()
        place = path[0].removeprefix(f"/{bucket[5:]}").strip("/")
        place = re.sub(r"-[0-9a-f]{8}/", "-*/", place)
        counts[kind, "archive" if place.startswith("data") or "prefix=data" in path[2] else place or path[2][-60:]] += 1
    micrographs = pd.read_parquet(Workspace(on_disk).micrographs)
    n_files = len(pd.read_parquet(Workspace(on_disk).catalog))
    n_images = len(micrographs)
    n_partitions = micrographs["partition"].nunique()
    for (kind, place), n in sorted(counts.items(), key=lambda item: -item[1])[:25]:
        print(f"{n:5d} {kind:5s} {place}")
    print(f"{len(requests)} requests for {n_files} files, {n_images} images, {n_partitions} partitions")
    of_archive = {kind: n for (kind, place), n in counts.items() if place == "archive"}
    # Listed to see that there is something, and for the survey; each file fetched for the survey, and for its shard.
    assert of_archive == {"list": 2, "get": n_files + n_images_in(micrographs)}
    puts = [place for kind, place in counts if kind == "put"]
    assert sum("/c/" in place for place in puts) == n_partitions
    assert all(counts["put", place] == 1 for place in puts if place.endswith(".parquet") and "survey" not in place)
    # Of 14 tables, each looked for, written, and read by the stages behind it, the report and the pages of images,
    # whose index lists the tables once more.
    assert len(requests) <= sum(of_archive.values()) + 54 * n_partitions + 180
    assert_same_tables(f"{bucket}/ws", on_disk, settings)
