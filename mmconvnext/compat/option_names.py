"""Names in ``--cfg-options``: of what is registered, and of nothing else that could be imported.

Needed by: mmengine 0.10, whose registries import and call whatever a name with dots stands for
(``type=subprocess.Popen``), wherever in a config it is, and import a scope (``_scope_``).
"""

import importlib
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE

from mmconvnext.compat.config_text import is_safe_type
from mmconvnext.errors import ConfigError

FLAG = "--allow-imports"
# The texts that options of this process have brought, of which a registry may be asked for one.
GIVEN: set[str] = set()


def check_names(key: str, value: Any) -> None:
    """Keep an option's texts in mind, and refuse what makes MMEngine import without a registry.

    Args:
        key: with dots, of the option.
        value: as it was read: a text, a number, or lists and dicts of them.

    Raises:
        ConfigError: it names a module or a scope to import.
    """
    last = key.rpartition(".")[2]
    if "custom_imports" in key.split("."):
        raise ConfigError(_refused(f"{key}={value}"))
    if last in ("_scope_", "default_scope") and value not in (None, "mmengine", *MODULE2PACKAGE):
        raise ConfigError(_refused(f"{key}={value}"))
    if isinstance(value, str):
        GIVEN.add(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_names(f"{key}.{name}", inner)
    elif isinstance(value, Iterable):
        for inner in value:
            check_names(key, inner)


def _refused(what: str) -> str:
    return (
        f"--cfg-options: {what} would import code that no registry holds: write it into the config "
        f"file, or allow it with {FLAG}"
    )


def install(module: ModuleType) -> None:
    """Let MMEngine's registries refuse an option's name that they do not hold."""
    get = module.Registry.get

    def checked(self: Any, key: Any) -> Any:
        if isinstance(key, str) and key in GIVEN:
            scope = key.partition(".")[0]
            if scope in MODULE2PACKAGE and scope != key:
                with suppress(ImportError):
                    importlib.import_module(f"{scope}.registry")
                if (child := self.root._search_child(scope)) is not None:
                    child.import_from_location()
            if not is_safe_type(key):
                raise ConfigError(_refused(key))
        return get(self, key)

    module.Registry.get = checked
