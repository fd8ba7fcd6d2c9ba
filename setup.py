"""The wheel's packages: the library, and in `teacache.pack` the nodes and the demo model."""

from setuptools import find_packages, setup

FOLDERS = {f"teacache.pack.{name}": name for name in ("nodes", "models", "workflows")}

setup(packages=[*find_packages(include=["teacache*"]), *FOLDERS], package_dir=FOLDERS)
