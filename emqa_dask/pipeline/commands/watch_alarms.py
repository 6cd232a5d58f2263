"""Alarms of a watched archive: sessions by instrument, folder and gaps in time, and a test of each for drift."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.commands.watch_verdicts import read_contents, read_rows
from emqa_dask.pipeline.workspace import acquisition_groups, micrograph_ledger
from emqa_dask.pipeline.workspace.sessions import FEATURE_QUANTITIES
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import digests, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.uncertainty.exchangeability import MAX_IMAGES, Change, DriftTest

QUANTITIES = (*FEATURE_QUANTITIES, "predicted_f1")  # each image's, that are tested for drift
IMAGE_COLUMNS = ["micrograph_id", "uri", "instrument", "magnification", "acquired", "partition", "content_sha256"]
MAX_SESSIONS = 200  # that are open at a time: more folders or instruments close the oldest one
BLOCK_PARTITIONS = 256  # partitions whose tables are read together


@dataclass
class _Session:
    """An open session."""

    name: str
    last_s: float  # time of its last image, s since the epoch
    test: DriftTest
    # of its images since the test has started
    recent_uris: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_IMAGES))


class SessionAlarms:
    """Tests of the sessions of a watched archive, image by image in the order of the ledger."""

    def __init__(self, workspace: Workspace, settings: Settings, false_alarms: float, gap_s: float) -> None:
        """`false_alarms`: probability of an alarm in a session without drift; `gap_s` without images ends a session."""
        self._workspace = workspace
        self._settings = settings
        self._false_alarms = false_alarms
        self._gap_s = gap_s
        self._sessions: dict[str, _Session] = {}

    def replay(self) -> None:
        """Give all images of the workspace to the tests again, after a restart; their alarms were raised before."""
        for rows in micrograph_ledger.iter_current(self._workspace, IMAGE_COLUMNS):
            for _ in self._test_rows(rows):
                pass

    def add_files(self, uris: list[str]) -> list[dict]:
        """Rows of tables.ALARMS that the micrographs of the files `uris` raise; they are stored, too."""
        present = digests.DigestSet()
        present.add(digests.digest_contents(read_contents(self._workspace, uris)))
        rows = read_rows(self._workspace.micrographs, tables.MICROGRAPHS, IMAGE_COLUMNS, ("uri", uris))
        alarms = list(self._test_rows(rows[present.has(digests.digest_contents(rows))]))
        if alarms:
            stored = parts.load_table(self._workspace.alarms, tables.ALARMS)
            parts.write_table(
                self._workspace.alarms, pd.concat([stored, pd.DataFrame(alarms)], ignore_index=True), tables.ALARMS
            )
        return alarms

    def _test_rows(self, rows: pd.DataFrame) -> Iterator[dict]:
        """Alarms of `rows` (IMAGE_COLUMNS) of the ledger."""
        names = rows["partition"].unique()
        for start in range(0, len(names), BLOCK_PARTITIONS):
            block = names[start : start + BLOCK_PARTITIONS]
            images = self._read_images(rows[rows["partition"].isin(block)], block.tolist())
            groups = acquisition_groups.name_groups(images)
            for group, image in zip(groups, images.to_dict("records"), strict=True):
                session = self._find_session(group, image["time_s"])
                session.recent_uris.append(image["uri"])
                change = session.test.add({name: image[name] for name in QUANTITIES})
                if change:
                    yield self._make_alarm(session, change)
                    session.recent_uris.clear()

    def _read_images(self, rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """`rows` with QUANTITIES and time_s, that of the acquisition or else of the file."""
        folders = list_run_folders(self._settings)
        read_columns = {
            "features": ["micrograph_id", *FEATURE_QUANTITIES],
            "predictions": ["micrograph_id", "predicted_f1"],
        }
        for table, columns in read_columns.items():
            own_names = [name for name in names if parts.has_part(self._workspace.uri, folders[table], name)]
            content = parts.read_table(self._workspace.uri, folders[table], SCHEMAS[table], columns, own_names)
            content = content.groupby("micrograph_id", as_index=False).max()  # of several detectors the best
            rows = rows.merge(content, on="micrograph_id", how="left")
        dates = read_rows(
            self._workspace.catalog, tables.CATALOG, ["uri", "modified_ns"], ("uri", rows["uri"].unique().tolist())
        )
        file_time_s = rows["uri"].map(dates.drop_duplicates("uri").set_index("uri")["modified_ns"]) / 1e9
        acquired = pd.to_datetime(rows["acquired"], format="ISO8601", errors="coerce", utc=True)
        acquired_s = (acquired - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
        return rows.assign(time_s=acquired_s.fillna(file_time_s).astype(float))

    def _find_session(self, group: str, time_s: float) -> _Session:
        """The open session of `group` (folder, instrument, magnification), or a new one after a gap in time."""
        session = self._sessions.pop(group, None)
        if session is None or abs(time_s - session.last_s) > self._gap_s:
            start = datetime.fromtimestamp(time_s if np.isfinite(time_s) else 0, UTC)
            name = f"{group}, {start:%Y-%m-%d %H:%M:%S}"
            session = _Session(name, time_s, DriftTest(QUANTITIES, self._false_alarms))
        session.last_s = time_s
        self._sessions[group] = session  # behind all others: the first one is the oldest
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _make_alarm(self, session: _Session, change: Change) -> dict:
        """Row of tables.ALARMS."""
        n_recent = len(session.recent_uris)
        first = max(0, n_recent - (change.n_images - change.first))
        return {
            "session": session.name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "statistic": change.quantity,
            "value": change.log_martingale,
            "threshold": change.threshold,
            "n_images": change.n_images,
            "first_uri": session.recent_uris[min(first, n_recent - 1)],
            "last_uri": session.recent_uris[-1],
        }
