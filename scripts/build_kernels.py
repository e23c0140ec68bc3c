"""Hook of the installation: compiles the kernels; without a compiler everything works on torch's own, slower ones."""

import runpy
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src") / "baichuan2" / "kernels"


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by the build backend for wheels and for editable installations; never lets one fail."""

    folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Editable: compiles beside the sources. A wheel gets a library of its own and the tag of this platform."""
        try:
            build = runpy.run_path(str(Path(self.root) / KERNELS / "build.py"))
            problem = self._editable(build) if version == "editable" else self._wheel(build, build_data)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            print(f"baichuan2: no kernels of our own: {problem}", file=sys.stderr)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Removes what the wheel has taken."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _editable(self, build: dict[str, Any]) -> str | None:
        library: Path = build["LIBRARY"]
        if library.exists() and build["is_current"](library.read_bytes()):
            return None
        problem: str | None = build["build"]()
        return problem

    def _wheel(self, build: dict[str, Any], build_data: dict[str, Any]) -> str | None:
        self.folder = tempfile.mkdtemp()  # the sources may be read-only, and an editable installation uses its own
        library = Path(self.folder) / build["LIBRARY"].name
        problem: str | None = build["build"](library)
        if problem is None:
            build_data["force_include"][str(library)] = f"baichuan2/kernels/{library.name}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
        return problem
