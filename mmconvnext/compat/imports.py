"""Importing no more than is needed. Standard library only.

torch, MMEngine, MMCV and MMDetection take seconds to import, and ``import mmconvnext`` takes none
of them: the command answers ``--help`` at once, and what has to be done to a module of theirs is
done when, and only when, somebody imports it.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Module of another package -> the actions that wait for it: our module, and its function, if any.
ACTIONS: dict[str, list[tuple[str, str | None]]] = {}
# Of those, some that may not be installed -> the error that says what to do.
MISSING: dict[str, type[ImportError]] = {}


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__`` (PEP 562), which imports a name at its first use.

    ``modules`` has, for each public name, the module of the package that has it, or that it is.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if modules[name] == name else getattr(module, name)

    return get


def after_import(name: str, ours: str, function: str | None = None) -> None:
    """Act once a module is imported, which may not be installed: at once, if it is already.

    ``ours``, a module of this package, is imported, and its function called with the other module,
    whole, before anybody who imports that goes on. After a reload it is called again.
    """
    actions = ACTIONS.setdefault(name, [])
    if (ours, function) not in actions:
        actions.append((ours, function))
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    if name in sys.modules:
        # another thread may be importing it: wait until it is whole
        _act(importlib.import_module(name), [(ours, function)])


def _act(module: ModuleType, actions: list[tuple[str, str | None]]) -> None:
    for ours, function in tuple(actions):
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
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        finds = (finder.find_spec for finder in behind if hasattr(finder, "find_spec"))
        spec = next(filter(None, (find(fullname, path, target) for find in finds)), None)
        if spec is None and fullname in MISSING:
            raise MISSING[fullname]
        if spec is not None and spec.loader is not None:
            _act_after(spec.loader)
        return spec


def _act_after(loader: Loader) -> None:
    """Have the actions follow the next module that a loader runs; then it is as it was."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        loader.exec_module = run
        run(module)
        _act(module, ACTIONS.get(module.__name__, []))

    loader.exec_module = exec_module


FINDER = _Finder()
