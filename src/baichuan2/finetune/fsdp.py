"""FSDP on the processor, where accelerate leaves it out without a word and trains as DDP does."""

from typing import Any

from torch.distributed.tensor import DTensor

from baichuan2.errors import SettingsError

__all__ = ["check_going_on", "gathered", "share_weights_on_processor"]


def share_weights_on_processor(trainer: Any) -> None:
    """Makes `trainer`, whose accelerator has just been made, split weights as `--fsdp` asks for, on a processor too.

    accelerate turns FSDP on for accelerators alone; what it does then needs none.
    """
    arguments = trainer.args.fsdp_plugin_args
    if arguments is None or trainer.is_fsdp_enabled or trainer.args.device.type != "cpu":
        return
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(**arguments)
    state = trainer.accelerator.state
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


def gathered(state_dict: dict[str, Any]) -> dict[str, Any]:
    """`state_dict` with whole tensors where it holds this process's parts; all processes must call it together."""
    return {
        name: value.full_tensor().cpu() if isinstance(value, DTensor) else value for name, value in state_dict.items()
    }


def check_going_on(trainer: Any) -> None:
    """Raises SettingsError where a run cannot go on: on a processor FSDP waits for ever while it reads a checkpoint."""
    if trainer.is_fsdp_enabled and trainer.args.device.type == "cpu":
        raise SettingsError(
            "a run with --fsdp cannot go on from a checkpoint on a processor: start it anew with "
            "--overwrite_output_dir True, or train with DeepSpeed, whose runs go on"
        )
