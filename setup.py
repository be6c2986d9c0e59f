"""What pyproject.toml cannot say: the configs go into the package as `.mim`, as OpenMMLab's do."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the package and, into its folder `.mim`, the configs and the index of the models."""

    def run(self) -> None:
        """Build into an empty folder: an earlier build may have left modules that are gone."""
        package = Path(self.build_lib) / "mmconvnext"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.editable_mode:  # there the configs of the checkout are found
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree("configs", package / ".mim" / "configs", ignore=ignore)
            shutil.copy("model-index.yml", package / ".mim")


setup(cmdclass={"build_py": BuildWithConfigs})
