# SPDX-License-Identifier: Apache-2.0
"""Whole calls of `vidllm bench model`: what a robot waits for, from its images to a first word.

Sums of stages leave out what lies between them: images to the device, metres, poses, pooling, the
way back. Here `reconstruct` and a question are called as a session calls them, in the same run as
the stages. Next: bench_stages.py for the stages, bench_model.py for the report.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidllm_ros import prompts
from vidllm_ros.network.account import Workload
from vidllm_ros.network.scene_state import scene_state
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming.repeated_timing import Call, spread_of
from vidllm_ros.structures import Frames, Reconstruction, SceneContext

NEW_FRAMES = 8
QUESTION = "what is standing to the left of the brown table in this room?"
COLD, STRIDE, FIRST_WORD, FURTHER = (
    "reconstruct", "reconstruct_stride", "window_to_first_token", "further_question",
)  # fmt: skip
WORDS = {
    COLD: "one reconstruct call, nothing remembered",
    STRIDE: "the same, all but the newest frames remembered",
    FIRST_WORD: "reconstruct, read the scene, first token of an answer",
    FURTHER: "first token of a further question on the scene",
}
"""The calls, in the order they are timed."""
SUMS = {COLD: "reconstruction_s", FIRST_WORD: "window_to_first_token_s",
        FURTHER: "further_question_s", STRIDE: "stride_window_s"}  # fmt: skip
"""The report's sums of stages that a call is held against."""


class WholeCalls:
    """A network and the frames it is called with.

    Its images have the workload's size, which its config is told, so that nothing is resized.

    Args:
        model: on its device; gets a tokenizer where it has none.
        load: what the stages are given as well.

    Attributes:
        pooled_tokens: how many tokens the newest window's scene had of its own.
    """

    def __init__(self, model: VidLLM, load: Workload) -> None:
        self.model = model
        height, width = load.size
        model.config.resize_mode, model.config.image_size = "shorter", min(height, width)
        if not model.language.has_tokenizer:
            size = int(model.language.model.config.vocab_size)
            model.language.attach_tokenizer(build_tokenizer([QUESTION], min(size, 512)))
        rng = np.random.default_rng(0)
        count = load.frames + NEW_FRAMES
        images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        film = Frames(images, tuple(range(1, count + 1)), "camera_optical_frame")
        self.before_it = film.select(list(range(load.frames)))
        self.window = film.select(list(range(NEW_FRAMES, count)))
        self._scene_tokens = load.scene_tokens
        self._scene: SceneContext | None = None
        self.pooled_tokens = 0

    def calls(self) -> dict[str, Call]:
        """Return what is timed, by the names of `WORDS`."""
        return {
            COLD: lambda: self.model.reconstruct(self.window),
            STRIDE: lambda: self.model.reconstruct(self.window),
            FIRST_WORD: lambda: self.first_word(self._filled(self.model.reconstruct(self.window))),
            FURTHER: lambda: self.first_word(self.scene),
        }

    def run_once(self) -> None:
        """Run each call once."""
        for name, call in self.calls().items():
            self.before(name)
            call()

    def before(self, name: str) -> None:
        """Bring about what a call finds: nothing, or the window before it; outside its time."""
        if name == FURTHER:
            self.first_word(self.scene)
            return
        self.model.forget_frames()
        if name == STRIDE:
            with torch.inference_mode(), self.model.autocast():
                self.model.frame_cache.encode(
                    self.before_it.images, self.before_it.stamps_ns, self.model._encode_images
                )

    @property
    def scene(self) -> SceneContext:
        """The window's scene, reconstructed once."""
        if self._scene is None:
            self._scene = self._filled(self.model.reconstruct(self.window))
        return self._scene

    def _filled(self, rec: Reconstruction) -> SceneContext:
        """Bring a window's tokens to the workload's count: random geometry pools to any number.

        They are repeated; where there are none, zeros are read, which take as long.
        """
        scene = rec.scene
        self.pooled_tokens = len(scene.tokens)
        tokens, positions = filled(scene.tokens, scene.positions, self._scene_tokens)
        count = self.model.config.grounding_tokens
        fine = None if scene.fine is None else filled(*scene.fine, count)
        return replace(scene, tokens=tokens, positions=positions, fine=fine)

    @torch.inference_mode()
    def first_word(self, scene: SceneContext) -> str:
        """Do what an answer does up to its first token; the scene is read where it is new."""
        model = self.model
        prefix = scene_state(model, scene).prefix
        template = model.language.template
        with model.autocast():
            said, _ = model.language.generate_and_point(
                prefix,
                prompts.question_prompt(QUESTION, template=template),
                prompts.grounding_prompt(QUESTION, template),
                1,
            )
        return said.text


def filled(tokens: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Repeat tokens (M, C) and positions (M, 3) to `count` of them; zeros where there are none."""
    if not len(tokens):
        return tokens.new_zeros(count, tokens.shape[1]), positions.new_zeros(count, 3)
    rows = torch.arange(count, device=tokens.device) % len(tokens)
    return tokens[rows], positions[rows]


def whole_report(seconds: dict[str, list[float]], whole: WholeCalls) -> dict[str, Any]:
    """Return the report's entries of whole calls, flat, and their spreads under `calls`.

    Args:
        seconds: of each call of `WORDS`.
        whole: whose calls they are, after they were timed.
    """
    spreads = {name: spread_of(took) for name, took in seconds.items()}
    cold = spreads[COLD].median
    return {
        "reconstruct_call_s": cold,
        "window_to_first_token_call_s": spreads[FIRST_WORD].median,
        "further_question_call_s": spreads[FURTHER].median,
        "stride_window_call_s": spreads[STRIDE].median,
        "stride_window_call_ratio": spreads[STRIDE].median / cold,
        "calls_scene_tokens": len(whole.scene.tokens),
        "calls_scene_tokens_pooled": whole.pooled_tokens,  # the rest are repeated or zeros
        "calls": {name: spread.in_ms() for name, spread in spreads.items()},
    }
