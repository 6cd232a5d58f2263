"""Laws of GPU workers as far as a machine without a GPU can tell: real dask-cuda, RMM, cupy and torch up to the device.

Where a law needs workers that run, dask-cuda's own switch for tests leaves out what asks the device. tests/gpu has the
rest.
"""

import multiprocessing
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from emqa_dask.backend import DeviceLost
from emqa_dask.run import cuda
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import Task, execute
from emqa_dask.run.workers import SPAWN_VARIABLES, WORKER_VARIABLES
from emqa_dask.settings import Settings, replace
from tests.waiting import wait_until

ASKED = replace(Settings(), {"run": {"scheduler": "cuda", "device": "cuda"}})
TWO = [cuda.Gpu("0", "a GPU", 16 << 30), cuda.Gpu("1", "a GPU", 16 << 30)]


@pytest.fixture
def dask_cuda():
    return pytest.importorskip("dask_cuda", reason="dask-cuda is for Linux on x86_64 and aarch64", exc_type=ImportError)


@pytest.fixture
def pynvml(dask_cuda):
    return pytest.importorskip("pynvml")


@pytest.fixture
def no_driver(pynvml):
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    pytest.skip("there is an NVIDIA driver here: nothing to refuse")


@pytest.fixture
def two_gpus(dask_cuda, monkeypatch):
    monkeypatch.setattr(cuda, "list_gpus", lambda devices: TWO)


def opened(settings, **options):
    with open_cluster(settings, **options):
        pytest.fail("there are workers, and there is no GPU")


def test_without_a_driver_it_says_so_and_what_to_do(no_driver):
    with pytest.raises(RuntimeError, match=r"the NVIDIA driver does not answer .*`nvidia-smi` has to list it"):
        opened(ASKED)


def test_without_dask_cuda_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(RuntimeError, match=r"dask-cuda cannot be imported .*pip install 'emqa_dask\[gpu\]'"):
        opened(ASKED)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("run", "device", "cpu", "set run.device = 'cuda'"),
        ("run", "workers", 3, "one worker per GPU, and 2 of those"),
    ],
)
def test_what_gpu_workers_cannot_be_is_refused(two_gpus, section, key, value, said):
    with pytest.raises(ValueError, match=said):
        opened(replace(ASKED, {section: {key: value}}))


@pytest.fixture
def driver(pynvml, monkeypatch):
    """An NVIDIA driver that knows three GPUs, by its management library's own names and errors."""
    names = ["first", "second", "third"]
    uuids = {f"GPU-{name}".encode(): k for k, name in enumerate(names)}

    def by_index(index):
        if index >= len(names):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def by_uuid(uuid):
        if uuid not in uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuids[uuid]

    def refuse_mig(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(names),
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceIsMigDeviceHandle": lambda handle: 0,
        "nvmlDeviceGetMigMode": refuse_mig,
        "nvmlDeviceGetName": lambda handle: names[handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=(handle + 1) << 30),
    }
    for name, answer in answers.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return names


@pytest.mark.parametrize(
    ("devices", "variable", "expected"),
    [
        ((), None, ["first", "second", "third"]),
        ((), "2,0", ["third", "first"]),
        ((), "GPU-second", ["second"]),
        (("1",), "2,0", ["second"]),
        (("GPU-third", "0"), None, ["third", "first"]),
    ],
)
def test_gpus_are_those_asked_for_or_visible_or_all(driver, monkeypatch, devices, variable, expected):
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    found = cuda.list_gpus(devices)
    assert [gpu.name for gpu in found] == expected
    assert [gpu.memory_bytes >> 30 for gpu in found] == [1 + driver.index(name) for name in expected]


@pytest.fixture
def sliced_driver(driver, pynvml, monkeypatch):
    """The same, whose second GPU is in MIG mode with two slices of 20 and 10 GiB in its seven places."""
    handles = {"MIG-large": (20, "1g.20gb"), "MIG-small": (10, "1g.10gb")}
    of_uuid = pynvml.nvmlDeviceGetHandleByUUID

    def by_place(handle, place):
        if place >= len(handles):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return list(handles)[place]

    answers = {
        "nvmlDeviceGetMigMode": lambda handle: [int(handle == 1)] * 2,
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": by_place,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid.decode() if uuid.startswith(b"MIG-") else of_uuid(uuid),
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceIsMigDeviceHandle": lambda handle: int(handle in handles),
        "nvmlDeviceGetName": lambda handle: handles[handle][1] if handle in handles else driver[handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
            total=(handles[handle][0] if handle in handles else 80) << 30
        ),
    }
    for name, answer in answers.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, answer)


@pytest.mark.parametrize(
    ("devices", "expected", "size"),
    [
        ((), ["0", "MIG-large", "MIG-small", "2"], 5 << 30),
        (("1",), ["MIG-large", "MIG-small"], 5 << 30),
        (("MIG-large",), ["MIG-large"], 10 << 30),
        (("0", "2"), ["0", "2"], 0.5),
    ],
)
def test_a_gpu_in_mig_mode_counts_as_its_slices(sliced_driver, devices, expected, size):
    gpus = cuda.list_gpus(devices)
    assert [gpu.device for gpu in gpus] == expected
    assert cuda.select_pool_size(gpus, 0.5) == size


@pytest.mark.parametrize(
    ("devices", "variable", "said"),
    [
        (("3",), None, "GPU 3 does not answer"),
        (("0", "GPU-none"), None, "GPU GPU-none does not answer"),
        ((), "", r"there is no GPU here \(CUDA_VISIBLE_DEVICES is ''\)"),
        ((), "-1", "GPU -1 does not answer"),
    ],
)
def test_gpus_that_are_not_there_or_hidden_are_named(driver, monkeypatch, devices, variable, said):
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with pytest.raises(RuntimeError, match=said):
        cuda.list_gpus(devices)


@pytest.mark.real
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_memory_pool_ends_the_run_with_reason(two_gpus, no_driver, monkeypatch, is_async):
    """The workers' processes start, and the first thing that fails is what RMM asks of the device."""
    import dask_cuda.local_cuda_cluster
    import dask_cuda.worker_common

    plugins = dask_cuda.local_cuda_cluster.worker_plugins
    asked = []
    monkeypatch.setattr(dask_cuda.worker_common, "get_cpu_affinity", lambda index: [0])
    monkeypatch.setattr(dask_cuda.worker_common, "has_device_memory_resource", lambda index: True)
    monkeypatch.setattr(
        dask_cuda.local_cuda_cluster, "worker_plugins", lambda **options: asked.append(options) or plugins(**options)
    )
    before = set(multiprocessing.active_children())
    settings = replace(ASKED, {"cuda": {"rmm_pool_fraction": 0.6, "rmm_async": is_async}})
    with pytest.raises(RuntimeError, match=r"GPU workers could not start \(NVMLError.*cuda.rmm_pool_fraction"):
        opened(settings)
    assert [options["device_index"] for options in asked] == [0, 1]
    for options in asked:
        assert options["rmm_allocator_external_lib_list"] == ["cupy", "torch"]
        assert options["rmm_async_alloc"] == is_async
        assert options["rmm_initial_pool_size"] == options["rmm_maximum_pool_size"] == (None if is_async else 0.6)
        assert options["rmm_release_threshold"] == (0.6 if is_async else None)
        assert not options["rmm_managed_memory"]
    wait_until(lambda: set(multiprocessing.active_children()) <= before, "the workers that could not start are gone")


def test_cupy_and_torch_both_allocate_by_rmm(dask_cuda):
    """dask-cuda's own set-up with the real packages; torch alone is told that there is a GPU."""
    program = """
import torch
torch.cuda.is_available = lambda: True
import cupy
from dask_cuda.plugins import enable_rmm_memory_for_library
from rmm.allocators.cupy import rmm_cupy_allocator
assert cupy.cuda.get_allocator() is not rmm_cupy_allocator
assert torch.cuda.memory.get_allocator_backend() == "native"
for library in ["cupy", "torch"]:
    enable_rmm_memory_for_library(library)
assert cupy.cuda.get_allocator() is rmm_cupy_allocator
assert torch.cuda.memory.get_allocator_backend() == "pluggable"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def look(dask_worker):
    return {
        "environment": dict(os.environ),
        "resources": dask_worker.state.total_resources,
        "modules": set(sys.modules),
        "pid": os.getpid(),
        "parent": os.getppid(),
    }


def lose_device(marker, call=None):
    """As after a kernel that wrote to an illegal address: the process can do nothing more with its GPU."""
    if not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write(str(os.getpid()))
        raise DeviceLost("cudaErrorIllegalAddress: an illegal memory access was encountered")
    with open(marker) as file:
        return {"lost": int(file.read()), "pid": os.getpid(), "environment": dict(os.environ)}


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_gpu_has_one_worker_also_after_device_loss(two_gpus, no_driver, monkeypatch, tmp_path):
    monkeypatch.setenv("DASK_CUDA_TEST_DISABLE_DEVICE_SPECIFIC", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    said = []
    with open_cluster(ASKED, ["json.tool"], said.append) as client:
        assert list(client.nthreads().values()) == [4, 4]
        assert said == ["GPU 0: a GPU, 16 GiB; GPU 1: a GPU, 16 GiB"]
        addresses = [client.scheduler.address, *client.nthreads(), client.dashboard_link.replace("http", "tls")]
        assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
        found = list(client.run(look).values())
        assert sorted(worker["environment"]["CUDA_VISIBLE_DEVICES"] for worker in found) == ["0,1", "1,0"]
        for worker in found:
            assert (
                worker["environment"].items()
                >= (SPAWN_VARIABLES | WORKER_VARIABLES | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).items()
            )
            assert worker["resources"] == {"GPU": 1}
            assert {"json.tool", "emqa_dask.run.workers"} <= worker["modules"]
            assert worker["parent"] == os.getpid()  # spawned: not forked from a process that may have used a GPU
        assert len({worker["pid"] for worker in found}) == 2

        results = list(
            execute(
                lose_device, [Task("p", (str(tmp_path / "marker"),))], stage="s", client=client, resources={"GPU": 1}
            )
        )
        assert [result.outcome for result in results] == ["lost", "done"]
        value = results[-1].value
        assert value["environment"].items() >= (SPAWN_VARIABLES | WORKER_VARIABLES).items()
        wait_until(lambda: len(client.nthreads()) == 2, "the worker of the lost GPU comes back")
        again = {worker["environment"]["CUDA_VISIBLE_DEVICES"]: worker["pid"] for worker in client.run(look).values()}
        assert sorted(again) == ["0,1", "1,0"]
        assert value["lost"] not in again.values()
    assert os.environ["NUMBA_NUM_THREADS"] == "7"
