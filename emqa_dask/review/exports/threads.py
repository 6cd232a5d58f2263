"""Texts of batches, made by several threads while the next batches are read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

N_THREADS = 4  # that make texts, which takes two to four times as long as reading; Arrow and numba let others run
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `function` in the order of `items`, of which at most N_THREADS + 1 are in memory."""
    futures: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(N_THREADS) as pool:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > N_THREADS:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
