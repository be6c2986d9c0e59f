"""Modules that act once another is imported, and names that are imported at their first use."""

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType

import pytest

from mmconvnext.compat import imports
from mmconvnext.compat.imports import after_import


@pytest.fixture
def name(tmp_path, monkeypatch):
    """A module that can be imported and has not been; all of its kind go again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "ACTIONS", {})
    (tmp_path / "fresh_module.py").write_text("value = 1\n")
    yield "fresh_module"
    for module in [name for name in sys.modules if name.startswith("fresh_")]:
        del sys.modules[module]


# The actions:
def double(module: ModuleType) -> None:
    module.value *= 2


def add_5(module: ModuleType) -> None:
    module.value += 5


def fail(module: ModuleType) -> None:
    raise ValueError("cannot be patched")


def import_and_double(module: ModuleType) -> None:
    importlib.import_module(module.__name__).value *= 2


def test_a_module_that_is_there_already_is_acted_upon_at_once(name):
    module = importlib.import_module(name)
    after_import(name, __name__, "double")
    assert module.value == 2


def test_each_action_is_taken_once_in_order_after_the_import_and_after_a_reload(name):
    for action in ("double", "double", "add_5"):
        after_import(name, __name__, action)
    assert name not in sys.modules
    module = importlib.import_module(name)
    assert module.value == 7
    module.value = 0
    assert importlib.reload(module).value == 7


def test_a_module_is_acted_upon_before_its_importer_goes_on(tmp_path, name):
    (tmp_path / "fresh_package.py").write_text("from fresh_module import value\n")
    after_import(name, __name__, "double")
    assert importlib.import_module("fresh_package").value == 2


def test_an_action_may_import_the_module(name):
    after_import(name, __name__, "import_and_double")
    assert importlib.import_module(name).value == 2


def test_an_error_of_an_action_is_not_lost(name):
    after_import(name, __name__, "fail")
    with pytest.raises(ValueError, match="cannot be patched"):
        importlib.import_module(name)
    assert name not in sys.modules


def test_two_copies_of_the_finder_do_not_ask_each_other_in_turn(name, monkeypatch):
    spec = importlib.util.spec_from_file_location("second_copy", imports.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for module, action in ((imports, "double"), (copy, "add_5")):
        module.after_import(name, __name__, action)
    assert importlib.import_module(name).value == 7


@pytest.mark.usefixtures("name")
def test_what_is_not_installed_stays_missing():
    after_import("no_such_module", __name__, "double")
    assert importlib.util.find_spec("no_such_module") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module")


def test_the_module_looks_as_if_nobody_had_waited_for_it(name):
    plain = importlib.import_module(name)
    kind = type(plain.__loader__)
    del sys.modules[name]
    after_import(name, __name__, "double")
    spec = importlib.util.find_spec(name)
    assert spec.origin == plain.__spec__.origin
    assert spec.loader.get_source(name) == "value = 1\n"
    module = importlib.import_module(name)
    assert type(module.__loader__) is type(module.__spec__.loader) is kind
    assert inspect.getsource(module) == "value = 1\n"


@pytest.mark.usefixtures("name")
def test_a_namespace_package_is_found(tmp_path):
    (tmp_path / "fresh_namespace").mkdir()
    after_import("fresh_namespace", __name__, "double")
    assert list(importlib.util.find_spec("fresh_namespace").submodule_search_locations)


def test_our_module_is_imported_where_there_is_no_function_to_call(tmp_path, name):
    (tmp_path / "fresh_follower.py").write_text("")
    after_import(name, "fresh_follower")
    assert "fresh_follower" not in sys.modules
    importlib.import_module(name)
    assert "fresh_follower" in sys.modules


@pytest.mark.usefixtures("name")
def test_a_lazy_name_or_module_is_imported_at_its_first_use(tmp_path):
    (tmp_path / "fresh_lazy").mkdir()
    (tmp_path / "fresh_lazy/__init__.py").write_text(
        "from mmconvnext.compat.imports import lazy_names\n"
        "__getattr__ = lazy_names(__name__, {'Thing': 'inner', 'inner': 'inner'})\n"
    )
    (tmp_path / "fresh_lazy/inner.py").write_text("class Thing: pass\n")
    package = importlib.import_module("fresh_lazy")
    assert "fresh_lazy.inner" not in sys.modules
    assert package.Thing is package.inner.Thing is sys.modules["fresh_lazy.inner"].Thing
    with pytest.raises(AttributeError, match="module 'fresh_lazy' has no attribute 'Nothing'"):
        package.Nothing()
