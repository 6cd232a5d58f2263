"""What a worker process does when it starts (Dask imports this module as a preload)."""

import atexit
import os
import signal
import sys
import threading


def dask_setup(worker) -> None:
    """Leave Ctrl-C to the driver, and leave quickly.

    The terminal sends Ctrl-C to every process, and the driver closes the workers. Taking down an interpreter with every
    library loaded took 3 to 4 s, so a worker, which leaves nothing behind that would need it, does without.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(_leave)  # registered first, so it runs last


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
