"""Importing no more than is needed. Standard library only.

torch, MMEngine, MMCV and MMDetection take seconds to import, and ``import mmconvnext`` takes none
of them: the command answers ``--help`` at once, and what has to be done to a module of theirs is
done when, and only when, somebody imports it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Module of another package -> the actions that wait for it: our module, and its function, if any.
ACTIONS: dict[str, list[tuple[str, str | None]]] = {}


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__`` (PEP 562), which imports a name at its first use.

    Args:
        package: its name.
        modules: public name -> the module of the package that has it, or that it is.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if modules[name] == name else getattr(module, name)

    return get


def after_import(name: str, ours: str, function: str | None = None) -> None:
    """Act once a module is imported: now, if it is already; at each reload, too.

    Args:
        name: of the module, which need not be installed.
        ours: a module of this package, to be imported then.
        function: of ``ours``, to be called with the other module, whole, before anybody who imports
            it goes on; it must bear being called twice.
    """
    actions = ACTIONS.setdefault(name, [])
    if (ours, function) not in actions:
        actions.append((ours, function))
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    if name in sys.modules:
        _act(importlib.import_module(name), ours, function)  # waits for a thread that imports it


def _act(module: ModuleType, ours: str, function: str | None) -> None:
    own = importlib.import_module(ours)
    if function is not None:
        getattr(own, function)(module)


class _Finder(MetaPathFinder):
    """Finds what the finders behind it find, and has the actions follow the import."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """Return the module's spec with a loader that acts, None where no action waits for it."""
        if fullname not in ACTIONS:
            return None
        # Only those behind it: the finder of another copy of this module looks behind itself, too.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ActingLoader(spec.loader)
                return spec
        return None


class _ActingLoader(Loader):
    """Loads a module by its own loader, leaves it that one, and acts."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, get_data, ...

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the actions."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for ours, function in tuple(ACTIONS[module.__name__]):
            _act(module, ours, function)


FINDER = _Finder()
