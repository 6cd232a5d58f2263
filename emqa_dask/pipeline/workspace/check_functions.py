"""Functions of custom checks: loaded by their import path, and identified by a digest of their code."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from emqa_dask.settings import Settings, SettingsError
from emqa_dask.settings.custom_checks import CustomCheck

MAX_SOURCE_FILES = 2000  # of a package that are part of the digest; of a larger one only the module's own file is

_loaded_sources: dict[str, str] = {}  # module -> digest of the code that this process has loaded


def resolve_checks(settings: Settings, *, is_forced: bool) -> Settings:
    """`settings` with the digest of the code of each custom check; without `is_forced` only where there is none.

    Raises SettingsError, with the remedy, for a function that cannot be imported or called with an image and a header.
    """
    checks = tuple(
        check if check.source and not is_forced else dataclasses.replace(check, source=_identify(check))
        for check in settings.flags.custom
    )
    return dataclasses.replace(settings, flags=dataclasses.replace(settings.flags, custom=checks))


def _identify(check: CustomCheck) -> str:
    key = f"flags.custom.{check.name}.function"
    try:
        module = _import_module(check)
        source = digest_code(module)
        function = load_function(dataclasses.replace(check, source=source))
    except ImportError as error:
        raise SettingsError(f"{key}: {error}") from error
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise SettingsError(f"{key} is {check.function!r}: it has to take (image, header): {error}") from error
    except ValueError:  # a built-in function says nothing about its arguments
        pass
    return source


def load_function(check: CustomCheck) -> Callable:
    """The function of `check`; ImportError, with the remedy, where it cannot be imported or has other code than then.

    Code that has changed since this process imported it is imported again.
    """
    return _load_function(check.function, check.folder, check.source)


@functools.cache
def _load_function(path: str, folder: str, source: str) -> Callable:
    check = CustomCheck("check", path, 0.0, True, folder=folder, source=source)
    module = _import_module(check)
    if digest_code(module) != source:
        raise ImportError(
            f"{module.__file__} of the custom check {path} is not the code that the run was started with: run the same "
            "command again where it has changed, or install the same version on all machines"
        )
    try:
        function = functools.reduce(getattr, path.partition(":")[2].split("."), module)
    except AttributeError as error:
        raise ImportError(f"{path} cannot be imported ({error}): correct the name of the function") from error
    if not callable(function):
        raise ImportError(f"{path} is a {type(function).__name__}, not a function: correct its name")
    return function


def _import_module(check: CustomCheck) -> ModuleType:
    """The module of the function, imported again where its code has changed; ImportError with the remedy."""
    name = check.function.partition(":")[0]
    if check.folder and check.folder not in sys.path:
        sys.path.append(check.folder)  # behind installed packages, so that no file of the user hides one of them
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
        source = digest_code(module)
        if _loaded_sources.setdefault(name, source) != source:
            _forget_package(name.partition(".")[0])
            module = importlib.import_module(name)
            _loaded_sources[name] = source
    except Exception as error:  # the user's module runs at its import
        raise ImportError(
            f"{check.function} cannot be imported ({type(error).__name__}: {error}): install its package where emqa "
            f"and its workers run, or put the module into {check.folder or 'the folder of the settings file'}"
        ) from error
    _check_origin(module, name, check.folder)
    return module


def _forget_package(stem: str) -> None:
    """Removes the modules of a package from those that this process has imported."""
    for name in [name for name in sys.modules if name == stem or name.startswith(f"{stem}.")]:
        del sys.modules[name]


def _check_origin(module: ModuleType, name: str, folder: str) -> None:
    """Raises ImportError where an installed package hides a module of the same name in `folder`."""
    stem = name.partition(".")[0]
    local_path = next((path for path in (Path(folder, f"{stem}.py"), Path(folder, stem)) if path.exists()), None)
    if not folder or local_path is None or module.__file__ is None:
        return
    if not os.path.realpath(module.__file__).startswith(os.path.realpath(folder) + os.sep):
        raise ImportError(f"{module.__file__} hides {local_path}, which has the same name: rename your module")


def digest_code(module: ModuleType) -> str:
    """8 hex digits of the code of `module`: its file, all Python files of its package, and the package's version."""
    stem = module.__name__.partition(".")[0]
    sha256 = hashlib.sha256()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        sha256.update(importlib.metadata.version(stem).encode())
    for path in _list_sources(module, stem):
        content = path.read_bytes()
        sha256.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return sha256.hexdigest()[:8]


def _list_sources(module: ModuleType, stem: str) -> list[Path]:
    """The files whose content is the code of `module`; those of its package in the order of their paths."""
    own_file = [Path(module.__file__)] if module.__file__ else []
    package_file = getattr(sys.modules.get(stem), "__file__", None)
    if package_file is None or Path(package_file).stem != "__init__":
        return own_file
    package_files = sorted(Path(package_file).parent.rglob("*.py"))
    return package_files if len(package_files) <= MAX_SOURCE_FILES else own_file
