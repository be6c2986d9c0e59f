"""What is trained in two processes, started once for all tests."""

import os
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.training.processes import in_processes

MODULES = (
    "test_sharding",
    "test_global_losses",
    "test_unused_parameters",
    "test_distillation",
    "test_lost_processes",  # at last: it sets a short time to wait for others
)


def each(folder: Path) -> dict:
    return {
        name: import_module(f"tests.training.{name}").in_each_process(folder) for name in MODULES
    }


@pytest.fixture(scope="session")
def processes_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    import_module("tests.training.test_sharding").prepare(folder)
    return folder


@pytest.fixture(scope="session")
def two_processes(processes_folder) -> Callable[[str], list]:
    """What ``in_each_process()`` of a module gave in each of two processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    came = in_processes(each, processes_folder)
    return lambda name: [of_process[name] for of_process in came]
