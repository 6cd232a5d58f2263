"""Connection of a driver to a scheduler in another process; a thread watches it and reports its loss."""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterator

from distributed import Client

from emqa_dask.run.supervise import describe_error

HEARTBEAT_S = 5.0  # between questions to the scheduler
ANSWER_S = 10.0  # that it may take to answer one
MAX_UNANSWERED = 2  # questions in a row, after which it is lost: one may be this process's own fault, as after a sleep
SILENT_S = 60.0  # without a sign of life, after which a worker is started anew; the scheduler itself may wait 5 minutes
CLOSE_S = 5.0  # that leaving may take
_CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


class OneSchedulerClient(Client):
    """Client that closes when it loses its scheduler. A new scheduler at the same address has none of its tasks."""

    async def _ensure_connected(self, timeout=None) -> None:
        await asyncio.wait_for(super()._ensure_connected(timeout=timeout), timeout)  # all of it: a silent one, too

    async def _reconnect(self) -> None:
        await self._close(fast=True)


@contextlib.contextmanager
def watch_connection(client: Client) -> Iterator[Client]:
    """`client`, closed at the end; any error after the loss of its scheduler is a RuntimeError with the remedy.

    A scheduler that was ended closes its connections. One that was stopped, or whose network is gone, keeps them and
    never answers, and neither do calls that wait for it: it is asked from a thread, and when it is silent the client is
    closed, which ends them.
    """
    address = client.scheduler.address
    heartbeat = _Heartbeat(client)
    try:
        yield client
    except (Exception, *_CANCELLED) as error:
        if (is_lost := heartbeat.has_lost()) or isinstance(error, _CANCELLED):
            reason = heartbeat.reason or ("it closed the connection" if is_lost else "it cancelled the tasks")
            raise RuntimeError(
                f"the Dask scheduler at {address} was lost ({reason}); what is finished is kept, so start it and run "
                "the same command again"
            ) from error
        raise
    finally:
        heartbeat.stop()
        close_client(client)


class _Heartbeat:
    """Thread that asks the scheduler for signs of life, of its own and of the workers, until stop()."""

    def __init__(self, client: Client):
        self.client = client
        self.reason = ""
        self._scheduler = client.scheduler
        self._loop = client.loop.asyncio_loop
        # worker -> its own time at its last sign of life, and our time when that was received
        self._last_signs: dict[str, tuple[float, float]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="emqa-scheduler", daemon=True)
        self._thread.start()

    def has_lost(self) -> bool:
        """Whether the connection is gone or the scheduler is silent; waits up to ANSWER_S for an answer."""
        return self.client.status != "running" or not self._ask()  # of a connection that was just cut it may not know

    def stop(self) -> None:
        self._is_over.set()

    def _beat(self) -> None:
        n_unanswered = 0
        while not self._is_over.wait(HEARTBEAT_S):
            if self.client.status != "running":
                return
            if self._ask():
                n_unanswered = 0
                continue
            n_unanswered += 1
            if n_unanswered == MAX_UNANSWERED and not self._is_over.is_set():
                self.reason = self.reason or f"it was silent for {n_unanswered * ANSWER_S:.0f} s"
                abort_client(self.client)
                return

    def _ask(self) -> bool:
        """Whether the scheduler answers; workers that have been silent for long are restarted."""
        try:
            question = asyncio.run_coroutine_threadsafe(self._scheduler.identity(n_workers=-1), self._loop)
            silent = self._silent(question.result(ANSWER_S)["workers"])
            if silent:  # nobody waits for that
                asyncio.run_coroutine_threadsafe(self._restart(silent), self._loop)
        except TimeoutError:
            question.cancel()
            return False
        except Exception as error:  # the connection is gone; the client sees that, too, and ends
            self.reason = self.reason or describe_error(error)
            return False
        return True

    def _silent(self, workers: dict[str, dict]) -> list[str]:
        now_s = time.monotonic()
        earlier_signs = self._last_signs
        self._last_signs = {}
        for address, worker in workers.items():
            sign, sign_s = earlier_signs.get(address, (None, now_s))
            self._last_signs[address] = (sign, sign_s) if sign == worker["last_seen"] else (worker["last_seen"], now_s)
        return [address for address, (_, sign_s) in self._last_signs.items() if now_s - sign_s > SILENT_S]

    async def _restart(self, silent: list[str]) -> None:
        """Restart silent workers, except those with tasks of other clients."""
        processing = await self._scheduler.processing(workers=silent)
        own_keys = set(self.client.futures)
        own_workers = []
        for address in silent:
            task_keys = set(processing.get(address, ()))
            if not task_keys or task_keys & own_keys:
                own_workers.append(address)
        for address in own_workers:
            self._last_signs.pop(address, None)
        if own_workers:
            await self._scheduler.restart_workers(
                workers=own_workers,
                timeout=ANSWER_S,
                wait_for_workers=False,
                on_error="return",
                stimulus_id="emqa-silent",
            )


def abort_client(client: Client) -> None:
    """Close the client at once and without a message to its scheduler; pending calls end with an error."""

    async def abort() -> None:
        if client.status == "running":
            client.status = "closing"
        if client.scheduler_comm is not None:
            client.scheduler_comm.abort()
        pool = client.rpc
        for comm in [comm for comms in (*pool.available.values(), *pool.occupied.values()) for comm in comms]:
            comm.abort()
        await client._close(fast=True)

    asyncio.run_coroutine_threadsafe(abort(), client.loop.asyncio_loop)


def close_client(client: Client) -> None:
    try:
        client.close(timeout=CLOSE_S)
    except Exception:  # of a scheduler that does not take its leave
        abort_client(client)
