# SPDX-License-Identifier: Apache-2.0
"""The parts of a training recipe: data, optimizer, losses, teachers, validation; each is checked.

Defaults exist once, here and in recipe.py, which joins the parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vidllm_ros.training.grounding_losses import GroundingWeights

GEOMETRY_TEACHERS = ("none", "encoder", "network", "vggt")
SEMANTIC_TEACHERS = ("none", "clip", "oracle")
HOMELESS_TEACHERS = ("none", "oracle")  # read no folder
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd", "constant")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: it is not; `name` says which setting it is.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


@dataclass(frozen=True)
class DataRecipe:
    """Where scenes come from and how one becomes a sample.

    Attributes:
        folder: rendered rooms; "" renders them while training, by seed.
        first_seed, rooms: seeds of rooms rendered while training; unused with a folder.
        cache: folder that keeps rooms rendered while training for later batches; "" keeps none.
        new_rooms: rooms a batch by which the pool that batches draw from grows, from `pool` of
            them at the start to `rooms`; 0 draws from all of them at once.
        height, width: of the frames, px; rooms of a folder must have this size.
        frames_per_batch: images of a batch; scenes a batch = this over the frames of each.
        max_scenes: of a batch.
        min_frames, max_frames: frames of a scene, drawn once a batch.
        long_from: progress (0 to 1) from which `long_min_frames`..`long_max_frames` are drawn
            with probability `long_share`.
        dense_frames: how many frames of a sample the dense heads see; 0 is all.
        segments: questions, captions and phrases packed after one scene.
        text_tokens: longest pack, tokens.
        captions, phrases: how many of the segments are captions and phrases, at most.
        question_rounds: how many times over questions of every family are drawn for a scene.
        noise: strength of photometric augmentation, 0 to 1.
        mirror: share of batches whose frames are turned left to right; stage "distil" alone.
        workers: processes that prepare samples.
    """

    folder: str = ""
    first_seed: int = 0
    rooms: int = 1_000_000
    cache: str = ""
    new_rooms: float = 0.0
    pool: int = 64
    height: int = 84
    width: int = 112
    frames_per_batch: int = 48
    max_scenes: int = 8
    min_frames: int = 4
    max_frames: int = 12
    long_from: float = 1.0
    long_share: float = 0.0
    long_min_frames: int = 16
    long_max_frames: int = 32
    dense_frames: int = 3
    segments: int = 32
    text_tokens: int = 640
    captions: int = 4
    phrases: int = 12
    question_rounds: int = 1
    noise: float = 0.5
    mirror: float = 0.0
    workers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_frames <= self.max_frames:
            raise ValueError(
                f"min_frames: expected 1 to max_frames={self.max_frames}, got {self.min_frames}"
            )
        if not 0.0 <= self.mirror <= 1.0:
            raise ValueError(f"data.mirror: expected a share from 0 to 1, got {self.mirror}")
        if self.question_rounds < 1:
            raise ValueError(
                f"data.question_rounds: expected at least 1, got {self.question_rounds}"
            )
        if self.segments < 1 or self.text_tokens < 32:
            raise ValueError(
                "segments, text_tokens: expected at least 1 and 32, got "
                f"{self.segments} and {self.text_tokens}"
            )


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights move.

    Attributes:
        name: "adamw", or "muon": matrices by Muon, everything else by AdamW.
        lr: peak of AdamW.
        muon_lr: peak of Muon (updates matched to AdamW's size).
        schedule: "cosine", "wsd" (warm-up, stable, decay) or "constant"; all warm up linearly.
        warmup, decay: shares of the run; decay is for "wsd".
        final: learning rate at the end over its peak.
        clip: largest gradient norm.
        ema: decay of the averaged weights that are shipped; 0 ships the last ones.
    """

    name: str = "adamw"
    lr: float = 1e-3
    muon_lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    schedule: str = "wsd"
    warmup: float = 0.03
    decay: float = 0.35
    final: float = 0.02
    clip: float = 1.0
    ema: float = 0.998

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the losses; 0 switches one off.

    Attributes:
        camera, depth, points, metric: reconstruction (eq. 8, 9).
        point_normals: of the normals within the point loss.
        metric_form: "eq9" or "silog".
        language, grounding: the language branch.
        oracle_label, oracle_color: the dense semantic target known in rendered rooms.
        oracle_balance: 0 to 1, how far rare classes are made up for: a patch's class counts by
            its share of all patches to the power of minus this.
        guide_attention, guide_ray, guide_point, guide_camera: correspondences and places
            the truth knows (guidance.py).
        guide_evidence: where an answer's objects are among the scene tokens (words.py).
        distil_geometry, distil_semantic, distil_structure: eq. 5, for stage 1; the last is lambda.
        contrast_patch, contrast_frame, contrast_caption: images with words, for the semantic
            teacher (image_text.py).
        match_repeats: queries an object gets at the inner decoder layers.
        match_repeats_last: at the last one, whose boxes are reported and matched with phrases; of
            several that lie on each other the best one is reported.
        boxes: terms of the box losses.
    """

    camera: float = 5.0
    depth: float = 1.0
    points: float = 1.0
    metric: float = 1.0
    point_normals: float = 1.0
    metric_form: str = "eq9"
    language: float = 1.0
    grounding: float = 1.0
    oracle_label: float = 0.5
    oracle_color: float = 0.3
    oracle_balance: float = 0.0
    guide_attention: float = 0.0
    guide_ray: float = 0.0
    guide_point: float = 0.0
    guide_camera: float = 0.0
    guide_evidence: float = 0.0
    distil_geometry: float = 1.0
    distil_semantic: float = 1.0
    distil_structure: float = 1.0
    contrast_patch: float = 1.0
    contrast_frame: float = 1.0
    contrast_caption: float = 1.0
    match_repeats: int = 3
    match_repeats_last: int = 1
    boxes: GroundingWeights = field(default_factory=GroundingWeights)

    def __post_init__(self) -> None:
        check_choice("losses.metric_form", self.metric_form, ("eq9", "silog"))
        if not 0.0 <= self.oracle_balance <= 1.0:
            raise ValueError(f"losses.oracle_balance: expected 0 to 1, got {self.oracle_balance}")


@dataclass(frozen=True)
class TeacherRecipe:
    """A frozen network whose patch features a stream learns to give (eq. 6).

    Attributes:
        kind: "none"; of geometry "encoder" (the encoder of a network of this project), "network"
            (all that its reconstruction branch reads, learnt without a head, so that the branch
            goes on reading it) or "vggt" (the DINO of a VGGT checkpoint); of meaning "clip" (any
            CLIP vision tower of transformers) or "oracle" (class and colour of each patch, which
            rendered rooms know; weighed by `losses.oracle_label` and `oracle_color`).
        folder: of a run, or of saved weights.
        layer: of a "clip", which hidden state; LLaVA-3D's projector reads the last but one.
        image_size: frames are squeezed to this square and features resized to the student's grid;
            0 lets the teacher interpolate its positions to the frame's own grid.
    """

    kind: str = "none"
    folder: str = ""
    layer: int = -2
    image_size: int = 0

    def __post_init__(self) -> None:
        check_choice("teacher.kind", self.kind, GEOMETRY_TEACHERS + SEMANTIC_TEACHERS[1:])
        is_homeless = self.kind in HOMELESS_TEACHERS
        if is_homeless != (not self.folder):
            wanted = "no folder" if is_homeless else "a folder"
            raise ValueError(
                f"teacher.folder: expected {wanted} with kind {self.kind!r}, got {self.folder!r}"
            )
        if self.image_size and self.kind == "network":
            raise ValueError(
                f"teacher.image_size: expected 0 with kind 'network', which sees what the student "
                f"sees, got {self.image_size}"
            )


@dataclass(frozen=True)
class ValidationRecipe:
    """A look at rooms the run does not learn from (cli/validation.py).

    Attributes:
        rooms: how many; 0 leaves validation out.
        first_seed: of them.
        frames: of each room's window.
        questions: asked a room, at most.
        pictures: rooms that are drawn.
        every_minutes: between looks; 0 does not look by time.
        every_steps: likewise by steps. One look at the end of the run is always taken.
    """

    rooms: int = 0
    first_seed: int = 1_000_000
    frames: int = 8
    questions: int = 12
    pictures: int = 3
    every_minutes: float = 0.0
    every_steps: int = 0
