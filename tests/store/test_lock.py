"""Laws of the lock: one holder at a time, a dead one is taken over, a live one never; on a disk and on a bucket."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import psutil
import pytest

from emqa_dask.store import files, lock

HOLD = """
import sys, time
from emqa_dask.store import lock
with lock.hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
HOLD_AND_CHECK = """
import sys, time
from emqa_dask.store import lock
with lock.hold_lock(sys.argv[1], beat_s=0.2) as held:
    print("held", flush=True)
    while True:
        time.sleep(0.1)
        held.check()
"""
# Takes and releases, or dies as far as others can tell: leaves the record of a process that has ended over its own.
RACE = """
import dataclasses, json, os, random, sys, uuid
from emqa_dask.store import files, lock
root, inside, ended, n_held = sys.argv[1], sys.argv[2], int(sys.argv[3]), 0
for _ in range(150):
    try:
        with lock.hold_lock(root):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # raises when another one is inside
            os.unlink(inside)
            n_held += 1
            if random.random() < 0.7:
                mine = lock.read_chain(root)[-1]
                stale = dataclasses.replace(mine, token=uuid.uuid4().hex, pid=ended)
                files.write_text(f"{root}/.lock-{mine.token}", json.dumps(dataclasses.asdict(stale)))
    except RuntimeError as error:
        assert "in use" in str(error) or "try again" in str(error), error
print(n_held)
"""


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    return str(tmp_path / "ws") if request.param == "local" else f"memory://{uuid.uuid4().hex}/ws"


def start(program: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def suspend(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)


def own(root) -> lock.LockRecord:
    (record,) = lock.read_chain(root)
    return record


def put(root, record: lock.LockRecord, name: str = lock.LOCK_NAME) -> None:
    files.write_text(files.join(root, name), json.dumps(dataclasses.asdict(record)))


def left(root) -> list[str]:
    fs, path = files.locate(root)
    return [p.rpartition("/")[2] for p in fs.find(path)]


def record(**changes) -> lock.LockRecord:
    """The record of a run on another machine."""
    made = lock.LockRecord(
        uuid.uuid4().hex, "node7", "another boot pid:[1]", os.getpid(), 1.0, "2026-11-22T10:00:00+00:00"
    )
    return dataclasses.replace(made, **changes)


def make_old(root, seconds: float) -> None:
    """As if everything in `root` had been written so much earlier."""
    fs, path = files.locate(root)
    for file in fs.find(path):
        if root.startswith("memory://"):
            fs.store[file].modified -= timedelta(seconds=seconds)
        else:
            os.utime(file, (os.stat(file).st_mtime - seconds,) * 2)


def test_a_second_run_is_refused_with_holder_and_remedy(root):
    with (
        lock.hold_lock(root) as held,
        pytest.raises(RuntimeError, match=rf"in use by process {os.getpid()} on .+, started 20.+delete lock\.json"),
        lock.hold_lock(root),
    ):
        pass
    held.check()
    assert left(root) == []


def test_released_at_the_end_and_after_an_exception(root):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.hold_lock(root):
            1 / 0  # noqa: B018
        assert left(root) == []


def test_the_record_says_who_and_holds_no_secret(root, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["emqa", "triage", "https://me:hunter2@host/a?X-Amz-Signature=abcdef"])
    with lock.hold_lock(root):
        text = files.read_bytes(files.join(root, lock.LOCK_NAME)).decode()
        assert own(root).pid == os.getpid()
    assert "hunter2" not in text
    assert "abcdef" not in text
    assert "https://***@host/a" in text


def test_another_process_with_the_same_number_is_not_the_holder(root):
    with lock.hold_lock(root):
        mine = own(root)
    put(root, dataclasses.replace(mine, process_start_s=mine.process_start_s - 60))
    said = []
    with lock.hold_lock(root, said.append) as held:
        held.check()
        assert len(lock.read_chain(root)) == 2
    assert len(said) == 1
    assert f"process {mine.pid}" in said[0]
    assert left(root) == []


def test_a_process_that_has_ended_is_not_the_holder(root):
    with lock.hold_lock(root):
        mine = own(root)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        gone = dataclasses.replace(mine, pid=process.pid)
    put(root, gone)
    assert not lock.is_alive(root, [gone])
    with lock.hold_lock(root):
        pass
    assert left(root) == []


def test_on_another_host_the_last_sign_of_life_decides(root):
    other = record()
    put(root, other)
    make_old(root, 80)
    with pytest.raises(RuntimeError, match="on node7"), lock.hold_lock(root):
        pass
    files.write_bytes(files.join(root, f".beat-{other.token}"), b"")
    make_old(root, 20)  # the record is 100 s old now, the beat 20
    with pytest.raises(RuntimeError, match="on node7"), lock.hold_lock(root):
        pass
    make_old(root, 71)
    with lock.hold_lock(root) as held:
        held.check()
    assert left(root) == []


def test_a_damaged_record_is_held_until_it_is_old(root):
    files.write_text(files.join(root, lock.LOCK_NAME), '{"token": "../../x"')
    with pytest.raises(RuntimeError, match="an unknown host"), lock.hold_lock(root):
        pass
    make_old(root, 91)
    with lock.hold_lock(root):
        pass
    assert left(root) == []


def test_a_token_never_leads_out_of_the_workspace(root):
    put(root, record(token="../../x"))
    (found,) = lock.read_chain(root)
    assert found.token.isalnum()


def test_the_holder_beats_and_so_is_known_to_live(root):
    with lock.hold_lock(root, beat_s=0.05):
        beat = files.join(root, f".beat-{own(root).token}")
        deadline = time.time() + 30
        while not files.exists(beat):
            assert time.time() < deadline
            time.sleep(0.01)
        first = files.read_modified_s(beat)
        while files.read_modified_s(beat) <= first:
            assert time.time() < deadline
            time.sleep(0.01)
    assert left(root) == []


def test_release_leaves_no_moment_with_a_part_of_the_chain(root, monkeypatch):
    """Removed from its end, the stale record before the last one could be taken over once more."""
    put(root, record())
    make_old(root, 100)
    chains = []
    remove = files.remove_file

    def watched(uri):
        remove(uri)
        chains.append(lock.read_chain(root))

    with lock.hold_lock(root):
        assert len(lock.read_chain(root)) == 2
        monkeypatch.setattr(files, "remove_file", watched)
    assert chains
    assert not any(chains)


@pytest.mark.parametrize("how", ["taken", "deleted"])
def test_a_holder_that_lost_the_lock_leaves_the_new_one(root, how):
    with lock.hold_lock(root, beat_s=0.05) as held:
        mine = own(root)
        other = record()
        if how == "taken":
            put(root, other, f".lock-{mine.token}")
        else:
            files.remove_file(files.join(root, lock.LOCK_NAME))
        time.sleep(0.2)  # at the latest after two beats
        with pytest.raises(RuntimeError, match=r"taken by .*node7|deleted"):
            held.check()
    chain = lock.read_chain(root)
    assert [r.token for r in chain] == ([mine.token, other.token] if how == "taken" else [])


def test_a_lost_lock_is_noticed_without_the_thread(root):
    with lock.hold_lock(root, beat_s=1000) as held:
        files.remove_file(files.join(root, lock.LOCK_NAME))
        held.check()  # the last look is recent: no request
        held._seen_s -= 2001  # a suspended machine wakes up
        with pytest.raises(RuntimeError, match="deleted"):
            held.check()


def test_a_late_claim_of_a_stale_lock_holds_nothing(root, monkeypatch):
    """A rival reads a stale record; before it takes over, others take over, release, and a third run starts."""
    stale = record()
    put(root, stale)
    make_old(root, 100)
    real = files.create_exclusively
    third = record(host="node8")

    def late(uri, data):
        monkeypatch.setattr(files, "create_exclusively", real)
        files.remove_file(files.join(root, lock.LOCK_NAME))
        put(root, third)
        return real(uri, data)

    monkeypatch.setattr(files, "create_exclusively", late)
    with pytest.raises(RuntimeError, match="node8"), lock.hold_lock(root):
        pass
    assert left(root) == [lock.LOCK_NAME]


def test_a_bucket_that_lets_everybody_write_has_one_holder(monkeypatch):
    """Without If-None-Match the last one to write holds it, and the first one does not remove its record."""
    monkeypatch.setattr(lock, "_SETTLE_S", 0.01)
    root = f"memory://{uuid.uuid4().hex}/ws"
    rival = record(host="node9")

    def careless(uri, data):
        files.write_bytes(uri, data)
        put(root, rival)
        return True

    monkeypatch.setattr(files, "create_exclusively", careless)
    with pytest.raises(RuntimeError, match="node9"), lock.hold_lock(root):
        pass
    assert own(root) == rival


def test_without_hard_links_it_is_the_same(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with lock.hold_lock(str(tmp_path)), pytest.raises(RuntimeError, match="in use"), lock.hold_lock(str(tmp_path)):
        pass
    assert left(tmp_path) == []


@pytest.mark.real
def test_only_the_lock_of_a_killed_holder_is_taken_over(tmp_path):
    first = start(HOLD, tmp_path, 600)
    try:
        assert first.stdout.readline() == "held\n"
        refused = subprocess.run([sys.executable, "-c", HOLD, tmp_path, "0"], capture_output=True, text=True)
        assert refused.returncode == 1
        assert f"process {first.pid} on" in refused.stderr
        first.send_signal(signal.SIGSTOP)  # suspended is not dead
        assert lock.is_alive(str(tmp_path), lock.read_chain(str(tmp_path)))
        first.kill()
        while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with lock.hold_lock(str(tmp_path)) as held:  # not waited for yet: a zombie holds nothing
            held.check()
    finally:
        first.kill()
        first.communicate()
    assert left(tmp_path) == []


@pytest.mark.real
def test_a_suspended_holder_is_taken_over_once_it_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SUSPENDED_S", 2.0)
    said = []
    first = start(HOLD_AND_CHECK, tmp_path)
    try:
        assert first.stdout.readline() == "held\n"
        suspend(first)
        with lock.hold_lock(str(tmp_path), said.append) as held:
            held.check()
            first.send_signal(signal.SIGCONT)
            out, errors = first.communicate(timeout=60)
            held.check()
    finally:
        first.kill()
        first.communicate()
    assert "is suspended: its lock is taken over 2 s after" in said[0]
    assert "which is suspended" in said[1]
    assert (first.returncode, out) == (1, "")
    assert "nothing is damaged: run the same command again" in errors
    assert left(tmp_path) == []


@pytest.mark.real
def test_a_suspended_holder_that_is_continued_keeps_the_lock(tmp_path):
    first = start(HOLD, tmp_path, 600)
    try:
        assert first.stdout.readline() == "held\n"
        suspend(first)
        with (
            pytest.raises(RuntimeError, match=f"in use by process {first.pid}"),
            lock.hold_lock(str(tmp_path), lambda text: first.send_signal(signal.SIGCONT)),
        ):
            pass
    finally:
        first.kill()
        first.communicate()


@pytest.mark.real
def test_racing_processes_hold_the_lock_one_at_a_time(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    racing = [start(RACE, tmp_path / "ws", tmp_path / "inside", ended.pid) for _ in range(3)]
    results = [process.communicate(timeout=120) for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0], results
    assert sum(int(out) for out, _ in results) >= 3
    with lock.hold_lock(str(tmp_path / "ws")):
        pass
    assert left(tmp_path / "ws") == []
