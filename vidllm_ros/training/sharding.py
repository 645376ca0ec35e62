# SPDX-License-Identifier: Apache-2.0
"""A network too large for one GPU: every process keeps its share of each weight (FSDP2).

Accelerate lays the shards: one group a transformer layer, gathered while that layer runs, and one
for everything else, which stays whole through a step. Weights stay in float32 under autocast, so a
sharded run computes what an unsharded one computes, and a checkpoint holds whole tensors: either
kind of run goes on from the other's. Next: trainer.py, the only caller.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedDataParallelKwargs, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.stage_output import StageOutput

MODEL_PREFIX = "model."
VALUES_AT_A_TIME = 1 << 24
LAUNCHED = "ACCELERATE_USE_FSDP"
OWN_LAYERS = "FSDP_CPU_RAM_EFFICIENT_LOADING"
REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "weights stay on the GPU; use more processes",
    "FSDP_ACTIVATION_CHECKPOINTING": "set `recompute: true` in the recipe instead",
}
GUIDES = ("guide_attention", "guide_evidence")


def is_wanted(recipe: Recipe, processes: int) -> bool:
    """Whether to shard: there are several processes, and recipe or launch ask for it.

    A recipe asks by `shard`, a launch by `accelerate launch --use_fsdp`.

    Also keeps transformers from loading weights in the first process alone: teachers are whole in
    every process. Call it before anything is loaded.

    Raises:
        ValueError: what is asked for beside it does not go together with it.
    """
    if processes == 1 or not (recipe.shard or _is_set(LAUNCHED)):
        return False
    os.environ[OWN_LAYERS] = "false"
    for name, advice in REFUSED.items():
        if _is_set(name):
            raise ValueError(f"{name}: expected false in a sharded run, got true; {advice}")
    if recipe.optimizer.name == "muon":
        raise ValueError(
            "optimizer.name: expected adamw in a sharded run, got muon, which needs whole "
            "matrices, while a process holds some rows; set it to adamw"
        )
    guides = [name for name in GUIDES if getattr(recipe.losses, name)]
    if guides:
        raise ValueError(
            f"losses.{guides[0]}: expected 0 in a sharded run, for it reads a layer's weights "
            f"outside that layer, got {getattr(recipe.losses, guides[0])}; set it to 0"
        )
    return True


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Return accelerate's view of this process: device, processes, number format."""
    is_cpu = not torch.cuda.is_available()
    processes = PartialState(cpu=is_cpu).num_processes
    return Accelerator(
        mixed_precision=recipe.precision,
        cpu=is_cpu,
        fsdp_plugin=_plugin() if is_wanted(recipe, processes) else None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _plugin() -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        # Float32 weights are gathered and autocast rounds them: the same numbers as unsharded.
        mixed_precision_policy=MixedPrecisionPolicy(),
        auto_wrap_policy="transformer_based_wrap",
        cpu_offload=False,
        cpu_ram_efficient_loading=False,
    )


def distribute(recipe: Recipe, accelerator: Accelerator, stage: nn.Module) -> nn.Module:
    """Put a stage where it runs; return what to call: itself, sharded itself, or a DDP around it.

    Args:
        recipe: says whether to shard.
        accelerator: of `build_accelerator`.
        stage: changed in place.
    """
    if recipe.recompute:
        recompute_layers(stage)
    if accelerator.num_processes == 1:
        return stage.to(accelerator.device)
    if not is_wanted(recipe, accelerator.num_processes):
        prepared: nn.Module = accelerator.prepare_model(stage.to(accelerator.device))
        return prepared
    shard(accelerator, stage)
    return stage.to(accelerator.device)  # what is no weight: buffers, teachers


def shard(accelerator: Accelerator, stage: nn.Module) -> None:
    """Cut a stage's weights into the processes' shares, in place; the first one's values count."""
    plugin = _plugin()
    plugin.transformer_cls_names_to_wrap = layer_names(stage)
    accelerator.state.fsdp_plugin = plugin  # accelerate itself sets it on a GPU only
    for name in scalar_names(stage):  # a shard has at least one axis
        module, _, last = name.rpartition(".")
        old = stage.get_parameter(name)
        flat = nn.Parameter(old.detach().reshape(1), requires_grad=old.requires_grad)
        setattr(stage.get_submodule(module), last, flat)
    share_first(list(stage.parameters()), accelerator.device)
    fsdp2_prepare_model(accelerator, stage)
    _show_loss()


def share_first(parameters: Sequence[nn.Parameter], device: torch.device) -> None:
    """Give every process the first one's values, some at a time: a shard is cut where it lies."""
    start, count = 0, 0
    for end, parameter in enumerate(parameters, 1):
        count += parameter.numel()
        if count < VALUES_AT_A_TIME and end < len(parameters):
            continue
        some = parameters[start:end]
        values = nn.utils.parameters_to_vector(p.detach() for p in some).to(device)
        torch.distributed.broadcast(values, 0)
        for parameter, value in zip(some, values.split([p.numel() for p in some]), strict=True):
            parameter.detach().copy_(value.view_as(parameter))
        start, count = end, 0


@cache
def _show_loss() -> None:
    """Let FSDP find the loss in a stage's output: it looks for tensors to hook."""
    from torch.export import register_dataclass  # slow to import, and needed here alone

    register_dataclass(StageOutput)


def layer_names(stage: nn.Module) -> list[str]:
    """Name the classes of the layers that are gathered one by one, as each network declares."""
    declared = {
        str(name)
        for module in stage.modules()
        if isinstance(module, PreTrainedModel)
        for name in module._no_split_modules or ()
    }
    present = {type(module).__name__ for module in stage.modules()}
    return sorted(declared & present)


def scalar_names(stage: nn.Module) -> list[str]:
    """Name the weights that are one number: a sharded run holds them with one axis."""
    return [name for name, value in stage.named_parameters() if value.ndim == 0]


def recompute_layers(stage: nn.Module) -> None:
    """Keep no layer's activations but its input; the rest is computed again going back."""
    for module in stage.children():
        if isinstance(module, PreTrainedModel):
            module.activation_checkpointing_enable({"use_reentrant": False})


def gather(values: Any, is_kept: bool = True) -> Any:
    """Return nested values with every shard made whole on the CPU; all processes must call it.

    Args:
        values: of tensors and anything else, in dicts and lists.
        is_kept: False gives None for what was sharded: only the process that writes keeps it.
    """
    if isinstance(values, DTensor):
        whole = values.full_tensor().detach()
        return whole.cpu() if is_kept else None
    if isinstance(values, Mapping):
        return {name: gather(value, is_kept) for name, value in values.items()}
    if isinstance(values, list):
        return [gather(value, is_kept) for value in values]
    return values


def restore_scalars(weights: dict[str, Tensor], names: Iterable[str]) -> None:
    """Take the axis off again, in place, under a stage's names or its network's."""
    for name in names:
        for known in (name, name.removeprefix(MODEL_PREFIX)):
            if known in weights:
                weights[known] = weights[known].reshape(())


def cut(values: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    """Return values, the same in all processes, cut like the tensors of the same names."""
    return {name: cut_like(value, places.get(name)) for name, value in values.items()}


def cut_like(value: Any, place: Any) -> Any:
    """Return a whole tensor as this process's share, where its place is a share of that shape."""
    if not (isinstance(place, Tensor) and isinstance(value, Tensor)):
        return value
    if value.numel() == place.numel() == 1:  # a scalar with or without an axis
        value = value.reshape(place.shape)
    if value.shape != place.shape or isinstance(value, DTensor) or not isinstance(place, DTensor):
        return value
    mesh, placements = place.device_mesh, place.placements
    return distribute_tensor(value.detach(), mesh, placements, src_data_rank=None)


def local(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor; all of it where it is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def clip_norm(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down to a norm over all of them and all processes; return the norm before.

    On shards it works on what each process holds: DTensor's own way is to plan one operation over
    a thousand shards, which takes it minutes.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return torch.nn.utils.clip_grad_norm_(parameters, largest)
    shards = [local(gradient) for gradient in gradients]
    norms = torch.stack(torch._foreach_norm(shards))
    square = norms.square().sum()
    torch.distributed.all_reduce(square)
    norm = square.sqrt()
    torch._foreach_mul_(shards, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


@contextmanager
def whole_weights(stage: nn.Module) -> Iterator[None]:
    """Gather all weights in every process for a while; then any of them may run it alone.

    The hooks by which shards are gathered are off meanwhile: they count forward passes, and
    processes that count apart wait for each other for ever.
    """
    shards = [module for module in stage.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.unshard()
    with ExitStack() as stack:
        for module in shards:
            stack.enter_context(_without_hooks(module))
        try:
            yield
        finally:
            for module in shards:
                module.reshard()


@contextmanager
def _without_hooks(module: Any) -> Iterator[None]:
    before = module._forward_pre_hooks, module._forward_hooks
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        module._forward_pre_hooks, module._forward_hooks = before
