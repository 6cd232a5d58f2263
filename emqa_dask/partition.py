"""Partition: the stretch of a stack that is one shard, one task and one part file; cut() makes them."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Partition:
    """Micrographs `start` to `stop` (half-open) of `stack`; its name never changes once it has been written."""

    stack: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.stack}-{self.start:08d}"

    def __len__(self) -> int:
        return self.stop - self.start


def cut(stack: str, n_present: int, n_new: int, shard_length: int) -> list[Partition]:
    """Partitions for `n_new` micrographs behind the `n_present` slots of a stack, never extending a shard.

    A stack grows from the next shard boundary, so that a shard that was written is never touched again.
    """
    if shard_length < 1:
        raise ValueError(f"shard_length is {shard_length}: it has to be at least 1")
    first = -(-n_present // shard_length) * shard_length
    stop = first + n_new
    return [Partition(stack, a, min(a + shard_length, stop)) for a in range(first, stop, shard_length)]
