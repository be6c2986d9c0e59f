"""``mmconvnext::NAME`` as the name of a config of this package, in ``_base_`` and in commands.

MMEngine (0.10) resolves ``package::folder/name`` for the packages of a table of its own only, wants
a folder in the name, and builds what such a base defines in a registry scope named like the
package; a plugin registers in MMDetection's, so its configs have no scope of their own.
"""

from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from mmconvnext.errors import ConfigError

PREFIX = "mmconvnext::"
EXAMPLES = 8  # of configs, in a message


def config_dir() -> Path:
    """Find the configs: in ``.mim`` of an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / ".mim" / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_path(name: str) -> str:
    """Find the config of a name, with or without ``mmconvnext::`` and ``.py``.

    Raises:
        ConfigError: there is none.
    """
    folder, name = config_dir(), name.removeprefix(PREFIX)
    path = folder / f"{name.removesuffix('.py')}.py"
    if path.is_file():
        return str(path)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.py"))
    similar = get_close_matches(path.name, names, n=3)
    similar = similar or [*(n for n in names if "/" not in n)][:EXAMPLES]
    raise ConfigError(f"{folder} has no config {name!r}; it has, for example, {', '.join(similar)}")


def install(config: ModuleType) -> None:
    """Let ``_base_`` of ``mmengine.config.config`` name the package's configs."""
    find = config.Config._get_cfg_path
    if find.__module__ == __name__:  # this has been done
        return

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return config_path(cfg_path), None
        return find(cfg_path, filename)

    config.Config._get_cfg_path = staticmethod(get_cfg_path)
