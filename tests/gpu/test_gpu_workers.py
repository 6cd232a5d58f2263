"""On a GPU: its worker has one pool for cupy and torch, survives lost devices and full memory, and triages as a CPU."""

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import emqa_dask
from emqa_dask.backend import guard_device, run_in_batches
from emqa_dask.detect import candidates, log
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.cuda import list_gpus
from emqa_dask.run.execute import Task, execute
from emqa_dask.run.workers import GPU_VARIABLES, make_gpu_worker_arguments
from emqa_dask.settings import Settings, replace

pytestmark = [pytest.mark.gpu, pytest.mark.real]

MIB = 1 << 20
POOL = 0.1  # of the GPU's memory


def asked(**cuda):
    run = {"scheduler": "cuda", "workers": 1}
    return replace(Settings(), {"run": run | {"device": "cuda"}, "cuda": {"rmm_pool_fraction": POOL} | cuda})


@pytest.fixture(scope="module")
def client():
    with open_cluster(asked()) as opened:
        yield opened


def allocated():
    """What RMM counts while cupy and then torch hold 8 MiB each, and the names of the allocators."""
    import cupy
    import rmm
    import torch

    resource = rmm.mr.get_current_device_resource()
    counting = rmm.mr.StatisticsResourceAdaptor(resource)
    rmm.mr.set_current_device_resource(counting)
    try:
        by_cupy = cupy.zeros(8 * MIB, cupy.uint8)
        after_cupy = counting.allocation_counts.current_bytes
        by_torch = torch.zeros(8 * MIB, dtype=torch.uint8, device="cuda")
        after_torch = counting.allocation_counts.current_bytes
        total = int(by_cupy.sum()) + int(by_torch.sum())
        del by_cupy, by_torch
    finally:
        rmm.mr.set_current_device_resource(resource)
    return {
        "resource": type(resource).__name__,
        "torch": torch.cuda.memory.get_allocator_backend(),
        "cupy_bytes": after_cupy,
        "torch_bytes": after_torch - after_cupy,
        "sum": total,
        "free_bytes": torch.cuda.mem_get_info()[0],
    }


def test_cupy_and_torch_allocate_from_one_pool(client):
    total = list_gpus()[0].memory_bytes
    (found,) = client.run(allocated).values()
    assert found["resource"] == "PoolMemoryResource"
    assert found["torch"] == "pluggable"
    assert 8 * MIB <= found["cupy_bytes"] < 10 * MIB
    assert 8 * MIB <= found["torch_bytes"] < 10 * MIB
    assert found["sum"] == 0
    assert found["free_bytes"] <= (1 - POOL) * total


def test_the_drivers_own_pool_can_take_its_place():
    with open_cluster(asked(rmm_async=True)) as client:
        (found,) = client.run(allocated).values()
    assert found["resource"] == "CudaAsyncMemoryResource"
    assert found["torch_bytes"] >= 8 * MIB


def fill(library, n_bytes, n_items, call=None):
    """Batches that take `n_bytes` for each item; the sizes that were tried and the numbers that came back."""
    sizes = []

    def function(batch):
        sizes.append(len(batch))
        if library == "cupy":
            import cupy

            there = cupy.zeros((len(batch), n_bytes), cupy.uint8)
            there[:, 0] = cupy.asarray(batch, cupy.uint8)
        else:
            import torch

            there = torch.zeros((len(batch), n_bytes), dtype=torch.uint8, device="cuda")
            there[:, 0] = torch.tensor(batch, dtype=torch.uint8)
        return there[:, 0].tolist()

    return {"found": list(run_in_batches(function, range(n_items), n_items)), "sizes": sizes}


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_out_of_memory_halves_the_batch_and_goes_on(client, library):
    n_bytes = int(POOL * list_gpus()[0].memory_bytes / 5)  # so that 4 fit, and neither 16 nor 8
    (result,) = execute(fill, [Task("t", (library, n_bytes, 16))], stage="s", client=client, resources={"GPU": 1})
    assert result.outcome == "done", result.traceback
    assert result.value["found"] == list(range(16))
    assert result.value["sizes"][:3] == [16, 8, 4]


def multiply(seconds, call=None):
    """Keeps the GPU busy for some seconds."""
    import cupy

    matrix = cupy.ones((2048, 2048), cupy.float32)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        cupy.matmul(matrix, matrix)
        cupy.cuda.runtime.deviceSynchronize()


def test_utilisation_is_measured_of_tasks_on_the_gpu_alone(client):
    if list_gpus()[0].is_slice:
        pytest.skip("NVML has no utilisation of a slice of a GPU")
    (result,) = execute(multiply, [Task("a", (3.0,))], stage="s", client=client, resources={"GPU": 1})
    assert 20 < result.event["gpu_percent"] <= 100
    (result,) = execute(multiply, [Task("a", (0.1,))], stage="s", client=client)
    assert np.isnan(result.event["gpu_percent"])


ILLEGAL = 'extern "C" __global__ void wild(int* p) { p[threadIdx.x] = 1; }'


def work(n, marker, call=None):
    """The sum of 0...999 on the GPU; the first to come to task 1 breaks the GPU's context for its process."""
    import cupy

    with guard_device():
        if n == 1 and not os.path.exists(marker):
            with open(marker, "w") as file:
                file.write(str(os.getpid()))
            cupy.RawKernel(ILLEGAL, "wild")((1,), (32,), (np.uintp(0x10),))
            cupy.cuda.runtime.deviceSynchronize()
        return {"sum": int(cupy.arange(1000).sum()), "pid": os.getpid()}


def test_a_sticky_error_costs_the_worker_and_no_task(client, tmp_path):
    tasks = [Task(str(n), (n, str(tmp_path / "marker"))) for n in range(6)]
    results = list(execute(work, tasks, stage="s", client=client, resources={"GPU": 1}))
    lost = [result for result in results if result.outcome == "lost"]
    assert any("an illegal memory access was encountered" in result.error for result in lost)
    done = {result.task.name: result.value for result in results if result.outcome == "done"}
    assert sorted(done) == [str(n) for n in range(6)]
    assert {value["sum"] for value in done.values()} == {499500}
    assert done["1"]["pid"] != int((tmp_path / "marker").read_text())


def test_requests_beyond_free_gpu_memory_fail_at_once(client):
    """The pool of `client` is taken; nine tenths and more are not there any more."""
    started = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=r"GPU workers could not start \(MemoryError.*cuda.rmm_pool_fraction"),
        open_cluster(asked(rmm_pool_fraction=1.0)),
    ):
        pass
    assert time.monotonic() - started < 300


def test_a_gpu_triage_equals_the_exact_cpu_path(small_archive, tmp_path, monkeypatch):
    there = emqa_dask.triage_archive(str(small_archive), str(tmp_path / "gpu"), asked(), say=lambda text: None)
    settings = replace(asked(), {"run": {"scheduler": "in-process", "workers": 0}})
    for module in (candidates, log):
        monkeypatch.setattr(module, "to_device", lambda array, device: array)
    here = emqa_dask.triage_archive(str(small_archive), str(tmp_path / "cpu"), settings, say=lambda text: None)
    assert set(here["verdict"]) > {"unknown"}
    by = ["uri", "frame"]
    here, there = (rows.sort_values(by, ignore_index=True).drop(columns="explanation") for rows in (here, there))
    pd.testing.assert_frame_equal(here, there, rtol=1e-3)


@contextlib.contextmanager
def start_gpu_workers(scheduler_file, n):
    """A scheduler and `n` workers of dask-cuda that share the first GPU, each with a tenth of its memory."""
    file_options = ["--scheduler-file", str(scheduler_file), "--host", "127.0.0.1", "--no-dashboard"]
    worker = ["dask_cuda.cli", "worker", *file_options, "--nthreads", "1", *make_gpu_worker_arguments(asked())]
    commands = [["dask", "scheduler", "--port", "0", *file_options], *[worker] * n]
    env = os.environ | GPU_VARIABLES | {"CUDA_VISIBLE_DEVICES": list_gpus()[0].device}
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(subprocess.Popen([sys.executable, "-m", *command], env=env))
            stack.callback(process.terminate)
        yield


def test_two_workers_on_one_gpu_give_the_same_tables(small_archive, tmp_path):
    settings = asked()
    alone = emqa_dask.triage_archive(str(small_archive), str(tmp_path / "one"), settings, say=lambda text: None)
    path = tmp_path / "scheduler.json"
    shared = replace(settings, {"run": {"scheduler": f"file:{path}", "workers": 0}})
    with start_gpu_workers(path, 2):
        with open_cluster(shared) as client:
            client.wait_for_workers(2, timeout=120)
            (used,) = {variables["CUDA_VISIBLE_DEVICES"] for variables in client.run(lambda: dict(os.environ)).values()}
            assert used == list_gpus()[0].device
        both = emqa_dask.triage_archive(str(small_archive), str(tmp_path / "two"), shared, say=lambda text: None)
    events = pd.read_parquet(tmp_path / "two" / "events.parquet")
    assert events.loc[events["stage"] == "detect", "worker"].nunique() == 2
    by = ["uri", "frame"]
    alone, both = (rows.sort_values(by, ignore_index=True) for rows in (alone, both))
    pd.testing.assert_frame_equal(alone, both, rtol=1e-3)
