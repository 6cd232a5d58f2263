"""Laws of the look before a run: what workers lack is said at once, all of it; a run that can be done is let go."""

import os

import pytest
from distributed import LocalCluster

from emqa_dask.run import preflight
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.devices import check_devices
from emqa_dask.run.preflight import UNKNOWN_WORKLOAD, StageWorkload
from emqa_dask.settings import Detect, Run, Settings, replace
from emqa_dask.settings.schedulers import BATCH_SYSTEMS

GIB = 2**30


@pytest.mark.real
def test_a_feasible_run_passes_and_leaves_no_files(client, tmp_path):
    root = tmp_path / "a [new] workspace"
    said = []
    workload = StageWorkload(partition_bytes=GIB // 4, output_bytes=GIB // 8, image_px=1 << 20)
    preflight.check_workers(client, Settings(), workload, root=str(root), say=said.append)
    assert list(root.iterdir()) == []
    assert said == []


def test_without_workers_the_disk_is_looked_at(tmp_path):
    preflight.check_workers(None, Settings(), UNKNOWN_WORKLOAD, root=str(tmp_path))
    with pytest.raises(RuntimeError, match=r"GiB free, and the run writes about 1,048,576\.0 GiB: free some space"):
        preflight.check_workers(
            None, Settings(), StageWorkload(output_bytes=GIB << 20), root=str(tmp_path / "not there")
        )
    preflight.check_workers(None, Settings(), StageWorkload(output_bytes=GIB << 20), root="memory://bucket/run")


@pytest.mark.real
def test_all_findings_are_said_at_once(client, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError) as found:
        preflight.check_workers(
            client, Settings(run=Run(device="cuda")), StageWorkload(output_bytes=GIB << 20, image_px=1 << 40),
            root=str(tmp_path / "file" / "workspace"),
        )  # fmt: skip
    text = str(found.value)
    expected = ("GiB free", "none of 2 workers offers a GPU", "2 of 2 workers have too little memory", "cannot be writ")
    assert [mark in text for mark in expected] == [True] * 4
    assert text.startswith("nothing was started: (1) ")
    assert "(4)" in text


@pytest.mark.real
def test_a_worker_that_offers_a_gpu_is_enough(tmp_path):
    settings = Settings(run=Run(device="cuda"))
    options = {"n_workers": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(resources={"GPU": 1}, **options) as cluster, cluster.get_client() as client:
        preflight.check_workers(client, settings, UNKNOWN_WORKLOAD, root=str(tmp_path))


@pytest.mark.real
def test_a_relative_workspace_exists_in_its_directory_only(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"workspace run: tls://.* does not see what .*: give an absolute path"):
        preflight.check_workers(client, Settings(), UNKNOWN_WORKLOAD, root="run")


def test_workers_that_cannot_write_are_named_with_their_error():
    failed = PermissionError(13, "Permission denied")
    (text,) = preflight.describe_access_failures({"tcp://a": failed, "tcp://b": "", "tcp://c": failed}, "/archive")
    assert text.startswith("workspace /archive: tcp://a, tcp://c cannot write to it (PermissionError: [Errno 13]")


def test_versions_are_compared_as_far_as_they_matter(monkeypatch):
    here = {"python": "3.11", "emqa_dask": "1.0.0", "dask": "2026.8.0", "numpy": "2.4"}
    monkeypatch.setattr(preflight, "read_versions", lambda: here)
    places = {f"tcp://{n}": dict(here) for n in range(6)}
    assert preflight.compare_versions(places, {"the scheduler": here}) == []
    for n in range(5):
        places[f"tcp://{n}"]["numpy"] = "1.26"
    del places["tcp://5"]["dask"]
    found = preflight.compare_versions(places, {"the scheduler": ModuleNotFoundError("No module named 'emqa_dask'")})
    assert found == [
        "the scheduler cannot run what tasks need (ModuleNotFoundError: No module named 'emqa_dask'): install this "
        "emqa_dask there",
        "numpy is 1.26 on tcp://0, tcp://1, tcp://2 and 2 more and 2.4 here: install the same",
        "dask is missing on tcp://5 and 2026.8.0 here: install the same",
    ]


def test_versions_are_those_of_what_is_installed():
    found = preflight.read_versions()
    assert set(found) == {"python", *preflight.SAME_VERSION, *preflight.SAME_MINOR_VERSION}
    assert found["numpy"].count(".") == 1


@pytest.mark.parametrize(
    ("limit_gib", "n_threads", "is_enough"), [(2, 1, True), (2, 2, False), (4, 2, True), (0, 9, 1)]
)
def test_memory_counts_one_image_per_worker_thread(limit_gib, n_threads, is_enough):
    need = preflight.estimate_memory_bytes(0, 4096 * 4096)
    worker = {"memory_limit": limit_gib * GIB, "nthreads": n_threads}
    assert (preflight.find_small_memory({"tcp://a": worker}, need) == []) == is_enough


def test_memory_grows_with_image_size_and_bucket_shards():
    sizes = [preflight.estimate_memory_bytes(GIB, side * side) for side in (0, 1024, 2048, 4096)]
    assert sizes == sorted(set(sizes))
    in_strips = preflight.estimate_memory_bytes(GIB, 8192 * 8192)
    assert in_strips < sizes[-1] * 2
    assert preflight.estimate_memory_bytes(GIB, 1024 * 1024, is_bucket=True) == sizes[1] + GIB
    networks = [
        preflight.estimate_memory_bytes(0, side * side, has_networks=True) for side in (1024, 2048, 8192, 16384)
    ]
    assert networks == sorted(networks)
    assert networks[0] > sizes[1] - GIB + 1.4e9


@pytest.mark.real
def test_a_worker_with_too_little_memory_is_found(tmp_path):
    settings = Settings(detect=Detect(detectors=("log",)))
    with (
        open_cluster(Settings(run=Run(workers=1, memory_gib=0.75))) as client,
        pytest.raises(RuntimeError, match=r"1 of 1 workers have too little memory: 0\.8 GiB.*takes 1\.7: set run\.mem"),
    ):
        preflight.check_workers(client, settings, StageWorkload(image_px=4096 * 4096), root=str(tmp_path))


def test_secrets_are_not_said():
    (text,) = preflight.describe_access_failures(
        {"tcp://a": OSError("no https://me:hunter2@host/x")}, "s3://bucket/run"
    )
    assert "hunter2" not in text
    assert os.environ.get("HOME", "/root") not in text


@pytest.mark.parametrize(
    ("scheduler", "changes", "said"),
    [
        ("cuda", {"run": {"device": "cpu"}}, "GPU workers would idle .*set run.device = 'cuda'"),
        ("slurm", {"slurm": {"gpus_per_job": 2}}, r"would idle \(slurm.gpus_per_job\)"),
        ("kubernetes", {"kubernetes": {"gpus_per_worker": 1}}, r"would idle \(kubernetes.gpus_per_worker\)"),
        ("pbs", {"run": {"device": "cuda"}}, "'pbs' have no GPU: set pbs.gpus_per_job"),
        ("kubernetes", {"run": {"device": "cuda"}}, "have no GPU: set kubernetes.gpus_per_worker"),
        ("local", {"run": {"device": "cuda"}}, "have no GPU: set run.scheduler = 'cuda'"),
    ],
)
def test_gpus_that_would_idle_or_lack_are_refused(scheduler, changes, said):
    settings = replace(replace(Settings(), {"run": {"scheduler": scheduler}}), changes)
    with pytest.raises(ValueError, match=said):
        open_cluster(settings).__enter__()


@pytest.mark.parametrize(
    ("scheduler", "changes"),
    [
        ("cuda", {"run": {"device": "cuda"}}),
        ("lsf", {"run": {"device": "cuda"}, "lsf": {"gpus_per_job": 1}}),
        ("slurm", {}),
        ("tcp://10.0.0.1:8786", {"run": {"device": "cuda"}}),
        ("kubernetes", {"run": {"device": "cuda"}, "kubernetes": {"cluster": "theirs"}}),
    ],
)
def test_devices_that_fit_the_workers_are_taken(scheduler, changes):
    check_devices(replace(replace(Settings(), {"run": {"scheduler": scheduler}}), changes))


@pytest.mark.parametrize("scheduler", BATCH_SYSTEMS)
def test_batch_systems_refuse_idle_and_missing_gpus(scheduler):
    settings = replace(Settings(), {"run": {"scheduler": scheduler}, scheduler: {"gpus_per_job": 1}})
    with pytest.raises(ValueError, match=rf"would idle \({scheduler}.gpus_per_job\): set run.device = 'cuda'"):
        check_devices(settings)
    settings = replace(Settings(), {"run": {"scheduler": scheduler, "device": "cuda"}})
    with pytest.raises(ValueError, match=f"have no GPU: set {scheduler}.gpus_per_job"):
        check_devices(settings)


def list_workers(n_gpus, n_others):
    resources = [{"GPU": 1}] * n_gpus + [{}] * n_others
    return {f"tcp://{k}": {"resources": of_worker} for k, of_worker in enumerate(resources)}


@pytest.mark.parametrize(
    ("device", "n_gpus", "n_others", "finding", "note"),
    [
        ("cpu", 0, 2, "", ""),
        ("cpu", 2, 0, "all 2 workers offer a GPU, which would idle: set run.device = 'cuda'", ""),
        ("cpu", 1, 2, "", "1 of 3 workers offer a GPU, which run.device = 'cpu' does not use"),
        ("cuda", 2, 0, "", ""),
        ("cuda", 0, 2, "none of 2 workers offers a GPU: start them by `dask cuda worker", ""),
        ("cuda", 1, 2, "", "2 of 3 workers offer no GPU and take no images"),
    ],
)
def test_workers_of_others_fit_the_device(device, n_gpus, n_others, finding, note):
    settings = replace(Settings(), {"run": {"scheduler": "tcp://10.0.0.1:8786", "device": device}})
    workers = list_workers(n_gpus, n_others)
    findings = preflight.find_missing_gpus(workers, settings) + preflight.find_idle_gpus(workers, settings)
    assert len(findings) == bool(finding)
    assert all(finding in text for text in findings)
    text = preflight.describe_idle_workers(workers, settings)
    assert text.startswith(note)
    assert bool(text) == bool(note)


@pytest.mark.real
def test_a_scheduler_of_gpu_workers_refuses_the_cpu(tmp_path):
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, resources={"GPU": 1}, dashboard_address="127.0.0.1:0"
        ) as cluster,
        open_cluster(Settings(run=Run(scheduler=cluster.scheduler_address))) as client,
        pytest.raises(RuntimeError, match=r"all 1 workers offer a GPU, which would idle: set run\.device = 'cuda'"),
    ):
        preflight.check_workers(client, Settings(), StageWorkload(), root=str(tmp_path))
