"""Utilisation of a GPU: absent where none was measured, and weighted by the time of tasks."""

import math
import threading

import pytest

from emqa_dask.pipeline.workspace.journal import GpuTime
from emqa_dask.run.execute import Task, execute
from emqa_dask.run.gpu_utilisation import GpuUtilisation


def count_threads(call) -> dict:
    return {"names": [thread.name for thread in threading.enumerate()]}


def test_without_a_driver_nothing_is_measured():
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
        pytest.skip("an NVIDIA driver answers here")
    except pynvml.NVMLError:
        pass
    with GpuUtilisation() as utilisation:
        pass
    assert utilisation.samples == []
    assert math.isnan(utilisation.compute_mean())


def test_tasks_of_a_cpu_start_no_sampling():
    (result,) = execute(count_threads, [Task("a")], stage="s")
    assert "emqa-nvml" not in result.value["names"]
    assert math.isnan(result.event["gpu_percent"])


def test_means_are_of_samples_in_time_and_weighted_by_tasks():
    utilisation = GpuUtilisation(is_sampled=False)
    utilisation.samples = [(1.0, 10.0), (2.0, 40.0), (3.0, 60.0)]
    assert utilisation.compute_mean(2.0, 3.0) == 50.0
    # By hand: 3 s at 80 % and 1 s at 40 % are 2.8 busy seconds of 4; the task without a figure does not count.
    gpu_time = GpuTime().add([3.0, 1.0, 9.0], [80.0, 40.0, math.nan])
    assert gpu_time.compute_percent() == 70.0
    assert GpuTime().add([9.0], [math.nan]).compute_percent() is None
