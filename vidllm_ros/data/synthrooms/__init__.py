# SPDX-License-Identifier: Apache-2.0
"""SynthRooms: seeded rooms, rendered with exact truth, asked about in plain words.

    sample = make_scene(seed=2_000_000)          # 32 frames, depth, poses, boxes, questions
    window = annotate_frames(sample, range(8))   # fewer frames, and questions they answer

seed -> rooms.py (arrange.py, furniture.py, fixtures.py) -> walk.py -> render.py (raycast.py,
textures.py, shading.py) -> view.py -> questions.py (spatial_questions.py), references.py,
situations.py -> scene.py -> storage.py. frozen.py holds the test split to what it was;
published.py writes rooms in the formats of the real benchmarks.
Next: scene.py.
"""

from vidllm_ros.data.samples import visible_objects
from vidllm_ros.data.synthrooms.rooms import Room, generate_room
from vidllm_ros.data.synthrooms.scene import (
    annotate,
    annotate_frames,
    iter_scenes,
    make_scene,
    render_walk,
)
from vidllm_ros.data.synthrooms.storage import load_sample, save_sample
from vidllm_ros.data.synthrooms.vocabulary import (
    COLORS,
    LABEL_IDS,
    LABELS,
    OBJECT_LABELS,
    SPLIT_SIZE,
    SPLITS,
    split_of,
)

__all__ = [
    "COLORS",
    "LABELS",
    "LABEL_IDS",
    "OBJECT_LABELS",
    "SPLITS",
    "SPLIT_SIZE",
    "Room",
    "annotate",
    "annotate_frames",
    "generate_room",
    "iter_scenes",
    "load_sample",
    "make_scene",
    "render_walk",
    "save_sample",
    "split_of",
    "visible_objects",
]
