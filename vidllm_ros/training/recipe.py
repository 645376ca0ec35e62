# SPDX-License-Identifier: Apache-2.0
"""A training recipe: one YAML file becomes nested frozen dataclasses, complete and checked.

Defaults exist once, here and in recipe_parts.py; a file only overrides. The whole recipe is stored
in every checkpoint, so that a run can say what made it. Next: optimizer.py and trainer.py, which
read it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from transformers import (
    CONFIG_MAPPING,
    CLIPConfig,
    Dinov2WithRegistersConfig,
    PretrainedConfig,
)

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.training.recipe_parts import (
    GEOMETRY_TEACHERS,
    SEMANTIC_TEACHERS,
    DataRecipe,
    LossRecipe,
    OptimizerRecipe,
    TeacherRecipe,
    ValidationRecipe,
    check_choice,
)

__all__ = [
    "DataRecipe",
    "LossRecipe",
    "OptimizerRecipe",
    "Recipe",
    "TeacherRecipe",
    "ValidationRecipe",
    "load_recipe",
    "recipe_from_dict",
]

STAGES = ("joint", "distil", "words", "image_text")
PRECISIONS = ("no", "bf16")

OLDER = (
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "torch_dtype",
    "attn_implementation",
)
"""Fields that configurations of transformers read and do not name."""

RecipePart = TypeVar("RecipePart")


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs.

    Attributes:
        model: fields of `VidLLMConfig` that differ from its defaults, or from those of `init`; of
            `CLIPConfig` with stage "image_text".
        stage: "joint" (stage 2, or all at once), "distil" (stage 1), "words" (language branch
            alone, on frozen geometry) or "image_text" (the semantic teacher).
        geometry_teacher, semantic_teacher: of stage "distil".
        replay_scenes, replay_buffer: scenes a step of the words stage, and scenes it remembers.
        replay_variety: how differently it is shown every scene, new ones too, 0 to 1
            (varied_scene.py).
        true_looks: share of its batches whose windows are placed by the truth, spoiled as nano's
            geometry errs (true_looks.py), up to the progress `true_looks_until`, 0 to 1; what is
            remembered from before stays.
        evidence_layer: of the language model, whose head is guided to the evidence.
        learn: parts of the network that learn in the joint or words stage, by module path
            ("box_features.feature"); all that the stage teaches where empty.
        total_steps: length of the schedule, batches.
        max_minutes: wall time after which the schedule has ended too; 0 leaves time out.
        own_geometry: (from, until) progress over which the 3D patches switch from the true
            geometry to the network's own; their share rises linearly to `own_geometry_share`.
        checkpoint_minutes: between checkpoints.
        precision: autocast, "no" or "bf16".
        shard: with several processes, keep only a share of weights, gradients and optimizer in
            each (FSDP2); `accelerate launch --use_fsdp` does it too.
        recompute: keep no layer's activations but its input, and compute the rest again.
        threads: of torch on a CPU; 0 leaves its choice.
        init: folder of a saved model or of a run to start from; "" starts from scratch.
    """

    name: str = "run"
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "joint"
    replay_scenes: int = 6
    replay_buffer: int = 256
    replay_variety: float = 0.0
    true_looks: float = 0.0
    true_looks_until: float = 0.7
    evidence_layer: int = 2
    learn: tuple[str, ...] = ()
    total_steps: int = 2_000
    max_minutes: float = 0.0
    own_geometry: tuple[float, float] = (0.25, 0.75)
    own_geometry_share: float = 0.9
    checkpoint_minutes: float = 4.0
    log_every: int = 10
    precision: str = "bf16"
    shard: bool = False
    recompute: bool = False
    threads: int = 0
    init: str = ""
    geometry_teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    semantic_teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    losses: LossRecipe = field(default_factory=LossRecipe)

    def __post_init__(self) -> None:
        check_choice("stage", self.stage, STAGES)
        check_choice("precision", self.precision, PRECISIONS)
        self._check_words_settings()
        if self.replay_buffer < 1:
            raise ValueError(f"replay_buffer: expected at least 1, got {self.replay_buffer}")
        if self.data.question_rounds > 1 and self.stage not in ("words", "joint"):
            raise ValueError(
                f"data.question_rounds: expected 1 with stage {self.stage!r}, which reads no "
                f"questions, got {self.data.question_rounds}"
            )
        if self.total_steps < 1:
            raise ValueError(f"total_steps: expected at least 1, got {self.total_steps}")
        if self.data.mirror and self.stage != "distil":
            raise ValueError(
                f"data.mirror: expected 0 with stage {self.stage!r}, whose poses and words know "
                f"left from right, got {self.data.mirror}"
            )
        check_choice("geometry_teacher.kind", self.geometry_teacher.kind, GEOMETRY_TEACHERS)
        check_choice("semantic_teacher.kind", self.semantic_teacher.kind, SEMANTIC_TEACHERS)
        losses = self.losses
        if self.semantic_teacher.kind == "oracle" and not (
            losses.oracle_label or losses.oracle_color
        ):
            raise ValueError(
                "losses.oracle_label, losses.oracle_color: expected one above 0 with the oracle "
                "as teacher, got 0 and 0"
            )
        teachers = {self.geometry_teacher.kind, self.semantic_teacher.kind}
        if (self.stage == "distil") == (teachers == {"none"}):
            raise ValueError(
                "geometry_teacher, semantic_teacher: expected at least one with stage 'distil' "
                f"and none with others, got {sorted(teachers)} with {self.stage!r}"
            )

    def _check_words_settings(self) -> None:
        """Refuse what a stage does not read."""
        for name in ("replay_variety", "true_looks", "true_looks_until"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {value}")
            if self.stage != "words" and value and name != "true_looks_until":
                raise ValueError(
                    f"{name}: expected 0 with stage {self.stage!r}, which shows every scene as "
                    f"its network sees it, got {value}; only stage 'words' reads it"
                )
        is_list = isinstance(self.learn, (list, tuple))
        if not is_list or not all(isinstance(name, str) for name in self.learn):
            raise ValueError(f"learn: expected a list of module paths, got {self.learn!r}")
        if self.learn and self.stage not in ("joint", "words"):
            raise ValueError(
                f"learn: expected none with stage {self.stage!r}, whose parts learn together, got "
                f"{list(self.learn)}; only stages 'joint' and 'words' read it"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_part(kind: type[RecipePart], values: Mapping[str, Any], path: str) -> RecipePart:
    """Build one dataclass of the recipe from plain values; names it does not know are refused."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected settings by name, got {values!r}")
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    refuse_unknown(values, known, path)
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and is_dataclass(hint):
            made[name] = build_part(hint, value or {}, f"{path}.{name}")
        elif hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            made[name] = float(value)  # YAML reads 1e-3 as text
        elif isinstance(value, list):
            made[name] = tuple(value)
        else:
            made[name] = value
    return kind(**made)


def refuse_unknown(names: Iterable[object], known: set[str], path: str) -> None:
    """Say which name is no setting, and which setting is nearest to it.

    Raises:
        ValueError: there is such a name; the first is named.
    """
    foreign = sorted(str(name) for name in names if name not in known)
    if foreign:
        near = difflib.get_close_matches(foreign[0], sorted(known), n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise ValueError(f"{path}: expected the name of a setting, got {foreign[0]}; {fix}")


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, not a mapping, or names a setting that does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"config: expected a recipe file, got {file}; see config/train/")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"config: expected YAML in {file}, got an error: {said}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"config: expected settings by name in {file}, got {type(values).__name__}"
        )
    return recipe_from_dict(values, str(file))


def recipe_from_dict(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Build a recipe from plain values.

    Raises:
        ValueError: a setting, a field of `model` or of its encoder, language model, image or text
            tower does not exist.
    """
    recipe = build_part(Recipe, values, source)
    network = CLIPConfig if recipe.stage == "image_text" else VidLLMConfig
    known = set(signature(network).parameters) - {"kwargs"}
    if not isinstance(recipe.model, Mapping):
        raise ValueError(f"{source}.model: expected fields by name, got {recipe.model!r}")
    refuse_unknown(recipe.model, known, f"{source}.model")
    for name in ("encoder", "language", *CLIPConfig.sub_configs):
        if name in recipe.model:
            refuse_unknown_inside(recipe.model[name], name, f"{source}.model.{name}")
    return recipe


def refuse_unknown_inside(given: Any, name: str, path: str) -> None:
    """Check a field of `model` that another library's configuration reads.

    Raises:
        ValueError: it is no mapping, names what that configuration does not have, or is of a
            language model nobody knows.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: expected fields by name, got {given!r}")
    kinds: dict[str, type[PretrainedConfig]] = {
        "encoder": Dinov2WithRegistersConfig,
        **CLIPConfig.sub_configs,
    }
    if name == "language":
        kind: Any = given.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise ValueError(
                f"{path}.model_type: expected one that transformers knows, as llama, got {kind!r}"
            )
        kinds[name] = CONFIG_MAPPING[kind]
    config = kinds[name]
    known = {*signature(config).parameters, *config().to_dict(), *config.attribute_map, *OLDER}
    refuse_unknown(given, known - {"kwargs"}, path)
