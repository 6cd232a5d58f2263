"""Ranges of numbers that users give, in settings and as options, and checks that name the option and its range."""

import math
from dataclasses import dataclass

MAX_SEED = 2**32 - 1  # largest seed that numpy, torch and scikit-learn all accept
MAX_COUNT = 10**9  # more steps, images or evaluations than any run can finish


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, with or without each end; `or_zero` adds 0 as a value with a meaning of its own."""

    low: float
    high: float
    or_zero: bool = False
    includes_low: bool = True
    includes_high: bool = True

    def contains(self, value: float) -> bool:
        """Whether `value` is in the range; False for NaN."""
        if self.or_zero and value == 0:
            return True
        is_above = self.low <= value if self.includes_low else self.low < value
        is_below = value <= self.high if self.includes_high else value < self.high
        return is_above and is_below

    def __str__(self) -> str:
        return f"{'0 or ' * self.or_zero}in {self.low:,.12g}...{self.high:,.12g}"


def check_integer(name: str, value: object, low: int, high: int = MAX_COUNT) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    rule = f"a whole number from {low:,} to {high:,}"
    _check(name, value, isinstance(value, int), Range(low, high), rule)


def check_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless `value` is a finite number above `low` and at most `high`."""
    is_finite = isinstance(value, int | float) and math.isfinite(value)
    limit = f" and at most {high:g}" if math.isfinite(high) else ""
    _check(name, value, is_finite, Range(low, high, includes_low=False), f"a number above {low:g}{limit}")


def check_fraction(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a number from 0 to below 1."""
    rule = "a fraction from 0 to below 1"
    _check(name, value, isinstance(value, int | float), Range(0, 1, includes_high=False), rule)


def check_seed(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a seed that every library accepts."""
    check_integer(name, value, 0, MAX_SEED)


def _check(name: str, value: object, is_number: bool, limits: Range, rule: str) -> None:
    is_valid = is_number and not isinstance(value, bool) and limits.contains(value)  # type: ignore[arg-type]
    if not is_valid:
        raise ValueError(f"{name} is {value!r}: it has to be {rule}")
