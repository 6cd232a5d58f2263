"""Utilisation of a GPU by the driver's management library (NVML), measured while a task runs."""

import contextlib
import math
import os
import threading
import time
from typing import Any

SAMPLING_INTERVAL_S = 0.1  # NVML averages over a sixth of a second or more


def get_handle(device: str) -> Any:
    """NVML's handle of a number or UUID, after nvmlInit()."""
    import pynvml

    if device.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(device))
    return pynvml.nvmlDeviceGetHandleByUUID(device.encode())


class GpuUtilisation:
    """Utilisation of this process's GPU in %, sampled by a thread while the block runs.

    Nothing is sampled where `is_sampled` is False, nvidia-ml-py is missing, no driver answers, or NVML has no
    utilisation, as of MIG slices. The GPU is the first one in CUDA_VISIBLE_DEVICES, else the first of the machine.
    """

    def __init__(self, is_sampled: bool = True):
        self.samples: list[tuple[float, float]] = []  # time in s since the epoch, %
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="emqa-nvml", daemon=True) if is_sampled else None

    def __enter__(self) -> "GpuUtilisation":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread:
            self._thread.join()

    def _sample(self) -> None:
        try:
            import pynvml
        except ImportError:
            return
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            handle = get_handle(device)
            while True:
                self.samples.append((time.time(), float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)))
                if self._is_over.wait(SAMPLING_INTERVAL_S):
                    return

    def compute_mean(self, start: float = -math.inf, end: float = math.inf) -> float:
        """Mean of the samples between two times, in %; NaN without a sample."""
        values = [value for moment, value in self.samples if start <= moment <= end]
        return sum(values) / len(values) if values else math.nan
