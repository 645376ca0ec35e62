# SPDX-License-Identifier: Apache-2.0
"""What a scene's questions share: computed at the first one, remembered while the scene lives.

That is the scene's prefix in the language model and its box proposals, so that a further question
costs its own words only. Next: scene_queries.py, which asks.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.network.grounding import Proposals
from vidllm_ros.network.patches3d import ScenePatches
from vidllm_ros.network.scene_prefix import ScenePrefix
from vidllm_ros.structures import SceneContext

if TYPE_CHECKING:
    from vidllm_ros.network.vidllm import VidLLM


@dataclass(frozen=True)
class SceneState:
    """What a scene's questions share.

    Attributes:
        patches: the scene as a batch of one, on the model's device.
        T_world_scene: from the positions' frame to the window's world, (4, 4), m.
        prefix: keys and values of the language model.
        proposals: boxes before any phrase; None where the scene has no token.
        label_scores: of label sets asked before, each (V, Q).
    """

    patches: ScenePatches
    T_world_scene: NDArray[np.float64]
    prefix: ScenePrefix
    proposals: Proposals | None
    label_scores: dict[tuple[str, ...], NDArray[np.float32]] = field(default_factory=dict)


class SceneCache:
    """Remember the state of the scenes asked last, for as long as their context lives.

    Keyed by identity: a `SceneContext` holds arrays and has no hash.

    Attributes:
        lock: held by each question, whatever thread asks: a prefix serves one at a time.
    """

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity
        self.lock = threading.RLock()
        self._states: OrderedDict[int, tuple[weakref.ref[SceneContext], SceneState]] = (
            OrderedDict()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without contents: a copied network computes its own."""
        return type(self), (self.capacity,)

    def __len__(self) -> int:
        return len(self._states)

    def get(self, scene: SceneContext) -> SceneState | None:
        entry = self._states.get(id(scene))
        if entry is None or entry[0]() is not scene:
            return None
        self._states.move_to_end(id(scene))
        return entry[1]

    def put(self, scene: SceneContext, state: SceneState) -> None:
        key = id(scene)
        self._states[key] = (weakref.ref(scene, lambda _: self._states.pop(key, None)), state)
        self._states.move_to_end(key)
        while len(self._states) > self.capacity:
            self._states.popitem(last=False)

    def clear(self) -> None:
        self._states.clear()


def scene_state(model: VidLLM, scene: SceneContext) -> SceneState:
    """Return what the scene's questions share, computing it at the first one."""
    known = model._scenes.get(scene)
    if known is not None:
        return known
    patches = _patches(scene.tokens, scene.positions, model.device)
    if scene.fine is not None:
        patches = replace(patches, fine=_patches(*scene.fine, model.device))
    with model.autocast():
        prefix = model.language.encode_scene(model.scene_embeds(patches))
        has_tokens = bool(patches.for_boxes.mask.any())
        proposals = model.grounding.propose(patches.for_boxes) if has_tokens else None
    state = SceneState(patches, scene.T_world_scene, prefix, proposals)
    model._scenes.put(scene, state)
    return state


def _patches(tokens: Tensor, positions: Tensor, device: torch.device) -> ScenePatches:
    """Return one scene's tokens as a batch of one."""
    tokens = tokens.to(device)[None]
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
    return ScenePatches(tokens, positions.to(device, torch.float32)[None], mask)
