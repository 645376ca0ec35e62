# SPDX-License-Identifier: Apache-2.0
"""The frozen teachers of stage 1: images in, patch features on the student's grid out (eq. 6).

The geometry teacher is the encoder of a network that learnt geometry: VGGT's DINO at paper size, a
small network of this project for nano; or all that a network's own reconstruction branch reads,
which then stays as it is. The semantic teacher is the vision tower of a CLIP: ViT-L/14-336 at
paper size, a small one that image_text.py trained for nano. Next: stages.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModel

from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import VGGT_ENCODER, convert_dinov2
from vidllm_ros.network.cross_task_adapter import CrossTaskAdapter
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.training.distillation import branch_inputs, resize_teacher
from vidllm_ros.training.image_text import VisionTower
from vidllm_ros.training.recipe_parts import HOMELESS_TEACHERS, TeacherRecipe
from vidllm_ros.training.run_folder import (
    MODEL_FOLDER,
    is_run,
    load_image_text,
    require_folder,
    run_weights,
)

ENCODER, ADAPTER = "encoder.", "adapter."
HEAD_CHANNELS = 64


class Teacher(nn.Module):
    """Patch features of frames, brought to the grid the student has.

    Args:
        width: channels of the features, which a head brings the student to.
        patch_size: of the teacher, px.
        image_size: frames are squeezed to this square first; 0 takes them as they are.
    """

    def __init__(self, width: int, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.width = width
        self.patch_size = patch_size
        self.image_size = image_size

    def features(self, images: Tensor) -> Tensor:
        """Patch features in row order, (B, S, 3, H, W) -> (B, S, N, C)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return features of frames in [0, 1], (B, S, 3, H, W), on the student's grid."""
        if self.image_size:
            square = (self.image_size, self.image_size)
            flat = functional.interpolate(
                images.flatten(0, 1).float(), size=square, mode="bicubic", antialias=True
            )
            images = flat.clamp(0, 1).unflatten(0, images.shape[:2])
        elif images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError(
                f"teacher: expected frames in multiples of {self.patch_size} px, got "
                f"{tuple(images.shape[-2:])}; give the teacher an image_size"
            )
        own = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        features = self.features(images)
        return features if own == grid else resize_teacher(features, own, grid)


class EncoderTeacher(Teacher):
    """The encoder of a network of this architecture, after its final norm."""

    def __init__(self, config: VidLLMConfig, weights: dict[str, Tensor], image_size: int) -> None:
        super().__init__(config.width, config.patch_size, image_size)
        self.encoder = Encoder(config)
        self.encoder.load_state_dict(weights)

    def features(self, images: Tensor) -> Tensor:
        return self.encoder(images).patch_tokens


class NetworkTeacher(Teacher):
    """All that the reconstruction branch of a network reads: its adapter's geometry, four levels.

    No head stands between it and the student, which begins as this network and must go on giving
    its branch what it is used to. It sees whole windows, for bridge tokens span them.
    """

    def __init__(self, config: VidLLMConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(0, config.patch_size, 0)
        self.config = config
        self.encoder = Encoder(config)
        self.adapter = CrossTaskAdapter(config)
        self.encoder.load_state_dict(part_of(weights, ENCODER))
        self.adapter.load_state_dict(part_of(weights, ADAPTER))

    def check_student(self, config: VidLLMConfig) -> None:
        """Refuse a student whose branch reads something else.

        Raises:
            ValueError: it is of another size, or takes other levels.
        """
        for name in ("width", "patch_size", "encoder_layers"):
            wanted, got = getattr(config, name), getattr(self.config, name)
            if wanted != got:
                raise ValueError(
                    f"geometry_teacher.folder: expected a network of the student's {name}, "
                    f"{wanted}, got {got}; a teacher of kind 'network' is what the student was"
                )

    def features(self, images: Tensor) -> Tensor:
        encoded = self.encoder(images)
        return branch_inputs(encoded, self.adapter(encoded.patch_tokens))  # (5, B, S, N, C)


class ClipTeacher(Teacher):
    """Patch tokens of a CLIP vision tower's hidden layer, class token dropped."""

    def __init__(self, tower: Any, layer: int, image_size: int) -> None:
        super().__init__(tower.config.hidden_size, tower.config.patch_size, image_size)
        self.tower = VisionTower(tower)
        self.layer = layer

    def features(self, images: Tensor) -> Tensor:
        patches = self.tower.hidden(images.flatten(0, 1), self.layer)[:, 1:]
        return patches.unflatten(0, images.shape[:2])


def load_teacher(recipe: TeacherRecipe) -> Teacher | None:
    """Load the teacher a recipe names; None for none, and for the oracle, which is no network.

    Raises:
        FileNotFoundError: its folder holds nothing to load.
    """
    if recipe.kind in HOMELESS_TEACHERS:
        return None
    if recipe.kind == "encoder":
        teacher: Teacher = load_encoder(recipe)
    elif recipe.kind == "network":
        teacher = NetworkTeacher(*load_own(recipe))
    elif recipe.kind == "vggt":
        teacher = load_vggt_encoder(recipe)
    else:
        teacher = load_clip(recipe)
    return teacher.requires_grad_(False).eval()


def load_encoder(recipe: TeacherRecipe) -> EncoderTeacher:
    """Load the encoder of a run or a saved network of this project."""
    config, weights = load_own(recipe)
    return EncoderTeacher(config, part_of(weights, ENCODER), recipe.image_size)


def load_own(recipe: TeacherRecipe) -> tuple[VidLLMConfig, dict[str, Tensor]]:
    """Load configuration and weights of a run or a saved network of this project."""
    home = require_folder("geometry_teacher.folder", recipe.folder)
    if is_run(home):
        return VidLLMConfig.from_pretrained(home / MODEL_FOLDER), run_weights(home)
    network = load_vidllm(home, dtype=torch.float32)  # saved under names that transformers maps
    return network.config, network.state_dict()


def load_vggt_encoder(recipe: TeacherRecipe) -> EncoderTeacher:
    """Load the DINO of a VGGT checkpoint of the published key layout; its sizes are read off."""
    source = {
        name[len(VGGT_ENCODER) :]: value
        for name, value in saved_tensors(Path(recipe.folder)).items()
        if name.startswith(VGGT_ENCODER)
    }
    fields = vggt_encoder_fields(source)
    layers, heads = int(fields["num_hidden_layers"]), int(fields["num_attention_heads"])
    config = VidLLMConfig(
        encoder=fields,
        encoder_layers=tuple(range(layers - 4, layers)),
        aggregator_heads=heads,
        camera_heads=heads,
    )
    converted, _ = convert_dinov2(source, config)
    return EncoderTeacher(config, part_of(converted, ENCODER), recipe.image_size)


def vggt_encoder_fields(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes of VGGT's DINO, told by its tensors; heads of DINOv2 have 64 channels."""
    position, kernel = source.get("pos_embed"), source.get("patch_embed.proj.weight")
    if position is None or kernel is None:
        raise ValueError(
            f"geometry_teacher.folder: expected tensors {VGGT_ENCODER}pos_embed and "
            f"{VGGT_ENCODER}patch_embed.proj.weight, got neither; is it VGGT's checkpoint?"
        )
    width, patch = int(kernel.shape[0]), int(kernel.shape[-1])
    blocks = {name.split(".")[1] for name in source if name.startswith("blocks.")}
    return {
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": max(1, width // HEAD_CHANNELS),
        "image_size": patch * math.isqrt(int(position.shape[1]) - 1),
        "patch_size": patch,
    }


def load_clip(recipe: TeacherRecipe) -> ClipTeacher:
    """Load the vision tower of a run of this project, or of any saved CLIP."""
    home = require_folder("semantic_teacher.folder", recipe.folder)
    tower = (
        load_image_text(home).vision_model
        if is_run(home)
        else CLIPVisionModel.from_pretrained(home).float()
    )
    return ClipTeacher(tower, recipe.layer, recipe.image_size)


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights of the part so named among a network's, float32."""
    return {
        name[len(prefix) :]: value.float()
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def saved_tensors(home: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors shards, or of its model.pt."""
    tensors: dict[str, Tensor] = {}
    for shard in sorted(home.glob("*.safetensors")):
        tensors.update(load_file(shard))
    if not tensors and (home / "model.pt").is_file():
        tensors = torch.load(home / "model.pt", map_location="cpu", weights_only=True)
    if not tensors:
        raise FileNotFoundError(
            f"teacher.folder: expected *.safetensors or model.pt in {home}, got neither"
        )
    return tensors
