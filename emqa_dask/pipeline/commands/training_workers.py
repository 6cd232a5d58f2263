"""The workers of a training: they execute its tasks, or this process does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from emqa_dask.backend import to_device
from emqa_dask.pipeline import PRELOAD
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import IN_PROCESS, Limits, Result, Task
from emqa_dask.settings import Settings

TRAINING_PRELOAD = (*PRELOAD, "emqa_dask.pipeline.commands.train_ensemble")


@dataclass(frozen=True)
class Workers:
    """Executes tasks on the workers of a Dask client, or in this process without one."""

    client: Any  # distributed.Client or None
    device: str

    def execute(self, function: Callable, tasks: list[Task]) -> Iterator[Result]:
        """Results of `function` for each task, in the order in which they finish."""
        resources = {"GPU": 1} if self.device == "cuda" else None
        return execute(
            function,
            tasks,
            stage="train",
            client=self.client,
            tasks_per_worker=1,
            limits=Limits(),
            resources=resources,
        )

    def compute_all(self, function: Callable, arguments: list[tuple], title: str) -> list[dict]:
        """Values of `function` for each of `arguments`, in their order; RuntimeError where it fails for one."""
        tasks = [Task(f"{k:06d}", args, 1) for k, args in enumerate(arguments)]
        values = {}
        for result in show_progress(self.execute(function, tasks), title, len(tasks), unit="batches"):
            if result.outcome == "failed":
                raise RuntimeError(f"{title}: {result.error}")
            if result.outcome == "done":
                values[result.task.name] = result.value
        return [values[task.name] for task in tasks]

    @property
    def count(self) -> int:
        """How many tasks run at once."""
        return 1 if self.client is None else len(self.client.nthreads())


@contextmanager
def open_workers(settings: Settings, say: Callable[[str], None]) -> Iterator[Workers]:
    """The workers of `settings.run`, which end with the block."""
    device = settings.run.device
    if settings.run.scheduler == IN_PROCESS:
        to_device(np.zeros(1), device)
    with open_cluster(settings, TRAINING_PRELOAD, say) as client:
        if client is not None:
            say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")
        yield Workers(client, device)
