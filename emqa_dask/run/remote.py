"""Workers of a scheduler that runs already, by its address or its scheduler file."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distributed import WorkerPlugin

from emqa_dask.run import tls
from emqa_dask.run.connection import OneSchedulerClient, watch_connection
from emqa_dask.run.supervise import describe_error
from emqa_dask.run.workers import prepare_worker
from emqa_dask.settings import Settings

CONNECT_S = 15.0
MAX_PREPARATIONS = 5  # tries to prepare the workers, since one that leaves meanwhile ends it for all
MESSAGE_INTERVAL_S = 60.0  # between two words about a wait
Say = Callable[[str], None]


class PrepareWorker(WorkerPlugin):
    """Plugin that prepares a plain `dask worker` for our tasks; repeating it changes nothing."""

    name = "emqa_dask"

    def __init__(self, preload: Sequence[str]):
        self.preload = tuple(preload)

    async def setup(self, worker) -> None:
        await prepare_worker(self.preload)


@contextlib.contextmanager
def open_remote(settings: Settings, preload: Sequence[str] = (), say: Say = print) -> Iterator:
    """A distributed Client of the scheduler at `run.scheduler`, once it has a worker; neither is stopped.

    Workers need no preparation: a plugin gives them the environment and imports `preload`, also in those that come
    later. RuntimeError says what was tried, and the remedy; it also comes when the scheduler is lost meanwhile.
    """
    run = settings.run
    address = read_address(run.scheduler, run.wait_s, say)
    if bool(run.tls) != address.startswith("tls://"):
        is_plain = "does not speak TLS: leave run.tls empty, or start it with --tls-ca-file, --tls-cert and --tls-key"
        remedy = is_plain if run.tls else "speaks TLS only: set run.tls to a folder with ca.pem, cert.pem and key.pem"
        raise RuntimeError(f"the scheduler at {address} {remedy}")
    try:
        client = OneSchedulerClient(
            address, timeout=CONNECT_S, security=tls.load_security(run.tls), set_as_default=False
        )
    except OSError as error:
        cause = f" ({' '.join(str(error.__cause__ or error).split())})"
        raise RuntimeError(
            f"no Dask scheduler answers at {address} within {CONNECT_S:.0f} s{cause}: is it running, can this machine "
            f"reach it, and has it the same certificates? `dask scheduler --host ADDRESS --port PORT` starts one"
        ) from error
    with watch_connection(client):
        for attempt in range(MAX_PREPARATIONS):
            wait_for_workers(client, run.wait_s, say, lambda: f"start some: `dask worker {address}`")
            try:
                client.register_plugin(PrepareWorker(preload))
                break
            except ImportError as error:
                raise RuntimeError(
                    f"workers of {address} cannot import what tasks need ({error}): install this emqa_dask there, too"
                ) from error
            except OSError:  # a worker left in the middle of it
                if attempt == MAX_PREPARATIONS - 1:
                    raise
                time.sleep(1.0)
        yield client


def wait_for_workers(client, wait_s: float, say: Say, hint: Callable[[], str]) -> None:
    """Return when `client` has a worker; RuntimeError with the text of `hint` after `wait_s` (0 = never).

    `hint` is asked every second and told to `say` at first and then every minute; what it raises ends the wait.
    """
    started = time.monotonic()
    last_message_s = None
    while not client.nthreads():
        now_s = time.monotonic()
        text = hint()
        if wait_s and now_s - started > wait_s:
            raise RuntimeError(f"no worker came within {wait_s:g} s (run.wait_s; 0 waits for ever): {text}")
        if last_message_s is None or now_s - last_message_s >= MESSAGE_INTERVAL_S:
            say(f"waiting for the first worker: {text}")
            last_message_s = now_s
        time.sleep(min(1.0, max(wait_s / 10, 0.05)) if wait_s else 1.0)


def read_address(scheduler: str, wait_s: float, say: Say) -> str:
    """Address `tcp://...`, or the one in the file that `file:...` names; waits until the file is written."""
    if not scheduler.startswith("file:"):
        return scheduler
    path = Path(scheduler.removeprefix("file:").removeprefix("//")).expanduser()
    started = time.monotonic()
    has_said = False
    while True:
        try:
            return json.loads(path.read_text())["address"]
        except FileNotFoundError:
            problem = f"{path}: no such scheduler file"
        except (ValueError, KeyError, TypeError) as error:  # or not all of it is written yet
            problem = f"{path}: not a scheduler file of Dask ({describe_error(error)})"
        if wait_s and time.monotonic() - started > wait_s:
            raise RuntimeError(
                f"{problem}, after {wait_s:g} s (run.wait_s): `dask scheduler --scheduler-file {path}` writes it; it "
                f"has to lie where this machine can read it"
            )
        if not has_said:
            say(f"waiting for a scheduler: {problem}")
            has_said = True
        time.sleep(0.2)
