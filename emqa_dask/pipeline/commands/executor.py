"""The executor of a run: it starts the workers at the first task, checks them, and records every result."""

import errno
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from emqa_dask.pipeline import PRELOAD
from emqa_dask.run import preflight
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.devices import share_gpu
from emqa_dask.run.execute import execute
from emqa_dask.run.preflight import UNKNOWN_WORKLOAD, StageWorkload
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import Limits, Result, Task
from emqa_dask.run.waiting import make_wait_message
from emqa_dask.settings import Settings

GIB = 2**30
CPU_STAGES = ("survey", "collect", "decide")  # that need no GPU


class RunExecutor:
    """Executor of a run: runs tasks on its workers, or in this process."""

    def __init__(
        self,
        root: str,
        settings: Settings,
        record: Callable[[Result], None],
        say: Callable[[str], None],
        stack: ExitStack,
        *,
        has_workers: bool,
        is_watching: bool = False,
    ):
        """`stack` closes the workers; `record` gets every result. Without workers, tasks run in this process.

        `is_watching`: many small batches follow one another; workers are verified once, and no progress is shown.
        """
        self._root = root
        self._settings = settings
        self.record = record
        self._say = say
        self._stack = stack
        self._has_workers = has_workers
        self._is_watching = is_watching
        self._is_verified = False
        self._client: Any = None  # Dask client, after workers were started

    def __call__(
        self,
        function: Callable,
        tasks: Iterable[Task],
        stage: str,
        total: int | None = None,
        workload: StageWorkload = UNKNOWN_WORKLOAD,
    ) -> Iterator[Result]:
        """Results of `function` on `tasks` as they finish. `preflight.check_workers` verifies `workload` first."""
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        client = self._open_client()
        if not (self._is_watching and self._is_verified):
            preflight.check_workers(client, self._settings, workload, root=self._root, say=self._say)
            self._is_verified = True
        results = execute(
            function,
            itertools.chain([first], tasks),
            stage=stage,
            client=client,
            tasks_per_worker=self._settings.run.tasks_per_worker,
            limits=Limits(self._settings.run.timeout_s, int(self._settings.run.memory_gib * GIB)),
            resources=share_gpu(self._settings.run) if stage not in CPU_STAGES else None,
        )
        unit = "files" if stage == "survey" else "images"
        if not self._is_watching:
            results = show_progress(results, stage, total, unit=unit, waits_for=make_wait_message(client))
        for result in results:
            self.record(result)
            _check_disk(result)
            if result.outcome != "lost":
                yield result

    @property
    def is_quick(self) -> bool:
        """Whether workers have started, or start within seconds: others may wait in a queue."""
        return self._client is not None or (self._has_workers and self._settings.run.scheduler == "local")

    def _open_client(self):
        """The client of the workers, which start at the first call; None without workers."""
        if self._client is None and self._has_workers:
            self._client = self._stack.enter_context(open_cluster(self._settings, PRELOAD, self._say))
            n_workers = len(self._client.nthreads())
            self._say(f"{n_workers} workers; dashboard: {self._client.dashboard_link}")
        return self._client


def _check_disk(result: Result) -> None:
    """Raises OSError when the disk is full, because all other tasks would fail, too."""
    if f"[Errno {errno.ENOSPC}]" in result.error:
        raise OSError(
            errno.ENOSPC,
            "no space left on the disk; what is finished is kept, so free some space and run the same command again",
            result.task.args[0],
        )
