"""Folders of parts in a workspace, beside those of stages: failures, and the two tables that a survey writes."""


def failures_folder(table_folder: str) -> str:
    """The folder with the failures of the table in `table_folder`: parts of tables.FAILURES, where there are any."""
    return f"failures-{table_folder}"


SURVEY_FILES = "survey"  # parts of tables.CATALOG, which ingest enters into the catalog
SURVEY_FRAMES = "survey-micrographs"  # parts of tables.MICROGRAPHS, which ingest enters into the ledger
SURVEY_FAILURES = failures_folder(SURVEY_FILES)
SURVEY_FAILED = "the task that was to survey it failed; the next run tries it again"  # reason of a file in the catalog
