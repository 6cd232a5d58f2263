"""Tables about the tasks of a run and about their failures."""

import pyarrow as pa

from emqa_dask.tables.schema import define_schema

# A row per task that ran: its duration, memory and outcome.
EVENTS = define_schema(
    {
        "stage": (pa.string(), "Stage of the task: survey, store, detect, ..."),
        "partition": (pa.string(), "Name of the partition, or of the batch of files."),
        "worker": (pa.string(), "Network address of the worker, or in-process."),
        "started": (pa.float64(), "Start of the task in seconds since 1970-01-01 UTC."),
        "seconds": (pa.float64(), "Wall-clock time of the task in s."),
        "n_images": (pa.int64(), "Number of images (or files) that the task processed."),
        "bytes": (pa.int64(), "Bytes of pixels that the task read."),
        "peak_memory_bytes": (pa.int64(), "Peak resident memory of the worker process until the task ended, in bytes."),
        "gpu_percent": (
            pa.float64(),
            "Mean utilisation of the worker's GPU while the task ran, in %, by NVML; NaN where it was not measured: on "
            "a CPU, on a slice of a GPU, or without nvidia-ml-py.",
        ),
        "attempt": (pa.int32(), "Number of the attempt; 1 for the first."),
        "outcome": (
            pa.string(),
            "done; found (the part file existed already); failed; or lost (the worker ended, and the task was given to "
            "another one).",
        ),
    }
)

# A row per alarm of `emqa watch`: the images of a session have changed.
ALARMS = define_schema(
    {
        "session": (pa.string(), "Session that changed: folder, instrument and time of its first image."),
        "time": (pa.string(), "Time of the alarm, ISO 8601, UTC."),
        "statistic": (pa.string(), "Quantity that drifted: a column of features or predictions, e.g. noise_floor."),
        "value": (pa.float64(), "Natural logarithm of the test martingale of this quantity at the alarm."),
        "threshold": (
            pa.float64(),
            "Limit of this logarithm: that at which a session without drift raises an alarm with at most the "
            "probability `emqa watch --false-alarms`.",
        ),
        "n_images": (pa.int64(), "Number of images of the session up to the alarm."),
        "first_uri": (pa.string(), "Path in the archive of the first image that the drift shows in."),
        "last_uri": (pa.string(), "Path in the archive of the image that raised the alarm."),
    }
)

# A row per file or micrograph that a stage failed on.
FAILURES = define_schema(
    {
        "uri": (pa.string(), "Path of the file in the archive."),
        "micrograph_id": (
            pa.string(),
            "Identity of the micrograph that failed. Null when no micrograph was read from the file.",
        ),
        "stage": (pa.string(), "Stage that failed."),
        "kind": (pa.string(), "Kind of failure: error, crash, timeout or memory."),
        "error": (pa.string(), "Type and text of the exception."),
        "traceback": (pa.string(), "Traceback of the exception."),
        "attempts": (pa.int32(), "Number of attempts."),
        "worker": (pa.string(), "Network address of the worker, or in-process."),
        "peak_memory_bytes": (
            pa.int64(),
            "Peak resident memory of the call that failed, in bytes. 0 when it was not measured.",
        ),
    }
)

# A row per session whose detector was chosen from a first look at a few of its images.
DETECTOR_CHOICES = define_schema(
    {
        "folder": (pa.string(), "Folder of the session's files in the archive. Empty for files in its root."),
        "instrument": (pa.string(), "Instrument of the session. Empty when it is unknown."),
        "detector": (pa.string(), "Detector of the session's micrographs: log, or a bundled network."),
        "classes": (
            pa.list_(pa.string()),
            "Classes of the network's detections that count. Empty for log, and when all classes count.",
        ),
        "content": (
            pa.string(),
            "What the images show: a class of the network, mixed (several classes), lattice, dots or nothing.",
        ),
        "because": (pa.string(), "The reason for the choice in plain English, with its numbers."),
        "n_looked_at": (pa.int32(), "Number of images that were looked at."),
        "n_micrographs": (pa.int64(), "Number of micrographs of the session when the detector was chosen."),
    }
)
