"""On a GPU: a partition whose images are uploaded once has the tables of a CPU, also beside other tasks."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from emqa_dask import device_batches
from tests.pipeline.test_device_step import (
    N_IMAGES,
    SHAPE,
    assert_equal_rows,
    make_settings,
    measure,
    stored,  # noqa: F401 (a fixture)
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_partitions_on_a_gpu_have_the_tables_of_a_cpu(stored, monkeypatch, n_tasks):  # noqa: F811
    expected, _ = measure(stored, make_settings("cpu"))
    uploads = []
    to_device = device_batches.to_device
    monkeypatch.setattr(
        device_batches, "to_device", lambda array, device: uploads.append(array.shape) or to_device(array, device)
    )
    with ThreadPoolExecutor(n_tasks) as executor:
        tasks = [executor.submit(measure, stored, make_settings("cuda")) for _ in range(n_tasks)]
        results = [task.result() for task in tasks]
    for rows, seconds in results:
        assert_equal_rows(rows, expected, rings_tolerance=1e-4)
        assert "device" in seconds
    assert uploads == [(N_IMAGES, *SHAPE)] * n_tasks
