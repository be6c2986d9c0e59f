"""Configs are found by name, in ``_base_`` too, in a checkout; tests/test_wheel.py: installed."""

import pytest
from mmengine.config import Config

import mmconvnext
from mmconvnext.compat import config_names
from mmconvnext.errors import ConfigError

NAME = "cascade_convnext_t_coco.py"


@pytest.mark.parametrize(
    "name", [NAME, NAME[:-3], f"mmconvnext::{NAME}", f"mmconvnext::{NAME[:-3]}"]
)
def test_a_config_has_its_name_with_or_without_prefix_and_suffix(repo, name):
    assert mmconvnext.config_path(name) == str(repo / "configs" / NAME)


def test_the_package_folder_of_an_installed_package_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(config_names, "__file__", str(tmp_path / "mmconvnext/compat/x.py"))
    installed = tmp_path / "mmconvnext/.mim/configs"
    installed.mkdir(parents=True)
    assert config_names.config_dir() == installed


def test_an_unknown_name_is_refused_with_similar_ones():
    with pytest.raises(ConfigError, match=r"no config 'cascade_convnext_t.*, cascade_convnext_t_"):
        config_names.config_path("mmconvnext::cascade_convnext_t")
    with pytest.raises(ConfigError, match=r"it has, for example, cascade_convnext_b_coco\.py"):
        config_names.config_path("nothing_like_it")


@pytest.mark.parametrize(
    "base", ['"mmconvnext::{}"', '["mmconvnext::{}"]', '__import__("mmconvnext").config_path("{}")']
)
def test_a_config_inherits_one_by_name(repo, tmp_path, base):
    path = tmp_path / "own.py"
    path.write_text(f'_base_ = {base.format(NAME)}\nmodel = dict(backbone=dict(arch="small"))\n')
    expected = Config.fromfile(repo / "configs" / NAME)
    expected.model.backbone.arch = "small"
    assert Config.fromfile(path).to_dict() == expected.to_dict()  # and no `_scope_` anywhere


def test_other_packages_configs_are_found_by_mmengine(tmp_path):
    path = tmp_path / "own.py"
    path.write_text('_base_ = "mmdet::_base_/default_runtime.py"\n')
    assert Config.fromfile(path).default_scope == "mmdet"
    path.write_text('_base_ = "./missing.py"\n')
    with pytest.raises(FileNotFoundError):
        Config.fromfile(path)
