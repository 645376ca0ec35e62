# SPDX-License-Identifier: Apache-2.0
"""What a robot asks of a window's scene: the network's methods, by name and default.

Mixed into `VidLLM`; beside language model and box decoder of the figure. Next: scene_queries.py,
which does the work and remembers what questions on one scene share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.network import scene_queries
from vidllm_ros.structures import Answer, GroundedBox, SceneContext


class SceneQuestions:
    """Questions to the scene of `VidLLM.reconstruct`; `self` is the network."""

    def answer(self: Any, scene: SceneContext, question: str, max_new_tokens: int = 32) -> Answer:
        """Answer a question; its boxes are the objects the question is about, best first.

        Raises:
            ValueError: the question is longer than the language model's context.
        """
        return scene_queries.answer(self, scene, question, max_new_tokens)

    def describe(
        self: Any, scene: SceneContext, box: GroundedBox, max_new_tokens: int = 48
    ) -> Answer:
        """Describe what is in a box of the window's world."""
        return scene_queries.describe(self, scene, box, max_new_tokens)

    def ground(
        self: Any,
        scene: SceneContext,
        phrase: str,
        threshold: float | None = None,
        max_boxes: int = 16,
    ) -> tuple[GroundedBox, ...]:
        """Find what a phrase names, best first; nothing where nothing fits.

        Args:
            scene: of `reconstruct`.
            phrase: any words.
            threshold: lowest score; None takes `config.grounding_threshold`.
            max_boxes: at most so many.
        """
        return scene_queries.ground(self, scene, phrase, threshold, max_boxes)

    def detect(
        self: Any,
        scene: SceneContext,
        labels: tuple[str, ...] | None = None,
        threshold: float | None = None,
        max_boxes: int = 64,
    ) -> tuple[GroundedBox, ...]:
        """Find all objects of these labels (`config.label_vocabulary` where None) in one pass."""
        return scene_queries.detect(self, scene, labels, threshold, max_boxes)

    def score_boxes(
        self: Any, scene: SceneContext, boxes: tuple[GroundedBox, ...], phrase: str
    ) -> NDArray[np.float32]:
        """Say how well a phrase fits each given box (proposals of another detector), (R,), 0-1."""
        return scene_queries.score_boxes(self, scene, boxes, phrase)

    def ground_in_words(self: Any, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Let the language model write boxes as text, axis-aligned in the window's world."""
        return scene_queries.ground_in_words(self, scene, phrase)
