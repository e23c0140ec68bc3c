"""Tiny models with adapters beside their weights, random and strong enough to change every reply."""

from typing import Any

import torch

from baichuan2.model.low_rank import AdaptedLinear, LowRank, RowAdapters

LINEARS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")


def with_adapters(model: Any, *, seed: int = 0) -> Any:
    """`model` with two adapters beside it: one with magnitudes on all layers, one that leaves `o_proj` as it is."""
    generator = torch.Generator().manual_seed(seed)
    rows = RowAdapters()
    for name, layer in [(name, part) for name, part in model.named_modules() if name.split(".")[-1] in LINEARS]:
        adapters: list[LowRank | None] = []
        for rank in (3, 6):
            down = torch.randn(rank, layer.in_features, generator=generator) * layer.in_features**-0.5
            up = torch.randn(rank, layer.out_features, generator=generator) * 0.3
            magnitude = None
            if rank == 3:
                lengths = layer.weight.detach().float().norm(dim=1)
                magnitude = lengths * (1 + 0.3 * torch.rand(layer.out_features, generator=generator))
            adapters.append(LowRank(down, up, magnitude).on(layer))
        if name.endswith("o_proj"):
            adapters[1] = None
        model.set_submodule(name, AdaptedLinear(layer, adapters, rows))
    model.row_adapters = rows
    return model


def merged(model: Any, number: int) -> Any:
    """A model of `with_adapters` whose weights hold what the adapter of that number makes of them."""
    for name, layer in [(name, part) for name, part in model.named_modules() if isinstance(part, AdaptedLinear)]:
        base, change = layer.base_layer, layer.adapters[number]
        assert isinstance(base, torch.nn.Linear)
        if change is not None:
            base.weight.data = change.merged(base.weight.data)
        model.set_submodule(name, base)
    del model.row_adapters
    return model
