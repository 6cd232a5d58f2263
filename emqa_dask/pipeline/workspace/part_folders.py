"""Folders of parts that do not belong to stages: failures, and the two tables of the survey."""


def name_failures_folder(table_folder: str) -> str:
    """The folder with the failures (parts of tables.FAILURES) of the table in `table_folder`."""
    return f"failures-{table_folder}"


SURVEY_FILES = "survey"  # parts of tables.CATALOG, which ingest enters into the catalog
SURVEY_FRAMES = "survey-micrographs"  # parts of tables.MICROGRAPHS, which ingest enters into the ledger
SURVEY_FAILURES = name_failures_folder(SURVEY_FILES)
SURVEY_FAILED = "the task that was to survey it failed; the next run tries it again"  # reason of a file in the catalog
