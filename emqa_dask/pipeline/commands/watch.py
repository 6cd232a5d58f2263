"""emqa watch: triages the files of an archive as they are complete, with the tables of an archive run."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.backend import to_device
from emqa_dask.pipeline.commands.choose_detectors import choose_detectors
from emqa_dask.pipeline.commands.executor import RunExecutor
from emqa_dask.pipeline.commands.ingest import ingest
from emqa_dask.pipeline.commands.make_tables import make_tables
from emqa_dask.pipeline.commands.report import RunFacts, report
from emqa_dask.pipeline.commands.triage import check_models, check_workspace
from emqa_dask.pipeline.commands.watch_alarms import SessionAlarms
from emqa_dask.pipeline.commands.watch_lines import format_alarm, format_verdict
from emqa_dask.pipeline.commands.watch_options import WatchOptions
from emqa_dask.pipeline.commands.watch_verdicts import decide_files, read_contents
from emqa_dask.pipeline.commands.webhook import Webhook
from emqa_dask.pipeline.workspace import journal, preconditions
from emqa_dask.pipeline.workspace.archive_sources import Archives, list_sources, name_sources
from emqa_dask.pipeline.workspace.batches import find_surveyed_files
from emqa_dask.pipeline.workspace.check_functions import resolve_checks
from emqa_dask.pipeline.workspace.failures import write_failures
from emqa_dask.pipeline.workspace.settled_files import SettledFiles
from emqa_dask.pipeline.workspace.stages import STEPS, list_step_tables
from emqa_dask.run.task import IN_PROCESS, Result
from emqa_dask.settings import Settings
from emqa_dask.store import files, lock, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

MAX_BATCH = 256  # files that are judged together: a backlog is worked off in such batches
SCAN_SHARE = 3  # a look at the archive takes at most a third of the time, however long it takes
REPORT_SHARE = 10  # and a report at most a tenth
RETRY_S = 5.0  # between looks at an archive that cannot be listed
MAX_LAST_REPORT_S = 4.0  # that the last report took: Ctrl-C ends within 8 s
HOLD_SETTLES = 10  # times the settling time that a file which cannot be read may still grow before its verdict is shown
STEPS_OF_BATCH = tuple(step for step in STEPS if step != "report")


def watch(
    archive: Archives,
    root: str,
    settings: Settings,
    options: WatchOptions,
    *,
    say: Callable[[str], None] = print,
    show: Callable[[str], None] = print,
    is_ended: Callable[[], bool] = lambda: False,
) -> int:
    """Exit code 0 after `is_ended`() or Ctrl-C: judges each complete version of each file of `archive` once.

    `show` gets a line for each verdict and alarm, `say` everything else. Workers stay between batches. The workspace is
    locked like that of a run, and a later watch or run goes on with it.
    Raises ValueError and OSError as a run does, but waits where the archive disappears after the start.
    """
    options.check()
    workspace = Workspace(root)
    settings = resolve_checks(settings, is_forced=True)
    preconditions.verify_samples(settings, STEPS)
    check_models(settings, _list_steps(settings), say)
    if settings.run.scheduler == IN_PROCESS:
        to_device(np.zeros(1), settings.run.device)
    sources = name_sources(list_sources(archive))
    _check_sources_exist(sources)
    marker.claim_workspace(root, sources)
    with lock.hold_lock(root, say) as run_lock, ExitStack() as stack:
        check_workspace(workspace, sources, settings, STEPS, say, has_pixels=True)
        stored_settings.write_settings(root, settings)
        record = stack.enter_context(journal.open_journal(workspace, run_lock.check))
        watcher = _Watcher(workspace, sources, settings, options, say, show)
        watcher.open(stack, record)
        try:
            while not is_ended():
                run_lock.check()
                watcher.look()
        except KeyboardInterrupt:
            say("stopped by Ctrl-C")
        watcher.close()
    return 0


def _list_steps(settings: Settings) -> list[str]:
    """Steps of a batch that make tables."""
    return [step for step in STEPS_OF_BATCH if step != "classify" or settings.classify.model]


def _check_sources_exist(sources: marker.Sources) -> None:
    """Raises FileNotFoundError for a local folder that does not exist at the start; an empty one is right."""
    for source in sources:
        if "://" not in source and not os.path.exists(source):
            raise FileNotFoundError(f"{files.redact(source)}: no such folder; give the folder that is to be watched")


@dataclass
class _Watcher:
    """A watch at work: looks, batches, reports."""

    workspace: Workspace
    sources: marker.Sources
    settings: Settings
    options: WatchOptions
    say: Callable[[str], None]
    show: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)  # of workers, by stage
    n_judged: int = 0

    def open(self, stack: ExitStack, record: Callable[[Result], None]) -> None:
        """Start workers at the first file, and read what earlier runs have done."""
        judged = find_surveyed_files(self.workspace, self.settings.archive)
        times = journal.summarise_times(self.workspace)  # once: the events of weeks are many files
        self.seconds = times.stage_seconds
        self.wall_s = times.wall_s
        self.n_workers = times.n_workers
        self.peak_memory_bytes = times.peak_memory_bytes
        self.gpu_time = times.gpu_time
        worker_addresses: set[str] = set()
        options = self.options
        self.files = SettledFiles(self.sources, self.settings.archive, self.workspace.uri, judged, options.settle_s)

        def note(result: Result) -> None:
            record(result)
            worker_addresses.add(result.event["worker"])
            self.n_workers = max(self.n_workers, len(worker_addresses))
            self.peak_memory_bytes = max(self.peak_memory_bytes, result.event["peak_memory_bytes"])
            self.gpu_time = self.gpu_time.add(result.event["seconds"], result.event["gpu_percent"])
            stages = result.value.get("stages") or {result.event["stage"]: result.event["seconds"]}
            for stage, seconds in stages.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

        has_workers = self.settings.run.scheduler != IN_PROCESS
        arguments = (self.workspace.uri, self.settings, note, self.say, stack)
        self.execute = RunExecutor(*arguments, has_workers=has_workers, is_watching=True)
        self.webhook = Webhook(options.webhook, self.say) if options.webhook else None
        self.alarms = SessionAlarms(self.workspace, self.settings, options.false_alarms, options.gap_s)
        self.started = time.time()
        self._last_report_s = time.monotonic()
        self._report_took_s = 0.0
        self._has_news = False
        self._is_absent = False
        self._unreadable: dict[str, tuple[float, dict, dict[str, float]]] = {}  # verdicts that wait, by URI
        if parts.count_rows(self.workspace.micrographs):  # of a run that was interrupted
            self._make_tables()
            self.alarms.replay()
        source = files.redact(marker.describe_sources(self.sources))
        self.say(f"watching {source} (Ctrl-C stops); results: {self.workspace.uri}")

    def look(self) -> None:
        """Look at the archive once, judge what is complete, write a report if it is time, and wait."""
        start_s = time.monotonic()
        try:
            entries = self.files.list_new(start_s)
        except OSError as error:
            if not self._is_absent:
                self.say(f"{files.redact(str(error))}; waiting until it is back")
            self._is_absent = True
            time.sleep(RETRY_S if self.options.every_s < RETRY_S else self.options.every_s)
            return
        if self._is_absent:
            self.say("the archive is back")
            self._is_absent = False
        scan_s = time.monotonic() - start_s
        for start in range(0, len(entries), MAX_BATCH):
            self._judge(entries[start : start + MAX_BATCH])
        due_uris = [uri for uri, (due_s, *_) in self._unreadable.items() if due_s <= time.monotonic()]
        for uri in due_uris:
            if not self.files.is_waiting(uri):  # a version that is being written gets the verdict
                _, row, dates_s = self._unreadable.pop(uri)
                self._show_verdict(row, dates_s)
        pause_s = max(self.options.report_every_s, REPORT_SHARE * self._report_took_s)
        if self._has_news and time.monotonic() - self._last_report_s >= pause_s:
            self._write_report()
        time.sleep(max(0.0, min(self.options.every_s, start_s + self.options.every_s - time.monotonic())))
        time.sleep(SCAN_SHARE * scan_s if scan_s > self.options.every_s else 0)

    def _judge(self, entries: list[Entry]) -> None:
        """Run all steps on the files of `entries`, and show their verdicts and the alarms that they raise."""
        start_s = time.monotonic()
        uris = [entry.uri for entry in entries]
        # A file may have been completed after it seemed complete and before it was read: its verdict was shown then.
        contents = read_contents(self.workspace, [uri for uri in uris if uri not in self._unreadable])
        shown_contents = set(contents.itertuples(index=False, name=None))
        ingest(self.workspace, self.sources, self.settings, self.execute, self.files.select(entries))
        self._make_tables()
        dates_s = {entry.uri: entry.modified_ns / 1e9 for entry in entries}
        for uri in uris:
            self._unreadable.pop(uri, None)
        due_s = time.monotonic() + HOLD_SETTLES * self.options.settle_s
        for row in decide_files(self.workspace, uris, self.settings).to_dict("records"):
            if row["status"] == "failed":
                self._unreadable[row["uri"]] = (due_s, row, dates_s)
            elif (row["uri"], row["content_sha256"]) not in shown_contents:
                self._show_verdict(row, dates_s)
        for alarm in self.alarms.add_files(uris):
            self._show_alarm(alarm)
        self.n_judged += len(entries)
        self.wall_s += time.monotonic() - start_s
        self._has_news = True

    def _make_tables(self) -> None:
        """Make the tables of all partitions that lack some."""
        if self.settings.detect.is_automatic:
            choose_detectors(self.workspace, self.settings, self.execute, self.say)
        steps = [step for step in _list_steps(self.settings) if list_step_tables(step)]
        make_tables(self.workspace, self.settings, steps, self.execute)
        write_failures(self.workspace, self.settings)

    def _show_verdict(self, row: dict, dates_s: dict[str, float]) -> None:
        seconds_since_file = time.time() - dates_s.get(row["uri"], np.nan)
        self.show(format_verdict(row, seconds_since_file, self.options.is_json))

    def _show_alarm(self, alarm: dict) -> None:
        self.show(format_alarm(alarm, self.options.is_json))
        if self.webhook:
            self.webhook.send(alarm)

    def _write_report(self) -> None:
        start_s = time.monotonic()
        failures = parts.load_table(self.workspace.failures, tables.FAILURES)
        seconds = {stage: round(s, 3) for stage, s in self.seconds.items()}
        memory_bytes, gpu_percent = self.peak_memory_bytes, self.gpu_time.compute_percent()
        facts = RunFacts(self.started, seconds, failures, self.wall_s, self.n_workers, memory_bytes, gpu_percent)
        report(self.workspace, marker.describe_sources(self.sources), self.settings, facts)
        self._last_report_s = time.monotonic()
        self._report_took_s = self._last_report_s - start_s
        self._has_news = False

    def close(self) -> None:
        """Write the last report unless that takes long, and send what the webhook waits for."""
        for _, row, dates_s in self._unreadable.values():
            self._show_verdict(row, dates_s)
        if self._has_news and self._report_took_s < MAX_LAST_REPORT_S:
            self._write_report()
        elif self._has_news:
            self.say(f"the report is of some time ago: {marker.format_command('report', self.workspace.uri)} renews it")
        if self.webhook:
            self.webhook.close()
        self.say(f"{self.n_judged:,} files were judged; report: {self.workspace.report_page}")
