# SPDX-License-Identifier: Apache-2.0
"""Bring public weights into this network's names: VGGT's reconstruction half, DINOv2's encoder.

No box of the figure: it runs once, before training or use. Every name of either side ends up in
the report, and a tensor of another shape is an error that names both. Next: convert_plan.py, which
joins these rules with those of language models to one checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.dense_head import build_depth_head, build_point_head
from vidllm_ros.network.encoder import Encoder

Shape = tuple[int, ...]

VGGT_ENCODER = "aggregator.patch_embed."
OUR_ENCODER = "encoder.backbone."


@dataclass(frozen=True)
class NamedShape:
    """A tensor's name and shape."""

    name: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


@dataclass(frozen=True)
class UsedKey:
    """A source tensor and where it went; three targets where q, k and v were stacked."""

    source: NamedShape
    targets: tuple[NamedShape, ...]

    def __str__(self) -> str:
        return f"{self.source} -> {', '.join(str(target) for target in self.targets)}"


@dataclass(frozen=True)
class KeyReport:
    """Where every tensor of a conversion went.

    Attributes:
        used: source tensors with their targets.
        missing: tensors the network has and the source has not.
        left_over: tensors the source has and the network has not.
    """

    used: tuple[UsedKey, ...]
    missing: tuple[NamedShape, ...]
    left_over: tuple[NamedShape, ...]

    def __str__(self) -> str:
        """Return every name with its shape, a line each."""
        lines: list[str] = []
        for title, entries in (
            ("used", self.used),
            ("missing", self.missing),
            ("left over", self.left_over),
        ):
            lines.append(f"{title}: {len(entries)}")
            lines.extend(f"  {entry}" for entry in entries)
        return "\n".join(lines)


# VGGT's name after its module's prefix -> ours; the first rule that matches decides.
_ENCODER_RULES = (
    (r"(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
    (r"pos_embed", r"embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"norm\.(\w+)", r"layernorm.\1"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.((?:norm[12]|mlp\.fc[12])\.\w+)", r"encoder.layer.\1.\2"),
)
_DENSE_RULES = (
    (r"(norm|projects\.\d)\.(\w+)", r"decoder.\1.\2"),
    (r"resize_layers\.(\d)\.(\w+)", r"decoder.resizes.\1.\2"),
    (r"scratch\.output_conv1\.(\w+)", r"decoder.output_conv.\1"),
    (r"scratch\.output_conv2\.(\d)\.(\w+)", r"predictor.\1.\2"),
)
_DENSE_LEVEL_RULES = (
    (r"scratch\.layer([1-4])_rn\.(\w+)", r"decoder.reduces.{level}.\2"),
    (r"scratch\.refinenet([1-4])\.out_conv\.(\w+)", r"decoder.fusions.{level}.out_conv.\2"),
    (
        r"scratch\.refinenet([1-4])\.resConfUnit1\.(.+)",
        r"decoder.fusions.{level}.skip_unit.\2",
    ),
    (r"scratch\.refinenet([1-4])\.resConfUnit2\.(.+)", r"decoder.fusions.{level}.out_unit.\2"),
)
_CAMERA_RULES = (
    (r"empty_pose_tokens", r"empty_pose"),
    (r"poseLN_modulation\.1\.(\w+)", r"modulation.\1"),
    (r"(.+)", r"\1"),
)
_STACKED = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(\w+)")
_PROJECTED = re.compile(r"blocks\.(\d+)\.attn\.proj\.(\w+)")

# transformers renamed the attention of its Dinov2 classes between its versions 4 and 5.
_ATTENTION_V4 = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
)
_ATTENTION_V5 = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")


def convert_vggt(
    state_dict: Mapping[str, Tensor], config: VidLLMConfig
) -> tuple[dict[str, Tensor], KeyReport]:
    """Rename a VGGT checkpoint for the reconstruction half of `VidLLM`.

    That half is encoder, aggregator, camera_head, depth_head and, where the config builds it,
    point_head; the report's `missing` speaks of it alone. To hold the whole model against a
    checkpoint use `load_vggt`. Source: VGGT's published key layout, model-code facts A.7.

    Args:
        state_dict: VGGT's names and tensors, on any device, also meta.
        config: sizes of the network.

    Returns:
        names of `VidLLM` -> tensors, which share memory with the source; the report.

    Raises:
        ValueError: a tensor's shape is not what this config's network has.
    """
    return _convert(state_dict, reconstruction_shapes(config))


def load_vggt(model: nn.Module, state_dict: Mapping[str, Tensor]) -> KeyReport:
    """Copy a VGGT checkpoint into a whole `VidLLM`; `missing` lists what VGGT does not have.

    Raises:
        ValueError: a tensor's shape is not what the model has.
    """
    converted, report = _convert(state_dict, _shapes(model.state_dict()))
    model.load_state_dict(converted, strict=False)
    return report


def convert_dinov2(
    state_dict: Mapping[str, Tensor], config: VidLLMConfig
) -> tuple[dict[str, Tensor], KeyReport]:
    """Rename a DINOv2-with-registers checkpoint for the encoder of `VidLLM`.

    Reads transformers' names of version 4 or 5 and the names of the original release.

    Raises:
        ValueError: the names are of none of these, or a shape differs.
    """
    expected = {
        name: shape
        for name, shape in reconstruction_shapes(config).items()
        if name.startswith(OUR_ENCODER)
    }
    if "pos_embed" in state_dict:
        original = {VGGT_ENCODER + name: tensor for name, tensor in state_dict.items()}
        return _convert(original, expected)
    prefix = next(
        (name[: -len(key)] for name in state_dict if name.endswith(key := "embeddings.cls_token")),
        None,
    )
    if prefix is None:
        raise ValueError(
            "state_dict: expected DINOv2 with registers, got no position embedding under a known "
            f"name among {len(state_dict)} tensors; pass the encoder's own checkpoint"
        )
    ours = _attention_names(expected)
    theirs = _attention_names(state_dict)
    renamed: dict[str, tuple[str, ...]] = {}
    for name in state_dict:
        target = name[len(prefix) :] if name.startswith(prefix) else name
        for old, new in zip(theirs, ours, strict=True):
            target = target.replace(f".{old}.", f".{new}.")
        renamed[name] = (OUR_ENCODER + target,)
    return assemble(state_dict, renamed, expected)


def reconstruction_shapes(config: VidLLMConfig) -> dict[str, Shape]:
    """Return names and shapes of the reconstruction half, built without memory."""
    with torch.device("meta"):
        modules = {
            "encoder": Encoder(config),
            "aggregator": Aggregator(config),
            "camera_head": CameraHead(config),
            "depth_head": build_depth_head(config),
        }
        if config.point_head:
            modules["point_head"] = build_point_head(config)
    return _shapes(nn.ModuleDict(modules).state_dict())


def _shapes(state_dict: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def _attention_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the attention names of the transformers version that made these keys."""
    is_v4 = any(f".{_ATTENTION_V4[0]}." in name for name in names)
    return _ATTENTION_V4 if is_v4 else _ATTENTION_V5


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _rename_encoder(name: str, attention: tuple[str, ...]) -> tuple[str, ...]:
    for pattern, parts in ((_STACKED, attention[:3]), (_PROJECTED, attention[3:])):
        match = pattern.fullmatch(name)
        if match:
            layer, kind = match.groups()
            return tuple(f"{OUR_ENCODER}encoder.layer.{layer}.{part}.{kind}" for part in parts)
    renamed = _rename(name, _ENCODER_RULES)
    return () if renamed is None else (OUR_ENCODER + renamed,)


def _rename_dense(name: str) -> str | None:
    for pattern, replacement in _DENSE_LEVEL_RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement).format(level=int(match.group(1)) - 1)
    return _rename(name, _DENSE_RULES)


def _targets(name: str, attention: tuple[str, ...]) -> tuple[str, ...]:
    """Return our names for one of VGGT's; none where it has no counterpart by rule."""
    if name.startswith(VGGT_ENCODER):
        return _rename_encoder(name[len(VGGT_ENCODER) :], attention)
    module, _, rest = name.partition(".")
    if module == "aggregator":
        return (name,)
    if module == "camera_head":
        renamed = _rename(rest, _CAMERA_RULES)
    elif module in ("depth_head", "point_head"):
        renamed = _rename_dense(rest)
    else:
        renamed = None
    return () if renamed is None else (f"{module}.{renamed}",)


def _convert(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Shape]
) -> tuple[dict[str, Tensor], KeyReport]:
    attention = _attention_names(expected)
    targets = {name: _targets(name, attention) for name in state_dict}
    return assemble(state_dict, targets, expected)


def assemble(
    state_dict: Mapping[str, Tensor],
    targets: Mapping[str, tuple[str, ...]],
    expected: Mapping[str, Shape],
) -> tuple[dict[str, Tensor], KeyReport]:
    """Rename tensors and account for all of either side.

    Args:
        state_dict: of the source, also on meta.
        targets: our names for each of its names; none where it has no counterpart.
        expected: names and shapes of the network; a target outside is none.

    Raises:
        ValueError: a tensor's shape is not what its place has.
    """
    converted: dict[str, Tensor] = {}
    used: list[UsedKey] = []
    left_over: list[NamedShape] = []
    for name, tensor in state_dict.items():
        source = NamedShape(name, tuple(tensor.shape))
        names = targets[name]
        if not names or any(target not in expected for target in names):
            left_over.append(source)
            continue
        wanted = tuple(NamedShape(target, expected[target]) for target in names)
        if any(_shape_of_part(source.shape, len(wanted)) != entry.shape for entry in wanted):
            raise ValueError(
                f"state_dict: expected {' + '.join(str(entry) for entry in wanted)}, "
                f"got {source}; use a config of the checkpoint's sizes"
            )
        converted.update(zip(names, tensor.chunk(len(names)), strict=True))
        used.append(UsedKey(source, wanted))
    missing = (
        NamedShape(name, shape) for name, shape in expected.items() if name not in converted
    )
    return converted, KeyReport(tuple(used), tuple(missing), tuple(left_over))


def _shape_of_part(shape: Shape, parts: int) -> Shape:
    """Return the shape of one of `parts` equal pieces along the first axis; () where none is."""
    if parts == 1:
        return shape
    return (shape[0] // parts, *shape[1:]) if shape and shape[0] % parts == 0 else ()
