"""dump and load of skops, with the parts of scikit-learn that stored forests need, imported in little time."""

import sys

import sklearn.ensemble
import sklearn.pipeline
import sklearn.preprocessing  # noqa: F401

# skops walks through all of scikit-learn to list the types that it trusts. It thereby imports torch, cupy and
# dask.array through scikit-learn's adapters: seconds in every process, for types that no forest has. None stops an
# import.
_ADAPTERS = [f"sklearn.externals.array_api_compat.{name}" for name in ("torch", "cupy", "dask")]
sys.modules.update({name: None for name in _ADAPTERS if name not in sys.modules})
try:
    from skops.io import dump, load
finally:
    for _name in _ADAPTERS:
        if sys.modules.get(_name) is None:
            sys.modules.pop(_name, None)

__all__ = ["dump", "load"]
