"""Optional packages: one place that imports them, one friendly message when one is missing."""

import importlib
from types import ModuleType

from baichuan2.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported optional `module`, which the extra `extra` of this package installs.

    Raises:
        MissingExtraError: the package is not installed; the message says what to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # installed, but broken inside: hiding its own message would send people the wrong way
        raise MissingExtraError(
            f"the optional package {module!r} is not installed: run  pip install 'baichuan2[{extra}]'",
            name=module,
        ) from error
