"""Parts of a distributed evaluation that nobody else can write, and YAML without objects.

Needed by: mmengine 0.10, which unpickles the parts from a folder within ``.dist_test``, which may
be another's, and reads ``.yaml`` with a loader that calls what a tag such as
``!!python/object/apply:os.system`` names.
"""

import tempfile
from types import ModuleType
from typing import Any

import yaml


def install_yaml(handler: ModuleType) -> None:
    """Let ``mmengine.load`` and ``Config.fromfile`` read settings alone out of YAML."""
    handler.Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def install_collect(dist: ModuleType) -> None:
    """Let processes exchange parts of their results in a folder that their user alone can enter.

    It is in the working folder, as MMEngine has it, which the machines of a run share.
    """
    collect = dist.collect_results_cpu

    def collect_results_cpu(part: list, size: int, tmpdir: str | None = None) -> Any:
        if tmpdir is None and dist.get_world_size() > 1:
            names = [
                tempfile.mkdtemp(prefix=".dist_test_", dir=".") if dist.get_rank() == 0 else ""
            ]
            dist.broadcast_object_list(names)
            tmpdir = names[0]
        return collect(part, size, tmpdir)

    dist.collect_results_cpu = collect_results_cpu
