"""What every settings record checks itself with."""


class SettingsError(ValueError):
    """A setting that does not exist or has a value that it cannot have."""


def require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"{key} is {value!r}: it {rule}")
