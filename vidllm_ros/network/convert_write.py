# SPDX-License-Identifier: Apache-2.0
"""Carry a plan out: shard by shard, so that memory holds one shard and never the network.

A shard's tensors are read one by one, and the mapped source files are closed again on the way.
Parts nobody gives get their initial values from a seed, in the exact form that leaves what was
given as it is: the adapter passes the encoder's tokens on unchanged. Next: convert_card.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.box_features import BoxFeatures
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.checkpoint import INDEX, WEIGHTS
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert_plan import Piece, Plan, part_of
from vidllm_ros.network.convert_sources import Source
from vidllm_ros.network.convert_teachers import SEMANTIC_TEACHER
from vidllm_ros.network.cross_task_adapter import CrossTaskAdapter
from vidllm_ros.network.dense_head import build_depth_head, build_point_head
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.network.first_values import start_from_scratch
from vidllm_ros.network.grounding import GroundingDecoder
from vidllm_ros.network.language import SceneLanguageModel
from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.metric_depth import MetricDepth
from vidllm_ros.network.patches3d import Patches3D
from vidllm_ros.network.scene_places import ScenePlaces
from vidllm_ros.network.vidllm import VidLLM

DEFAULT_SHARD_BYTES = 2 * 10**9


class Supply:
    """Tensors of a plan, made or read when they are asked for.

    Args:
        plan: what comes from where.
        sources: opened.
        dtype: of floating-point tensors; None keeps each as it is stored.
        seed: of the parts nobody gives.
    """

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, Source],
        dtype: torch.dtype | None = None,
        seed: int = 0,
        mapped_bytes: int = DEFAULT_SHARD_BYTES // 4,
    ) -> None:
        self.plan = plan
        self.sources = sources
        self.dtype = dtype
        self.seed = seed
        self.mapped_bytes = mapped_bytes
        self._part: tuple[str, dict[str, Tensor]] = ("", {})

    def size(self, name: str) -> int:
        """Bytes a tensor of the network will take."""
        piece = self.plan.pieces.get(name)
        dtype = torch.float32 if piece is None else self._stored_dtype(piece)
        if self.dtype is not None and dtype.is_floating_point:
            dtype = self.dtype
        return dtype.itemsize * int(torch.Size(self.plan.places[name]).numel())

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the network."""
        piece = self.plan.pieces.get(name)
        if piece is None:
            return self._cast(self._untrained(name))
        value = self._cast(self.read(piece))
        return self._fill_words(name, value) if name in self.plan.tables else value

    def read(self, piece: Piece) -> Tensor:
        """Return a stored tensor, or its part."""
        files = self.sources[piece.option].files
        value = files.read(piece.name)
        if files.touched_bytes > self.mapped_bytes:
            files.release()
        return value if piece.parts == 1 else value.chunk(piece.parts)[piece.part].clone()

    def release(self) -> None:
        """Close every source, and forget the untrained part made last."""
        self._part = ("", {})
        for source in self.sources.values():
            source.files.release()

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if self.dtype and value.is_floating_point() else value

    def _stored_dtype(self, piece: Piece) -> torch.dtype:
        return self.sources[piece.option].files.tensors[piece.name].dtype

    def _fill_words(self, name: str, table: Tensor) -> Tensor:
        """Give rows that nobody trained the mean of the others, which favours no word."""
        rows, stored = self.plan.places[name][0], len(table)
        new = [row for row in self.plan.new_words if row < stored]
        if rows == stored and not new:
            return table
        trained = torch.ones(stored, dtype=torch.bool)
        trained[new] = False
        mean = table[trained].float().mean(0).to(table.dtype)
        longer = mean.expand(rows, *table.shape[1:]).clone()
        longer[:stored][trained] = table[trained]
        return longer

    def _untrained(self, name: str) -> Tensor:
        part = part_of(name)
        if name.endswith(".mask_token"):
            return torch.zeros(self.plan.places[name])
        if self._part[0] != part:
            self._part = (part, initial_part(part, self.plan.config, self.seed))
        return self._part[1][name].detach().clone()


def initial_part(part: str, config: VidLLMConfig, seed: int = 0) -> dict[str, Tensor]:
    """Build one part of the network as nobody has trained it, by its names there.

    The adapter's gates are closed, so that both its streams are the encoder's tokens; training
    opens them.
    """
    dim = int(config.language_config().hidden_size)
    builders: dict[str, Callable[[], nn.Module]] = {
        "encoder": lambda: Encoder(config),
        "adapter": lambda: _closed(CrossTaskAdapter(config)),
        "aggregator": lambda: Aggregator(config),
        "camera_head": lambda: CameraHead(config),
        "depth_head": lambda: build_depth_head(config),
        "point_head": lambda: build_point_head(config),
        "metric_depth": lambda: MetricDepth(config),
        "patches": lambda: Patches3D(config),
        "language": lambda: SceneLanguageModel(config),
        "projector": lambda: Mlp(config.width, dim, dim),
        "places": lambda: ScenePlaces(dim),
        "grounding": lambda: GroundingDecoder(config, dim),
        "box_features": lambda: BoxFeatures(config, dim),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if part in ("aggregator", "camera_head"):
            pair = {"aggregator": Aggregator(config), "camera_head": CameraHead(config)}
            start_from_scratch(pair["aggregator"], pair["camera_head"])  # type: ignore[arg-type]
            module: nn.Module = pair[part]
        else:
            module = builders[part]()
    return {f"{part}.{name}": value for name, value in module.state_dict().items()}


def _closed(adapter: CrossTaskAdapter) -> CrossTaskAdapter:
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "exchange.gate" in name:
                parameter.zero_()
    return adapter


def plan_shards(supply: Supply, max_bytes: int) -> list[list[str]]:
    """Split the network's tensors, in order, into shards of at most `max_bytes`."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in supply.plan.places:
        size = supply.size(name)
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_checkpoint(
    supply: Supply, out: Path, max_bytes: int = DEFAULT_SHARD_BYTES
) -> Iterator[Path]:
    """Write the network, its tokenizer and the teachers into `out`, which appears when all is
    done; yield each shard's path once it is written.

    Raises:
        FileExistsError: there is something at `out`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: expected a new or empty folder, got {out}; name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.mkdir()
        for path in _write_all(supply, beside, max_bytes):
            yield out / path.relative_to(beside)
        if out.is_dir():
            out.rmdir()
        os.replace(beside, out)
    finally:
        supply.release()
        shutil.rmtree(beside, ignore_errors=True)


def _write_all(supply: Supply, folder: Path, max_bytes: int) -> Iterator[Path]:
    plan = supply.plan
    shards = plan_shards(supply, max_bytes)
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = WEIGHTS
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        names.update(dict.fromkeys(shard, file))
        _save({name: supply.tensor(name) for name in shard}, folder / file)
        supply.release()
        yield folder / file
    if len(shards) > 1:
        total = sum(supply.size(name) for name in plan.places)
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    plan.config.architectures = [VidLLM.__name__]
    plan.config.save_pretrained(folder)
    plan.tokenizer.save_pretrained(folder)
    for name, places in plan.teachers.items():
        home = folder / name
        home.mkdir(parents=True)
        pieces = plan.teacher_pieces[name]
        _save({place: supply.read(pieces[place]) for place in places}, home / WEIGHTS)
        supply.release()
        if name == SEMANTIC_TEACHER and plan.tower is not None:
            plan.tower.architectures = ["CLIPVisionModel"]
            plan.tower.save_pretrained(home)
        yield home / WEIGHTS


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file(tensors, str(file), metadata={"format": "pt"})
