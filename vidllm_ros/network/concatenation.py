# SPDX-License-Identifier: Apache-2.0
"""The paper's concatenation baseline as a backend: VGGT, metres from a depth model, then words.

Two networks in a row where Vid-LLM is one: geometry first, and a language model that is shown it.
It serves the same node, the same questions and the same benchmarks (Table 5: "VGGT + LLaVA-3D" and
its scaled variant), from public weights alone. Next: concat_manifest.py for what it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vidllm_ros import prompts
from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.network.acceleration import quantize_layers
from vidllm_ros.network.concat_geometry import (
    MetricSample,
    VggtGeometry,
    load_vggt_geometry,
    to_metres,
)
from vidllm_ros.network.concat_llava3d import Llava3DTalker
from vidllm_ros.network.concat_llava3d_files import load_llava3d
from vidllm_ros.network.concat_manifest import Manifest, read_manifest
from vidllm_ros.network.concat_metric_depth import MetricDepthModel, load_metric_depth
from vidllm_ros.network.concat_vlm import load_vlm
from vidllm_ros.network.convert_files import TensorFiles
from vidllm_ros.network.encoder import EncoderOutput
from vidllm_ros.network.frame_cache import FrameCache
from vidllm_ros.network.scale_alignment import sample_frames
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext

LLAVA_3D_FRAMES, VLM_FRAMES = 20, 8


class Talker(Protocol):
    """A language model that is shown a window's geometry; boxes are in the window's world.

    Attributes:
        pick_rule: how `pick_boxes` decides, in words, for reports.
        model: the whole network.
        decoder: of it, the language model, whose layers may be quantised.
    """

    pick_rule: str
    model: Any

    @property
    def decoder(self) -> Any: ...

    def look(self, rec: Reconstruction) -> SceneContext:
        """Return what questions are asked of."""

    def answer(self, scene: SceneContext, question: str, most: int = ...) -> Answer:
        """Answer in at most so many tokens, with the boxes the words hold."""

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Return the boxes it writes for a phrase."""

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        """Describe what is in a box."""

    def score_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> NDArray[np.float32]:
        """Say which given box a phrase means, (R,); all 0 where it names none."""

    def pick_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> list[tuple[int, float]]:
        """Return which of given boxes a phrase means, none, one or several, and how sure."""

    def forget(self) -> None:
        """Give back what is remembered of scenes."""


class Concatenation:
    """Reconstruct windows by VGGT and answer about them by another model.

    It has the methods of `streaming.backend.Backend` and of its thrifty kind.

    Args:
        geometry: VGGT.
        metric_depth: gives metres; None leaves VGGT's unit.
        talker: gives words.
        manifest: the choices; its places are not looked at.
        licences: a line a part, for whoever publishes what it runs.
    """

    def __init__(
        self,
        geometry: VggtGeometry,
        metric_depth: MetricDepthModel | None,
        talker: Talker,
        manifest: Manifest,
        licences: Sequence[str] = (),
    ) -> None:
        if metric_depth is None and manifest.scale != "none":
            raise ValueError(
                f"metric_depth: expected a model for scale {manifest.scale!r}, got none"
            )
        self.geometry, self.metric_depth, self.talker = geometry, metric_depth, talker
        self.manifest = manifest
        self.licences = tuple(licences)
        self._frames = FrameCache()

    @property
    def title(self) -> str:
        """Its name in reports."""
        return self.manifest.title

    @property
    def device(self) -> torch.device:
        return self.geometry.device

    def prepare(self, frames: Frames, shrink: float = 1.0) -> Frames:
        """Bring frames to the size VGGT sees: its loader's, width first.

        Args:
            frames: of any size; prepared ones come back as they are.
            shrink: share of that size, in whole patches, at least two.

        Raises:
            ValueError: the frames are too small, or `shrink` is not a share.
        """
        if not 0 < shrink <= 1:
            raise ValueError(f"shrink: expected a share above 0 and up to 1, got {shrink}")
        size, patch = self.geometry.config.image_size, self.geometry.config.patch_size
        patches = max(2, int(size * shrink + 1e-6) // patch)
        return resize_frames(frames, min(size, patches * patch), patch, "width")

    def forget_frames(self) -> None:
        """Give back the memory of frames and scenes seen before."""
        self._frames.clear()
        self.talker.forget()
        if self.metric_depth is not None:
            self.metric_depth.forget_frames()

    def metres(self, seen: Frames) -> MetricSample | None:
        """Return metric depth of the frames the scale is fitted to; None where none is.

        Args:
            seen: prepared frames.
        """
        if self.manifest.scale == "none" or self.metric_depth is None:
            return None
        chosen = sample_frames(len(seen), self.manifest.scale_frames, seed=0)
        depth = self.metric_depth.depth_of_window(seen.images, seen.stamps_ns, chosen)
        return MetricSample(chosen, depth)

    @torch.inference_mode()
    def reconstruct(self, frames: Frames, shrink: float = 1.0) -> Reconstruction:
        """Turn frames into geometry, in metres unless unscaled, and a scene to ask about.

        Args:
            frames: the window; a calibrated camera's intrinsics are used for what they say, the
                scale is fitted to the metric depth in any case.
            shrink: as in `prepare`.

        Raises:
            ValueError: the frames are too small, or no depth can be used for the scale.
        """
        seen = self.prepare(frames, shrink)
        with self.geometry.autocast():
            encoded = self._frames.encode(seen.images, seen.stamps_ns, self._encode)
            output = self.geometry.of_encoded(
                encoded,
                seen.images.shape[1:3],
                with_points=self.manifest.depth_from == "point_head",
            )
        metric, confidence = to_metres(
            output, self.metres(seen), self.manifest.depth_from, self.manifest.scale
        )
        K = metric.K[0].double().cpu().numpy() if seen.K is None else seen.K
        T_world_camera = metric.T_world_camera[0].double().cpu().numpy()
        nothing = SceneContext(
            torch.zeros(0, 0), torch.zeros(0, 3), seen.stamps_ns, T_world_camera
        )
        rec = Reconstruction(
            images=seen.images,
            stamps_ns=seen.stamps_ns,
            depth=metric.depth[0].cpu().numpy(),
            valid=metric.valid[0].cpu().numpy(),
            confidence=confidence[0].cpu().numpy(),
            K=K,
            T_world_camera=T_world_camera,
            scale=float(metric.scale[0]),
            scale_spread=float(metric.spread[0]),
            scene=nothing,
            frame_id=seen.frame_id,
        )
        return replace(rec, scene=self.talker.look(rec))

    def answer(self, scene: SceneContext, question: str) -> Answer:
        """Answer in words; where they hold no box, a question for a place is asked for one.

        Raises:
            ValueError: the question is longer than the language model's context.
        """
        said = self.talker.answer(scene, question)
        if said.boxes or not prompts.asks_for_place(question):
            return said
        return replace(said, boxes=self.talker.ground(scene, prompts.place_phrase(question)))

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        """Say what stands in a box of the window's world."""
        return self.talker.describe(scene, box)

    def ground(
        self,
        scene: SceneContext,
        phrase: str,
        threshold: float | None = None,
        max_boxes: int = 16,
    ) -> tuple[GroundedBox, ...]:
        """Find what a phrase names, as text; nothing where the text holds no box.

        Args:
            scene: of `reconstruct`.
            phrase: any words.
            threshold: least confidence of the text; None takes any.
            max_boxes: at most so many.
        """
        found = self.talker.ground(scene, phrase)
        return tuple(box for box in found if box.score >= (threshold or 0.0))[:max_boxes]

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        """Find the objects of the manifest's labels, one answer of the model each."""
        found = [box for label in self.manifest.labels for box in self.talker.ground(scene, label)]
        return tuple(found)

    def score_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> NDArray[np.float32]:
        """Say which given box (proposals of another detector) a phrase means, (R,), 0 to 1."""
        return self.talker.score_boxes(scene, boxes, phrase)

    def _encode(self, images: NDArray[np.uint8]) -> EncoderOutput:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)[None]
        return self.geometry.encode(pixels.float() / 255)


def load_concatenation(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str = "none",
) -> Concatenation:
    """Load every part a folder's manifest names.

    Args:
        folder: with concatenation.json.
        device: where to run.
        dtype: of VGGT's and the language model's weights; metric depth stays in float32.
        quantize: "none", "int8" or "int4", of the language model's linear layers; an
            approximation.

    Raises:
        FileNotFoundError: a part is neither here nor to be had.
        ValueError: a part is not what the manifest says.
        ImportError: quantisation was asked for and cannot be had here.
    """
    manifest = read_manifest(folder)
    found = locate_parts(folder, manifest)
    geometry = load_vggt_geometry(found["geometry"], device, dtype)
    depth = None
    if manifest.scale != "none":
        depth = load_metric_depth(found["metric_depth"], device)
    # Quantised ones are whole on the host first: the device never holds what does not fit.
    at = device if quantize == "none" else "cpu"
    talker: Talker
    if manifest.backend == "vggt_llava3d":
        model = load_llava3d(
            found["language"], found.get("clip"), found.get("tokenizer"), at, dtype
        )
        talker = Llava3DTalker(
            model,
            frames_shown(manifest),
            manifest.voxel_size_m,
            manifest.max_scene_tokens,
        )
    else:
        talker = load_vlm(found["language"], frames_shown(manifest), at, dtype)
    if quantize != "none":
        quantize_layers(talker.decoder, quantize, torch.device(device))
        talker.model.to(device)
    return Concatenation(geometry, depth, talker, manifest, manifest.licence_lines(folder))


def frames_shown(manifest: Manifest) -> int:
    """Return how many frames of a window the language model sees at most."""
    own = LLAVA_3D_FRAMES if manifest.backend == "vggt_llava3d" else VLM_FRAMES
    return manifest.frames or own


def locate_parts(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """Find or fetch every part.

    Raises:
        FileNotFoundError: one is neither here nor to be had.
    """
    return {name: place.locate(folder, name) for name, place in manifest.parts().items()}


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Return the bytes all weights of a folder's manifest take when they are loaded.

    Args:
        folder: with concatenation.json.
        dtype: as for `load_concatenation`; VGGT's camera head and metric depth are float32 anyhow.
    """
    manifest = read_manifest(folder)
    found = locate_parts(folder, manifest)
    total = 0
    for name in ("geometry", "metric_depth", "language", "clip"):
        if name in found and not (name == "metric_depth" and manifest.scale == "none"):
            stored = TensorFiles(found[name]).tensors
            total += sum(
                math.prod(tensor.shape) * _width(name, key, dtype)
                for key, tensor in stored.items()
            )
    return total


def _width(part: str, key: str, dtype: torch.dtype) -> int:
    """Return the bytes a number of a part's tensor takes when loaded; 0 for one that is not."""
    if part == "geometry" and key.startswith("track_head."):
        return 0
    keeps_float32 = part == "metric_depth" or (
        part == "geometry" and key.startswith("camera_head.")
    )
    return torch.float32.itemsize if keeps_float32 else dtype.itemsize
