"""Options of emqa watch: how an archive is watched."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WatchOptions:
    """How an archive is watched; all times in s."""

    every_s: float = 0.5  # between looks at the archive
    settle_s: float = 1.0  # that a file's size and date have to stay the same
    report_every_s: float = 60.0  # between reports, while there are new files
    gap_s: float = 1800.0  # without images, which ends a session
    false_alarms: float = 0.01  # probability of an alarm in a session without drift
    webhook: str = ""  # URL that alarms are sent to
    is_json: bool = False  # verdicts and alarms as lines of JSON

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        for name in ("every_s", "settle_s", "report_every_s", "gap_s"):
            if not 0 < getattr(self, name) < 1e8:
                raise ValueError(f"{name.removesuffix('_s')} {getattr(self, name):g}: give a number of seconds above 0")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms {self.false_alarms:g}: give a probability between 0 and 1")
