"""Partition: the stretch of a stack that is one shard, one task and one part file."""

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
