"""Puts the built page into what is packaged; everything else about the package is in pyproject.toml.

An editable installation serves `web/dist` from where it is built. Where npm is missing the package is made without a
page, and its server says so at `/`.
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
BUILT = HERE / "web" / "dist"


class WithPage(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        if (build := HERE / "scripts" / "build-web").exists():
            subprocess.run([build], check=True)  # noqa: S603
        if (BUILT / "index.html").exists():
            shutil.copytree(BUILT, Path(self.build_lib) / "realtime" / "edge" / "page", dirs_exist_ok=True)


setup(cmdclass={"build_py": WithPage})
