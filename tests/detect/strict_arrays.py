"""Arrays that refuse implicit conversion, as those on a GPU do, and the modules that work with them."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import scipy.ndimage
import skimage.filters
import skimage.transform


class Strict:
    """An array that, like cupy's, works with its own kind and numbers only: numpy may neither read nor convert it."""

    __module__ = "cupy"

    def __init__(self, array):
        self.inner = np.asarray(array)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        allowed = (Strict, bool, int, float, np.generic)
        if method != "__call__" or not all(isinstance(x, allowed) for x in inputs):
            raise TypeError(f"numpy.{ufunc.__name__} of an array on the host and one on a device")
        return Strict(ufunc(*(bare(x) for x in inputs)))

    def __getattr__(self, name):
        if name.startswith("__"):  # the buffer and array interfaces, by which numpy would read it
            raise AttributeError(name)
        found = getattr(self.inner, name)
        if not callable(found):
            return Strict(found) if isinstance(found, np.ndarray) else found
        return lambda *args, **kwargs: guarded(found, args, kwargs)

    def __getitem__(self, key):
        return Strict(self.inner[bare(key)])

    def __len__(self):
        return len(self.inner)

    def __bool__(self):
        return bool(self.inner)

    def __int__(self):
        return int(self.inner)

    def __float__(self):
        return float(self.inner)

    def get(self):
        return self.inner


def bare(x):
    if isinstance(x, tuple | list):
        return type(x)(map(bare, x))
    if isinstance(x, np.ndarray):
        raise TypeError("a NumPy array met an array on a device")
    return x.inner if isinstance(x, Strict) else x


def guarded(function, args, kwargs):
    found = function(*map(bare, args), **{name: bare(value) for name, value in kwargs.items()})
    if isinstance(found, tuple):
        return tuple(map(Strict, found))
    return Strict(found) if isinstance(found, np.ndarray | np.generic) else found


for _name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "invert", "neg", "eq", "ge", "gt", "le", "lt", "abs"):
    for _side in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if hasattr(np.ndarray, _side):
            setattr(Strict, _side, lambda self, *others, _side=_side: guarded(getattr(self.inner, _side), others, {}))


class StrictModule:
    """numpy, scipy.ndimage or scikit-image for Strict arrays; `asarray` alone takes arrays of the host."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        if isinstance(found, ModuleType):
            return StrictModule(found)
        if name == "asarray":
            return lambda array, dtype=None: Strict(found(bare(array) if isinstance(array, Strict) else array, dtype))
        return lambda *args, **kwargs: guarded(found, args, kwargs)


class StrictDevice(StrictModule):
    """`cupy` for Strict arrays, on one device; the shapes of the arrays that were moved there."""

    def __init__(self):
        super().__init__(np)
        self.uploads: list[tuple[int, ...]] = []
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 1))

    def asarray(self, array, dtype=None):
        if not isinstance(array, Strict):
            self.uploads.append(np.shape(array))
        return Strict(np.asarray(bare(array) if isinstance(array, Strict) else array, dtype))


def install_strict_device(monkeypatch) -> StrictDevice:
    """Let `backend` import Strict arrays and their modules in the place of cupy, cupyx and cucim."""
    device = StrictDevice()
    cupyx = SimpleNamespace(scipy=SimpleNamespace(ndimage=StrictModule(scipy.ndimage)))
    cucim = SimpleNamespace(skimage=StrictModule(skimage))
    packages = {"cupy": device, "cupyx": cupyx, "cupyx.scipy": cupyx.scipy, "cupyx.scipy.ndimage": cupyx.scipy.ndimage}
    packages |= {"cucim": cucim, "cucim.skimage": cucim.skimage}
    packages |= {"cucim.skimage.filters": skimage.filters, "cucim.skimage.transform": skimage.transform}
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    return device
