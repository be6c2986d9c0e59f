"""Importing no more than is needed: names of ours on first use, actions on others' imports.

torch, MMEngine, MMCV and MMDetection take seconds to import, and ``import mmconvnext`` takes none
of them: ``lazy_names`` imports what is asked for, ``after_import`` does what has to be done to a
module of another library when, and only when, somebody imports that. Standard library only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], object]


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__`` (PEP 562), which import at the first use.

    Args:
        package: its name.
        names: public name -> the module that has it. A subpackage is its own module.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(names[name])
        value = module if module.__name__ == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # found directly from now on
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, list_names


def after_import(name: str, action: Action) -> None:
    """Do something to a module once it is imported: now, if it is already; at each reload, too.

    Args:
        name: of the module. It need not be installed.
        action: is given the module, whole, before anybody who imports it goes on. A second call
            with the same function adds nothing; the function must bear being called twice.
    """
    actions = FINDER.actions.setdefault(name, [])
    if action not in actions:
        actions.append(action)
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    if name in sys.modules:
        action(importlib.import_module(name))  # waits where another thread is importing it


class _Finder(MetaPathFinder):
    """Finds what the finders behind it find, and has actions follow the import."""

    def __init__(self) -> None:
        self.actions: dict[str, list[Action]] = {}

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """Return the module's spec with a loader that acts, None where nobody waits for it."""
        if fullname not in self.actions:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find and finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ActingLoader(spec.loader, self.actions[fullname])
                return spec
        return None


class _ActingLoader(Loader):
    """Loads a module by its own loader, leaves it that one, and acts."""

    def __init__(self, loader: Loader, actions: Sequence[Action]) -> None:
        self._loader = loader
        self._actions = actions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, get_data, ...

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the actions."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for action in tuple(self._actions):
            action(module)


FINDER = _Finder()
