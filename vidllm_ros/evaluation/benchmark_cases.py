# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is: cases to be predicted, records of predictions, and a score of both.

A `Benchmark` reads published files into `Cases`; a `Predictor` (predictor.py) turns each case into
a `Record`, plain JSON that anybody's model can write as well; `score` holds records against the
truth and touches neither model nor images. Next: predictor.py, then benchmark_registry.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vidllm_ros.evaluation.predictor import Predictor, SceneView

Record = Mapping[str, Any]
Kind = TypeVar("Kind", str, int, float)
CASE_ID = "case_id"
SHOWN_IDS = 5


@dataclass(frozen=True)
class Case:
    """One thing to predict.

    Attributes:
        case_id: unique in the split; names the record of its prediction.
        scene_id: the scene whose frames it is about; cases of a scene are predicted together.
        request: what a predictor may see, plain JSON: a question, a phrase, a box.
        truth: what the scorer alone may see.
    """

    case_id: str
    scene_id: str
    request: Mapping[str, Any] = field(default_factory=dict)
    truth: Any = None


@dataclass(frozen=True)
class Cases:
    """The cases of a split, by scene, read when they are asked for.

    Attributes:
        scene_ids: every scene once, in the order of the split.
        cases_of: the cases of a scene.
        open_scene: the frames of a scene, and what a predictor is given beside them.
        split: its name.
        others: scenes of the split that were left out of `scene_ids` by choice.
    """

    scene_ids: tuple[str, ...]
    cases_of: Callable[[str], Sequence[Case]]
    open_scene: Callable[[str], SceneView]
    split: str = ""
    others: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Case]:
        for scene_id in self.scene_ids:
            yield from self.cases_of(scene_id)

    def part(self, index: int, count: int) -> Cases:
        """Return every `count`-th scene from `index` on: the share of one process."""
        return self._only(self.scene_ids[index::count])

    def first(self, scenes: int) -> Cases:
        """Return the first scenes only."""
        return self._only(self.scene_ids[:scenes])

    def _only(self, scene_ids: tuple[str, ...]) -> Cases:
        others = self.others | (set(self.scene_ids) - set(scene_ids))
        return replace(self, scene_ids=scene_ids, others=others)


def cases_from_items(
    items: Iterable[Case], open_scene: Callable[[str], SceneView], split: str = ""
) -> Cases:
    """Group cases by scene, scenes in the order of their first case.

    Raises:
        ValueError: two cases have one id, or there is none.
    """
    by_scene: dict[str, list[Case]] = {}
    seen: set[str] = set()
    for case in items:
        if case.case_id in seen:
            raise ValueError(
                f"case_id: expected every id once in split {split!r}, got {case.case_id!r} twice"
            )
        seen.add(case.case_id)
        by_scene.setdefault(case.scene_id, []).append(case)
    if not by_scene:
        raise ValueError(f"items: expected at least one case in split {split!r}, got none")
    return Cases(tuple(by_scene), lambda scene_id: by_scene[scene_id], open_scene, split)


@dataclass(frozen=True)
class Scores:
    """What came out.

    Attributes:
        values: number by name, flat; the names are the report's.
        per_case: numbers and short words by case id: what plots and the page of the worst show.
        variant: one sentence: which protocol variant these numbers are, and its source.
        worst_by: the name in `per_case` that says how good a case is.
        higher_is_better: of `worst_by`.
        plotted: further names in `per_case` whose distributions are drawn.
    """

    values: Mapping[str, float]
    per_case: Mapping[str, Mapping[str, float | str]]
    variant: str
    worst_by: str
    higher_is_better: bool = True
    plotted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if not math.isfinite(value):
                raise ValueError(f"{name}: expected a number, got {value}; the scorer is at fault")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark anybody's model can be put through.

    Attributes:
        name: on the command line.
        title: in reports.
        splits: the names it knows; the first is the one the paper reports.
        load: reads the published files of a split from a folder. Raises FileNotFoundError or
            ValueError that name file, record and field.
        predict: asks a predictor about one case; `seen` is what its `see` returned.
        score: holds records, by case id, against the truth.
        layout: the files expected, a line each.
        source: where the protocol is from.
        given: what a model is shown when it is run here; who made predictions elsewhere may have
            been shown something else.
        array_fields: record fields that hold arrays and are stored as files beside the records.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    load: Callable[[Path, str], Cases]
    predict: Callable[[Predictor, Any, Case], Record]
    score: Callable[[Cases, Mapping[str, Record]], Scores]
    layout: str
    source: str
    given: str
    array_fields: tuple[str, ...] = ()


def require_predictions(cases: Iterable[Case], predictions: Mapping[str, Record]) -> None:
    """Refuse predictions that leave cases out, where the protocol has no rule for it.

    Raises:
        ValueError: names the first cases without a prediction.
    """
    missing = [case.case_id for case in cases if case.case_id not in predictions]
    if missing:
        shown = ", ".join(missing[:SHOWN_IDS]) + (", ..." if len(missing) > SHOWN_IDS else "")
        raise ValueError(
            f"predictions: expected one for every case, {len(missing)} are missing ({shown}); "
            "predict them or score the split they belong to"
        )


def record_field(record: Record, name: str, kind: type[Kind]) -> Kind:
    """Return a field of a record.

    Raises:
        ValueError: it is not there or of another kind; names the case.
    """
    value = record.get(name)
    is_number = kind in (int, float) and isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, kind) and not is_number:
        got = "nothing" if name not in record else f"{type(value).__name__} {value!r:.40}"
        raise ValueError(
            f"prediction {record.get(CASE_ID)!r}: expected {name!r} to be a {kind.__name__}, "
            f"got {got}; mend the predictions file"
        )
    return kind(value)  # type: ignore[arg-type,return-value]


def record_array(record: Record, name: str, shape: Sequence[int | None]) -> NDArray[np.float64]:
    """Return a field of a record as an array of finite numbers.

    Raises:
        ValueError: it is not there, of another shape, or not finite; names the case.
    """
    where = f"prediction {record.get(CASE_ID)!r}: expected {name!r}"
    if name not in record:
        raise ValueError(f"{where}, got nothing; mend the predictions file")
    try:
        array = np.asarray(record[name], np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where} to be numbers, got {record[name]!r:.60}; mend it") from None
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{where} of shape ({wanted}), got {array.shape}; mend it")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{where} to be finite, got {bad} values that are not; mend it")
    return array
