"""What pyproject.toml cannot say: the configs go into the package as `.mim`, as OpenMMLab's do."""

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the package and, into its folder `.mim`, the configs and an index of them."""

    def run(self) -> None:
        """Build into an empty folder: an earlier build may have left modules that are gone."""
        if self.editable_mode:  # the package finds the configs of the checkout
            super().run()
            return
        package = Path(self.build_lib, "mmconvnext")
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        mim = package / ".mim"
        configs = shutil.copytree("configs", mim / "configs", ignore=shutil.ignore_patterns("__*"))
        names = sorted(
            path.relative_to(configs).with_suffix("").as_posix()
            for path in configs.rglob("*.py")
            if "_base_" not in path.parts
        )
        models = [{"Name": name, "Config": f"configs/{name}.py"} for name in names]
        # JSON is YAML, too.
        (configs / "metafile.yml").write_text(json.dumps({"Models": models}, indent=1))
        (mim / "model-index.yml").write_text(json.dumps({"Import": ["configs/metafile.yml"]}))


setup(cmdclass={"build_py": BuildWithConfigs})
