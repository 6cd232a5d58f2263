"""Executor: the interface through which commands run tasks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from emqa_dask.run.preflight import UNKNOWN_WORKLOAD, StageWorkload
from emqa_dask.run.task import Result, Task


class Executor(Protocol):
    """Runs tasks on the workers of a run, or in this process."""

    def __call__(
        self,
        function: Callable[..., dict | None],
        tasks: Iterable[Task],
        stage: str,
        total: int | None = None,
        workload: StageWorkload = UNKNOWN_WORKLOAD,
    ) -> Iterator[Result]:
        """Results of `function(*task.args, call=call)` for every task, in any order, as run.execute.execute() says.

        Progress is shown as images of `total`; None is unknown. `workload` is checked before the first task.
        """
