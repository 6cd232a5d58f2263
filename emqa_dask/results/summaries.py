"""What a run is, in a few lines of text or in a table of HTML: files, verdicts, detectors, tables."""

from dataclasses import dataclass

from markupsafe import Markup

from emqa_dask.tables import VERDICTS

N_SHOWN_REASONS = 3  # of a verdict


@dataclass(frozen=True)
class RunSummary:
    """The numbers of a run; without a report there are no verdicts."""

    uri: str
    archive: str
    n_files: int
    n_micrographs: int
    archive_bytes: int
    verdicts: dict[str, int]
    first_reasons: dict[str, dict[str, int]]
    detectors: tuple[str, ...]
    stacks: tuple[str, ...]
    folders: dict[str, str]
    report_page: str

    def list_facts(self) -> list[tuple[str, str]]:
        """Names and texts, in order."""
        counts = f"{self.n_files:,} files ({format_bytes(self.archive_bytes)}), {self.n_micrographs:,} micrographs"
        facts = [
            ("archive", self.archive),
            ("content", counts),
            ("detectors", ", ".join(self.detectors)),
            ("stacks", _shorten(self.stacks)),
            ("tables", ", ".join(self.folders.values())),
        ]
        if not self.verdicts:
            return [*facts, ("verdicts", "none yet: run `emqa report`")]
        return [*facts, ("report", self.report_page)]

    def list_verdicts(self) -> list[tuple[str, int, str]]:
        """Verdict, number of rows and their main reasons, in the order of tables.VERDICTS."""
        rows = []
        for verdict in VERDICTS if self.verdicts else ():
            reasons = list(self.first_reasons.get(verdict, {}).items())[:N_SHOWN_REASONS]
            text = "" if verdict == "trust" else ", ".join(f"{code} {n:,}" for code, n in reasons)
            rows.append((verdict, self.verdicts.get(verdict, 0), text))
        return rows

    def render_text(self) -> str:
        """Lines for a terminal."""
        lines = [f"Run of emqa_dask in {self.uri}"]
        lines += [f"  {name:<10} {text}" for name, text in self.list_facts()]
        lines += [f"  {verdict:<14} {n:>9,}   {text}".rstrip() for verdict, n, text in self.list_verdicts()]
        return "\n".join(lines)

    def render_html(self) -> str:
        """Two tables for a notebook; every text is escaped."""
        facts = Markup("").join(
            Markup("<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>").format(*fact)
            for fact in self.list_facts()
        )
        verdicts = Markup("").join(
            Markup("<tr><th style='text-align:left'>{}</th><td>{}</td><td style='text-align:left'>{}</td></tr>").format(
                verdict, f"{n:,}", text
            )
            for verdict, n, text in self.list_verdicts()
        )
        head = Markup("<p><b>Run of emqa_dask</b> in {}</p>").format(self.uri)
        heading = "<tr><th>verdict</th><th>rows</th><th>main reasons</th></tr>"
        counts = Markup("<table>" + heading + "{}</table>").format(verdicts) if verdicts else Markup("")
        return str(head + Markup("<table>{}</table>").format(facts) + counts)


def format_bytes(n_bytes: int) -> str:
    """A number of bytes with a unit of which it has at least one, for people."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


def _shorten(names: tuple[str, ...], n_shown: int = 5) -> str:
    return ", ".join(names[:n_shown]) + (f" and {len(names) - n_shown:,} more" if names[n_shown:] else "")
