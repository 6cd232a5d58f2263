"""Settings of `local` that this machine cannot have, refused before any worker is started."""

import socket

from emqa_dask.settings import Settings, SettingsError

# processes that one machine bears, also where most wait for a disk
FEW_WORKERS = 64
WORKERS_PER_CORE = 16


def check_local(settings: Settings, n_cores: int) -> None:
    """SettingsError for more workers than a machine of `n_cores` bears, and for a host that is not its own."""
    max_workers = max(FEW_WORKERS, WORKERS_PER_CORE * n_cores)
    if settings.run.workers > max_workers:
        raise SettingsError(
            f"run.workers is {settings.run.workers}: this machine has {n_cores} cores; give at most {max_workers}"
        )
    host = settings.local.host
    try:
        address_info = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(*address_info[:3]) as server:  # family, type, protocol
            server.bind(address_info[-1])
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"local.host is {host!r}, which is no address of this machine ({error}): give 127.0.0.1"
        ) from error
