"""Hook of the installation: compiles the kernels; without a compiler everything works on torch's own, slower ones."""

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src") / "baichuan2" / "kernels"


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by the build backend for wheels and for editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles beside the sources; the wheel takes the library with it, and becomes one for this platform."""
        kernels = Path(self.root) / KERNELS
        build = runpy.run_path(str(kernels / "build.py"))
        problem = build["build"]()
        if problem is not None:
            build["LIBRARY"].unlink(missing_ok=True)  # one of an older version
            print(f"baichuan2: no kernels of our own: {problem}", file=sys.stderr)
            return
        build_data["artifacts"].append(str(KERNELS / build["LIBRARY"].name))
        if version != "editable":
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
