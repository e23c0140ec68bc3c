"""Ties our classes to transformers' Auto classes, whichever of the two packages is imported first.

`install()` is what `import baichuan2` runs: it imports nothing heavy. An Auto module that is loaded already is served
at once; the others the moment transformers loads them, by an import hook that removes itself after the last. From then
on a folder of model type `baichuan` gets our classes, and no code from such a folder runs, with `trust_remote_code`
true or false. Must not import torch or transformers at module level.
"""

import functools
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from baichuan2.errors import CheckpointError

__all__ = ["install", "register"]

MODEL_TYPE = "baichuan"
# the ordering inside: a tokenizer or a model is registered under BaichuanConfig, so that one comes first
CONFIG_MODULE = "transformers.models.auto.configuration_auto"
MODEL_MODULE = "transformers.models.auto.modeling_auto"
TOKENIZER_MODULE = "transformers.models.auto.tokenization_auto"
REMOTE_CODE_MODULE = "transformers.dynamic_module_utils"
OLDEST_TRANSFORMERS = (5, 14)


def register_config() -> None:
    """AutoConfig reads `model_type: baichuan` with our class."""
    from transformers import AutoConfig

    from baichuan2.model.configuration_baichuan import BaichuanConfig

    AutoConfig.register(MODEL_TYPE, BaichuanConfig, exist_ok=True)


def register_models() -> None:
    """AutoModel and AutoModelForCausalLM build our classes; classes from outside transformers win over remote code."""
    from transformers import AutoModel, AutoModelForCausalLM

    from baichuan2.model.configuration_baichuan import BaichuanConfig
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM, BaichuanModel

    AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
    AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)


def register_tokenizer() -> None:
    """AutoTokenizer builds our class.

    It is registered under a config class that no checkpoint uses. Under BaichuanConfig itself AutoTokenizer would no
    longer count it as the user's own choice, and would run the folder's tokenizer code on `trust_remote_code=True`.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto import tokenization_auto

    from baichuan2.model.configuration_baichuan import BaichuanConfig
    from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

    class TokenizerOnlyConfig(BaichuanConfig):
        model_type = "baichuan_tokenizer_only"

    AutoTokenizer.register(TokenizerOnlyConfig, tokenizer_class=BaichuanTokenizer, exist_ok=True)
    tokenization_auto.get_tokenizer_config = without_remote_tokenizer(tokenization_auto.get_tokenizer_config)


def without_remote_tokenizer(get_tokenizer_config: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`get_tokenizer_config` that names our tokenizer, and no code, for every folder of model type `baichuan`.

    The class name in tokenizer_config.json is the folder's to choose. A missing or foreign one would lead AutoTokenizer
    past our registered class, to the folder's own code or to a generic tokenizer with other ids.
    """

    @functools.wraps(get_tokenizer_config)
    def wrapper(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        fields = get_tokenizer_config(pretrained_model_name_or_path, *args, **kwargs)
        is_plain = fields.get("tokenizer_class") == "BaichuanTokenizer" and "auto_map" not in fields
        if is_plain or not _is_baichuan(pretrained_model_name_or_path, kwargs):
            return fields
        return {key: fields[key] for key in fields if key != "auto_map"} | {"tokenizer_class": "BaichuanTokenizer"}

    return wrapper


def register_refusal() -> None:
    """Nothing else that transformers can build, a processor for example, runs code from a Baichuan folder either."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.get_cached_module_file = refusing_baichuan(dynamic_module_utils.get_cached_module_file)


def refusing_baichuan(get_cached_module_file: Callable[..., str]) -> Callable[..., str]:
    """`get_cached_module_file`, through which code files are fetched, that refuses folders of model type `baichuan`."""

    @functools.wraps(get_cached_module_file)
    def wrapper(pretrained_model_name_or_path: Any, module_file: str, *args: Any, **kwargs: Any) -> str:
        if _is_baichuan(pretrained_model_name_or_path, kwargs):
            raise CheckpointError(
                f"{pretrained_model_name_or_path} asks to run its file {module_file}, which baichuan2 never does: load "
                "it with AutoConfig, AutoTokenizer, AutoModel or AutoModelForCausalLM, which need no such code"
            )
        return get_cached_module_file(pretrained_model_name_or_path, module_file, *args, **kwargs)

    return wrapper


def _is_baichuan(name_or_path: Any, kwargs: dict[str, Any]) -> bool:
    """Whether config.json of the folder or hub id says `model_type: baichuan`."""
    from transformers import PreTrainedConfig

    try:
        fields, _ = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    except (OSError, ValueError):  # no config.json, or no JSON: AutoTokenizer has its own message for that
        return False
    return bool(fields.get("model_type") == MODEL_TYPE)


REGISTRATIONS: dict[str, Callable[[], None]] = {
    CONFIG_MODULE: register_config,
    MODEL_MODULE: register_models,
    TOKENIZER_MODULE: register_tokenizer,
    REMOTE_CODE_MODULE: register_refusal,
}


class _Depth(threading.local):
    """How many watched modules this thread is importing at the moment, one inside the other."""

    value = 0


class AutoClassHook(MetaPathFinder):
    """Registers our classes as soon as transformers' Auto modules are loaded and nothing is half imported.

    An Auto module may be loaded from deep inside another import (of `transformers.pipelines`, or of our own model
    file), where the classes that registering needs are not defined yet. So the hook counts the depth of imports of
    both packages and acts when it is back at zero.
    """

    def __init__(self) -> None:
        self.pending = dict(REGISTRATIONS)
        self.loaded = {name for name in self.pending if name in sys.modules}
        self.depth = _Depth()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that tells this hook when the module is done."""
        if fullname.partition(".")[0] not in ("transformers", "baichuan2"):
            return None
        for finder in sys.meta_path:
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _NotifyingLoader(spec.loader, self)
                return spec
        return None

    def run(self, module: ModuleType, loader: Loader) -> None:
        """Executes `module` with its own `loader`, then registers what has become possible."""
        self.depth.value += 1
        try:
            loader.exec_module(module)
        finally:
            self.depth.value -= 1
        self.loaded.add(module.__name__)
        self.settle()

    def settle(self) -> None:
        """Runs every registration whose Auto module is loaded, unless an import is under way in this thread."""
        if self.depth.value:
            return
        self.depth.value += 1  # registering imports our modules, which must not start this again
        try:
            while ready := [name for name in self.pending if name in self.loaded]:
                _run_registration(self.pending.pop(ready[0]))
        finally:
            self.depth.value -= 1
        if not self.pending:
            self.uninstall()

    def uninstall(self) -> None:
        """Takes the hook out of the import system; harmless when it is out already."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _NotifyingLoader(Loader):
    """Stands in for a module's loader until the module runs, then puts the real one back and reports to the hook."""

    def __init__(self, loader: Loader, hook: AutoClassHook) -> None:
        self.loader = loader
        self.hook = hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.hook.run(module, self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # is_package, get_source and whatever else a tool may ask of a loader


def _run_registration(registration: Callable[[], None]) -> None:
    """Runs one registration; on a transformers too old for our classes a warning, so that its other users go on."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < OLDEST_TRANSFORMERS:
        oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
        warnings.warn(
            f"baichuan2 needs transformers {oldest} or newer, found {transformers.__version__}: the Auto classes will "
            f"not find Baichuan models. Run  pip install 'transformers>={oldest},<6'",
            stacklevel=2,
        )
        return
    registration()


def install() -> None:
    """Serves the Auto modules that are loaded, and watches for the others; a second call changes nothing."""
    if any(isinstance(finder, AutoClassHook) for finder in sys.meta_path):
        return
    # a copy of this module that was since removed from sys.modules: two hooks would each wait for the other
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != AutoClassHook.__name__]
    hook = AutoClassHook()
    sys.meta_path.insert(0, hook)
    hook.settle()


def register() -> None:
    """Registers everything now, which imports transformers' Auto modules."""
    import importlib

    install()
    for name in REGISTRATIONS:
        importlib.import_module(name)
