# SPDX-License-Identifier: Apache-2.0
"""Any chat-capable vision-language model of transformers in LLaVA-3D's place.

It sees a few frames of the window as images and reads, beside each, where the camera stood and
where points of it are: depth and poses as text. Boxes are read back from its words, and where the
words hold none there is none. Next: concatenation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
)

from vidllm_ros import prompts
from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import invert_transform, transform_points
from vidllm_ros.network import concat_words as words
from vidllm_ros.network.concat_processor import load_processor
from vidllm_ros.network.concat_room import boxes_from_text, in_room, room_of, spread_frames
from vidllm_ros.structures import Answer, GroundedBox, Reconstruction, SceneContext

GRID = (3, 4)  # points of an image that are told, rows and columns
BOX_TOKENS, CHOICE_TOKENS, PICK_TOKENS = 128, 8, 48
WORDS_ROOM = 512  # tokens of a prompt beside its images: question, given boxes, answer
_ROOM_STEP = 14  # px between the points a room is put around


@dataclass(frozen=True)
class SeenScene(SceneContext):
    """A scene that is shown rather than tokenised; its tokens are empty.

    Attributes:
        images: RGB, each (H, W, 3), uint8, of the frames that are shown.
        told: what is said beside each.
    """

    images: tuple[NDArray[np.uint8], ...] = ()
    told: tuple[str, ...] = ()


class VlmTalker:
    """Answer about windows by a vision-language model, greedily.

    Args:
        model: of `AutoModelForImageTextToText`.
        processor: its own, with a chat template.
        frames: how many of a window's frames it sees, evenly.
    """

    pick_rule = "those whose numbers it answers, none where it answers anything else"

    def __init__(self, model: Any, processor: Any, frames: int = 8) -> None:
        self.model, self.processor, self.frames = model, processor, frames

    @property
    def decoder(self) -> Any:
        """Its language model, whose layers may be quantised."""
        return self.model.get_decoder()

    def look(self, rec: Reconstruction) -> SeenScene:
        """Choose the frames to show and write down where what they show is.

        Args:
            rec: the window's geometry; its scene is not looked at.
        """
        chosen = list(spread_frames(len(rec.stamps_ns), self.frames))
        spread, known = _grid_points(rec, chosen, step=_ROOM_STEP)
        T_room_window = room_of(rec, spread[known])
        points, valid = _grid_points(rec, chosen, grid=GRID)
        points = transform_points(T_room_window, points)
        cameras = transform_points(T_room_window, rec.T_world_camera[chosen, :3, 3])
        told = tuple(
            words.frame_words(number, cameras[i], points[i], valid[i])
            for i, number in enumerate(range(1, len(chosen) + 1))
        )
        places = torch.from_numpy(np.ascontiguousarray(points[valid])).float()
        return SeenScene(
            tokens=torch.zeros(len(places), 0),
            positions=places,
            stamps_ns=rec.stamps_ns,
            T_world_camera=rec.T_world_camera,
            T_world_scene=invert_transform(T_room_window),
            images=tuple(rec.images[i] for i in chosen),
            told=told,
        )

    def answer(self, scene: SceneContext, question: str, most: int = 64) -> Answer:
        """Answer in words; its boxes are those the words hold."""
        asked = words.VLM_ANSWER.format(question=prompts.clean_text(question))
        text, confidence = self._say(scene, asked, most)
        boxes = boxes_from_text(scene, text, prompts.clean_text(question), confidence)
        return Answer(text, confidence, boxes, scene.stamps_ns)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Return the boxes it writes for a phrase; none where it writes none."""
        text, confidence = self._say(scene, words.vlm_box_prompt(phrase), BOX_TOKENS)
        return boxes_from_text(scene, text, prompts.clean_text(phrase), confidence)

    def describe(self, scene: SceneContext, box: GroundedBox, most: int = 64) -> Answer:
        """Describe what is in a box of the window's world."""
        text, confidence = self._say(scene, words.vlm_caption_prompt(in_room(scene, box)), most)
        return Answer(text, confidence, (box,), scene.stamps_ns)

    def score_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> NDArray[np.float32]:
        """Say which given box a phrase means, (R,): its confidence at the one it names, else 0."""
        scores = np.zeros(len(boxes), np.float32)
        if not boxes:
            return scores
        asked = words.vlm_choice_prompt([in_room(scene, box) for box in boxes], phrase)
        text, confidence = self._say(scene, asked, CHOICE_TOKENS)
        chosen = words.read_choice(text, len(boxes))
        if chosen is not None:
            scores[chosen] = confidence
        return scores

    def pick_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> list[tuple[int, float]]:
        """Return which given boxes a phrase means by `pick_rule`, each with its confidence."""
        if not boxes:
            return []
        asked = words.vlm_pick_prompt([in_room(scene, box) for box in boxes], phrase)
        text, confidence = self._say(scene, asked, PICK_TOKENS)
        return [(index, confidence) for index in words.read_choices(text, len(boxes))]

    def forget(self) -> None:
        """Do nothing: of a scene nothing is remembered."""

    @torch.inference_mode()
    def _say(self, scene: SceneContext, request: str, most: int) -> tuple[str, float]:
        """Return the model's words and the geometric mean probability of their tokens."""
        if not isinstance(scene, SeenScene):
            raise TypeError(f"scene: expected one of this backend's own, got {type(scene)}")
        asked = self.processor.apply_chat_template(
            chat(scene, request),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        asked = asked.to(self.model.device)
        for name, value in asked.items():
            if value.is_floating_point():
                asked[name] = value.to(self.model.dtype)
        length = int(asked["input_ids"].shape[1])
        self._require_room(length, most, len(scene.images))
        said = self.model.generate(
            **asked,
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = said.sequences[0, length:]
        each = [
            float(logits[0].float().log_softmax(-1)[token])
            for logits, token in zip(said.logits, ids.tolist(), strict=False)
        ]
        confidence = float(np.exp(np.mean(each))) if each else 0.0
        text = str(self.processor.decode(ids, skip_special_tokens=True)).strip()
        return text, confidence

    def _require_room(self, length: int, most: int, images: int) -> None:
        """Refuse a prompt behind whose end the model was never trained.

        Raises:
            ValueError: prompt and answer are longer than what the model reads.
        """
        context = context_tokens(self.model.config)
        if context is not None and length + most > context:
            fewer = max(1, (context - WORDS_ROOM) * images // length)
            raise ValueError(
                f"frames: expected a prompt of at most {context - most} tokens, got {length} with "
                f"{images} images; set frames to {fewer} in concatenation.json, ask for less, or "
                "take a model that reads more"
            )


def chat(scene: SeenScene, request: str) -> list[dict[str, Any]]:
    """Return one user turn: the images, each followed by what is told of it, then the request."""
    content: list[dict[str, Any]] = [{"type": "text", "text": words.VLM_INTRO}]
    for image, told in zip(scene.images, scene.told, strict=True):
        content += [
            {"type": "image", "image": Image.fromarray(image)},
            {"type": "text", "text": told},
        ]
    content.append({"type": "text", "text": request})
    return [{"role": "user", "content": content}]


def _grid_points(
    rec: Reconstruction,
    frames: Sequence[int],
    grid: tuple[int, int] | None = None,
    step: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Lift pixels of some frames into the window's world.

    Args:
        rec: the window.
        frames: which.
        grid: the centres of so many rows and columns of equal fields; None takes every `step`-th
            pixel.
        step: px.

    Returns:
        points (F, h, w, 3), m; which are known (F, h, w).
    """
    height, width = rec.depth.shape[1:]
    if grid is None:
        rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    else:
        rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
        columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    chosen = list(frames)
    depth = rec.depth[chosen].astype(np.float64)
    valid = rec.valid[chosen] & np.isfinite(depth) & (depth > 0)
    points = np.asarray(unproject(np.where(valid, depth, 0.0), rec.K[chosen]), np.float64)
    points, valid = points[:, rows][:, :, columns], valid[:, rows][:, :, columns]
    pose = np.asarray(rec.T_world_camera, np.float64)[chosen, None, None]
    placed = (pose[..., :3, :3] @ points[..., None])[..., 0] + pose[..., :3, 3]
    return placed, valid


def load_vlm(
    path: Path,
    frames: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VlmTalker:
    """Load a vision-language model of transformers from a folder.

    Raises:
        ValueError: it is none, its processor cannot be made, or it has no chat template.
    """
    processor = look_at_vlm(path)
    try:
        vlm: Any = AutoModelForImageTextToText.from_pretrained(
            path, local_files_only=True, dtype=dtype
        )
    except (OSError, RuntimeError, ImportError, KeyError, ValueError) as error:
        raise _not_vlm(path, error) from error
    return VlmTalker(vlm.to(device).eval().requires_grad_(False), processor, frames)


def vlm_without_memory(path: Path) -> tuple[Any, Any]:
    """Return a model's language model on the meta device, and the config of that.

    Raises:
        ValueError: as `load_vlm`.
    """
    try:
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except Exception as error:  # the library raises nearly anything here
        raise _not_vlm(path, error) from error
    return model.get_decoder(), config.get_text_config(decoder=True)


def prompt_tokens(processor: Any, size: tuple[int, int]) -> int:
    """Count the tokens of a prompt that shows one frame of (H, W)."""
    grid = np.ones((*GRID, 3))
    told = words.frame_words(1, grid[0, 0], grid, np.ones(GRID, bool))
    scene = SeenScene(
        torch.zeros(0, 0), torch.zeros(0, 3), (0,), np.eye(4)[None],
        images=(np.zeros((*size, 3), np.uint8),), told=(told,),
    )  # fmt: skip
    asked = processor.apply_chat_template(
        chat(scene, words.vlm_box_prompt("thing")), add_generation_prompt=True, tokenize=True,
        return_dict=True, return_tensors="pt",
    )  # fmt: skip
    return int(asked["input_ids"].shape[1])


def context_tokens(config: Any) -> int | None:
    """Return how many tokens a model reads, by its config; None where that names no end."""
    most = config.get_text_config(decoder=True).to_dict().get("max_position_embeddings")
    return None if most is None else int(most)


def most_frames(path: Path, size: tuple[int, int]) -> int | None:
    """Return how many frames of (H, W) a model's prompt has room for; None where it names no end.

    Raises:
        ValueError: as `load_vlm`.
    """
    processor = look_at_vlm(path)
    context = context_tokens(AutoConfig.from_pretrained(path, local_files_only=True))
    if context is None:
        return None
    return max(0, context - WORDS_ROOM) // prompt_tokens(processor, size)


def look_at_vlm(path: Path) -> Any:
    """Return a model's processor, without reading weights.

    Raises:
        ValueError: as `load_vlm`.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        processor = load_processor(path, config)
    except Exception as error:  # the library raises nearly anything here
        raise _not_vlm(path, error) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        kind = f"a {config.model_type!r}, which takes no images with its words"
        raise _not_vlm(path, ValueError(kind))
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"language: expected a chat template beside {path}, got none; take a model that was "
            "trained to chat, or put its chat_template.jinja there"
        )
    return processor


def _not_vlm(path: Path, error: Exception) -> ValueError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "torchvision" in str(error).lower():
        first = "its processor needs the package torchvision (pip install torchvision)"
    return ValueError(
        f"language: expected a vision-language model of transformers in {path}, got: {first}"
    )
