"""What a run waits for when no task ends: the images or files that its workers process."""

import threading
from collections.abc import Callable

from emqa_dask.run.supervise import list_running_labels

ANSWER_S = 5.0  # that workers may take to say what they are at
N_SHOWN = 3  # of those that have taken longest


def make_wait_message(client) -> Callable[[], str]:
    """Function that returns the labels of the longest running calls as text; empty without any.

    `client` is a distributed Client, or None for a run in this process.
    """
    return lambda: format_labels(list_running_labels() if client is None else ask_workers(client))


def ask_workers(client) -> list[tuple[str, float]]:
    """(label, seconds) of every call on the workers; of tasks, where a worker does not answer in time."""
    answers: list[dict] = []

    def request_labels() -> None:
        try:
            answers.append(client.run(list_running_labels, on_error="return"))
        except Exception:  # the scheduler was lost: the run ends, and says that
            answers.append({})

    thread = threading.Thread(target=request_labels, name="emqa-waiting", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not answers:  # a library holds the interpreter of a worker
        return [(f"{key[-1]} on {worker}", 0.0) for worker, keys in list_processing(client).items() for key in keys[:1]]
    return [pair for labels in answers[0].values() if isinstance(labels, (list, tuple)) for pair in labels]


def list_processing(client) -> dict[str, tuple]:
    try:
        return client.processing()
    except Exception:
        return {}


def format_labels(labels: list[tuple[str, float]]) -> str:
    longest = sorted((pair for pair in labels if pair[0]), key=lambda pair: -pair[1])
    descriptions = [
        make_printable(label) + (f" ({seconds:.0f} s)" if seconds else "") for label, seconds in longest[:N_SHOWN]
    ]
    suffix = f" and {len(longest) - N_SHOWN} more" if len(longest) > N_SHOWN else ""
    return ", ".join(descriptions) + suffix


def make_printable(label: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in label)
