"""python -m emqa_dask: the same as the command emqa."""

import sys

from emqa_dask.cli import script

if __name__ == "__main__":
    sys.exit(script())
