"""Which verdict does an image get, and why?"""

from emqa_dask.triage.verdicts import decide

__all__ = ["decide"]
