"""A thread beside the network, which prepares the next batch and finishes the previous one."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def make_submit(device: str) -> Iterator[Callable[..., Future]]:
    """submit(): in a thread beside the network where there is a core for it, else at once."""
    import torch

    if device == "cpu" and torch.get_num_threads() == 1:
        yield _run_at_once
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit


def _run_at_once(function: Callable, *args) -> Future:
    future = Future()
    future.set_result(function(*args))
    return future
