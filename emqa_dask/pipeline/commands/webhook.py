"""Records that are sent to a URL by a thread, which tries again and never makes its caller wait."""

import contextlib
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from emqa_dask.uris import redact

MAX_WAITING = 1000  # records; further ones are dropped while the receiver does not answer
TRIES = 6
FIRST_PAUSE_S = 1.0  # before the second try; twice as long before each further one: 31 s in all
TIMEOUT_S = 10.0  # of a request


class Webhook:
    """Receiver of JSON records at `url`; send() returns at once, close() waits for some seconds at most."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(f"--webhook {redact(url)}: give an address that starts with https:// or http://")
        self._url = url
        self._say = say
        self._records: queue.Queue[dict | None] = queue.Queue(MAX_WAITING)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._send_records, name="emqa-webhook", daemon=True)
        self._thread.start()

    def send(self, record: dict) -> None:
        """Put `record` in the queue; one too many is dropped, and a line says so."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._say(f"{redact(self._url)} does not answer: a record is dropped")

    def close(self, wait_s: float = 3.0) -> None:
        """Send what waits, for at most `wait_s`."""
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(None)
        self._thread.join(wait_s)
        self._is_closed.set()

    def _send_records(self) -> None:
        while (record := self._records.get()) is not None:
            self._send(record)

    def _send(self, record: dict) -> None:
        body = json.dumps(record).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "emqa"}
        pause_s = FIRST_PAUSE_S
        error = ""
        for number in range(TRIES):
            if number:
                self._is_closed.wait(pause_s)
                pause_s *= 2
            try:
                request = urllib.request.Request(self._url, body, headers, method="POST")
                with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                    return
            except (OSError, ValueError) as failure:  # also HTTP errors
                error = redact(str(failure))
        self._say(f"{redact(self._url)} took no record in {TRIES} tries: {error}")
