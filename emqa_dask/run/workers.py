"""What a worker process does when it starts (Dask imports this module as a preload)."""

import signal
import threading


def dask_setup(worker) -> None:
    """Leave Ctrl-C to the driver: the terminal sends it to every process, and the driver closes the workers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
