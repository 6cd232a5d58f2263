"""Lock of a workspace, which one run at a time holds: `with lock.hold_lock(root) as held:`, and held.check() in it.

A lock is a record (JSON) that is created only where there is none and never changed: lock.json, or, over a stale one,
.lock-<token of the stale one>. So of all who find the same record stale one wins, and the holder is whoever wrote the
last record of the chain that starts at lock.json. Who has created a record reads the chain again: where it does not end
in that record, the lock was released meanwhile, and all starts over. Release removes lock.json first; from then on
nothing leads to the rest. All this needs of a file system is creating exclusively and reading, so it is the same on a
local disk, a network disk and a bucket.
"""

import contextlib
import hashlib
import json
import os
import platform
import random
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime

import psutil

from emqa_dask.processes import identify_boot, start_since_boot_s
from emqa_dask.store import files

LOCK_NAME = "lock.json"
BEAT_S = 15.0
LIMIT_S = 90.0  # a run on another host that has given no sign of life for so long is taken for dead
SUSPENDED_S = 45.0  # the same of a suspended process on this host (Ctrl-Z, SIGSTOP); longer than check() trusts a look
_SETTLE_S = 1.0  # on a bucket that ignores If-None-Match a rival's record may arrive after ours


@dataclass(frozen=True)
class LockRecord:
    """Who holds a lock. `process_start_s` is since boot; `machine` is one boot of one machine (or container)."""

    token: str
    host: str = "an unknown host"
    machine: str = ""
    pid: int = 0
    process_start_s: float = 0.0
    started: str = "an unknown time"
    command: str = ""


class HeldLock:
    """A lock that is held; check() says whether it still is."""

    def __init__(self, root: str, token: str, beat_s: float):
        self._root = root
        self._token = token
        self._beat_s = beat_s
        self._seen_s = time.time()
        self._taken_by: LockRecord | None = None
        self._is_lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="emqa-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """RuntimeError where the lock was lost: another run took it while this one was suspended, or it was deleted.

        Costs nothing as long as the last look is recent.
        """
        # time(), not monotonic(): that one stands still while a laptop sleeps.
        if not 0 <= time.time() - self._seen_s < 2 * self._beat_s:
            self._look()
        if self._is_lost:
            cause = f"taken by {_describe_record(self._taken_by)}" if self._taken_by else "deleted"
            raise RuntimeError(
                f"{files.redact(self._root)}: the lock of this run was {cause}, "
                "while this run was suspended or silent; "
                "nothing is damaged: run the same command again when the other one has ended"
            )

    def _look(self) -> None:
        chain = read_chain(self._root)
        if not self._is_lost and (not chain or chain[-1].token != self._token):
            self._taken_by = chain[-1] if chain else None
            self._is_lost = True
        self._seen_s = time.time()

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            # Whatever a bucket raises: the next beat tries again, and LIMIT_S leaves room for several that fail.
            with contextlib.suppress(Exception):
                self._look()
                if not self._is_lost:
                    files.write_bytes(_beat_uri(self._root, self._token), b"")

    def _release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # a lock that stays behind is stale: this process is about to be gone
            chain = read_chain(self._root)
            if chain and chain[-1].token == self._token:
                for uri in _record_uris(self._root, chain):
                    files.remove_file(uri)
            else:
                chain = [LockRecord(self._token)]
            for record in chain:
                files.remove_file(_beat_uri(self._root, record.token))


@contextlib.contextmanager
def hold_lock(
    root: str, say: Callable[[str], None] | None = None, *, beat_s: float = BEAT_S, limit_s: float = LIMIT_S
) -> Iterator[HeldLock]:
    """Hold the lock of workspace `root` for the length of the block; `say` is told when a stale lock is taken over.

    RuntimeError, with who holds it and the remedy, when another run does. A lock is stale when its process on this
    machine has ended, or has been suspended for SUSPENDED_S, for which this waits; or when on another machine it gave
    no sign of life for `limit_s` seconds (it does every `beat_s`). What only reads a workspace needs no lock.
    """
    record = _make_own_record()
    _acquire(root, record, say, limit_s)
    lock = HeldLock(root, record.token, beat_s)
    try:
        yield lock
    finally:
        lock._release()


def describe_holder(root: str) -> str:
    """Who works on the workspace now: process, host and since when; empty when nobody does."""
    chain = read_chain(root)
    return _describe_record(chain[-1]) if chain and is_alive(root, chain) else ""


def read_chain(root: str) -> list[LockRecord]:
    """Records from lock.json on, each after the first written over the one before; empty where nobody holds a lock."""
    chain: list[LockRecord] = []
    while len({record.token for record in chain}) == len(chain):  # a circle is nobody's honest work
        try:
            data = files.read_bytes(_record_uris(root, chain, of_next=True)[-1])
        except FileNotFoundError:
            break
        chain.append(_parse_record(data))
    return chain


def is_alive(root: str, chain: list[LockRecord], limit_s: float = LIMIT_S) -> bool:
    """Does the holder, the last of a chain that is not empty, still run as far as can be told from here?"""
    record = chain[-1]
    if not record.machine or record.machine != identify_boot():
        return _measure_silence_s(root, chain) < limit_s
    status = _process_status(record)
    if status == psutil.STATUS_STOPPED:
        return _measure_silence_s(root, chain) < SUSPENDED_S
    return status not in ("", psutil.STATUS_ZOMBIE)


def _process_status(record: LockRecord) -> str:
    """What psutil says of the process that a record of this machine is of; empty when it is gone."""
    try:
        process = psutil.Process(record.pid)
        return process.status() if abs(start_since_boot_s(process) - record.process_start_s) < 1 else ""
    except psutil.NoSuchProcess:
        return ""
    except psutil.AccessDenied:
        return psutil.STATUS_RUNNING


def _is_suspended(record: LockRecord) -> bool:
    return (
        bool(record.machine) and record.machine == identify_boot() and _process_status(record) == psutil.STATUS_STOPPED
    )


def _wait_for_suspended_holder(root: str, say: Callable[[str], None] | None, limit_s: float) -> list[LockRecord]:
    """read_chain(), once no suspended process that may still be continued is its holder."""
    has_said = False
    while (chain := read_chain(root)) and _is_suspended(chain[-1]) and is_alive(root, chain, limit_s):
        if say is not None and not has_said:
            say(
                f"{files.redact(root)} is in use by {_describe_record(chain[-1])}, "
                "which is suspended: its lock is taken over "
                f"{SUSPENDED_S:.0f} s after its last sign of life, unless it is continued"
            )
        has_said = True
        time.sleep(min(1.0, SUSPENDED_S / 10))
    return chain


def _acquire(root: str, record: LockRecord, say: Callable[[str], None] | None, limit_s: float) -> None:
    data = json.dumps(asdict(record), indent=2).encode() + b"\n"
    for _ in range(50):
        old_chain = _wait_for_suspended_holder(root, say, limit_s)
        if old_chain and is_alive(root, old_chain, limit_s):
            raise RuntimeError(
                f"{files.redact(root)} is in use by {_describe_record(old_chain[-1])}: wait for it or end it there; "
                f"if you are sure that it is gone, delete {LOCK_NAME} there"
            )
        record_uri = _record_uris(root, old_chain, of_next=True)[-1]
        files.create_exclusively(record_uri, data)
        if not files.is_local(root):
            time.sleep(_SETTLE_S)
        # Not what create() said: an upload that was repeated after a lost answer finds its own record in its way.
        chain = read_chain(root)
        if chain and chain[-1].token == record.token:
            if old_chain and say is not None:
                cause = "is suspended" if _is_suspended(old_chain[-1]) else "has ended"
                say(f"took over the lock of {_describe_record(old_chain[-1])}, which {cause}")
            return
        with contextlib.suppress(FileNotFoundError):
            if _parse_record(files.read_bytes(record_uri)).token == record.token:
                files.remove_file(record_uri)
        time.sleep(random.uniform(0, 0.1))
    raise RuntimeError(f"{files.redact(root)} could not be locked: others take and release it all the time; try again")


def _record_uris(root: str, chain: list[LockRecord], of_next: bool = False) -> list[str]:
    """Where the records of a chain lie, and with `of_next` where one over the last would."""
    record_uris = [files.join(root, LOCK_NAME), *(files.join(root, f".lock-{record.token}") for record in chain)]
    return record_uris if of_next else record_uris[:-1]


def _beat_uri(root: str, token: str) -> str:
    return files.join(root, f".beat-{token}")


def _parse_record(data: bytes) -> LockRecord:
    """The record in `data`, or one of an unknown run: where there are no hard links, a record may be half written."""
    try:
        document = json.loads(data)
        record = LockRecord(**{field.name: field.type(document[field.name]) for field in fields(LockRecord)})
        if record.token == uuid.UUID(record.token).hex:  # it becomes part of a file's name
            return record
    except (ValueError, KeyError, TypeError):
        pass
    return LockRecord(hashlib.sha256(data).hexdigest()[:32])


def _make_own_record() -> LockRecord:
    return LockRecord(
        token=uuid.uuid4().hex,
        host=platform.node(),
        machine=identify_boot(),
        pid=os.getpid(),
        process_start_s=start_since_boot_s(psutil.Process()),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=files.redact(shlex.join(sys.argv)),
    )


def _describe_record(record: LockRecord) -> str:
    command = f" ({record.command})" if record.command else ""
    return f"process {record.pid} on {record.host}, started {record.started}{command}"


def _measure_silence_s(root: str, chain: list[LockRecord]) -> float:
    """Seconds since the holder's last sign of life, all by the clock of the disk or bucket: hosts' clocks differ."""
    signs = [_read_modified_s(_record_uris(root, chain)[-1]), _read_modified_s(_beat_uri(root, chain[-1].token))]
    probe = _beat_uri(root, uuid.uuid4().hex)
    try:
        files.write_bytes(probe, b"")
        now_s = files.read_modified_s(probe)
        files.remove_file(probe)
    except OSError:  # who may only read it has to trust the own clock
        now_s = time.time()
    return now_s - max(signs)


def _read_modified_s(uri: str) -> float:
    try:
        return files.read_modified_s(uri)
    except FileNotFoundError:
        return float("-inf")
