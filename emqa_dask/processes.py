"""Identity of a process across runs: the boot of its machine, and its start since that boot."""

import os

import psutil


def identify_boot() -> str:
    """This boot of this machine (or container) with its namespace of process numbers.

    Process numbers of two records can be compared only where this text is the same.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{os.uname().nodename} {psutil.boot_time():.0f}"


def start_since_boot_s(process: psutil.Process) -> float:
    """Seconds from the boot to the start of `process`: setting the clock does not change it."""
    return process.create_time() - psutil.boot_time()
