# SPDX-License-Identifier: Apache-2.0
"""Public models in a row through the predictor's page, under the name of their Table 5 row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.evaluation.predictor import Proposal, SceneView
from vidllm_ros.evaluation.predictor_concatenation import ConcatenationPredictor, fingerprint
from vidllm_ros.evaluation.predictor_vidllm import SeenScene
from vidllm_ros.network.concat_manifest import MANIFEST, Manifest, PartPlace, write_manifest
from vidllm_ros.network.concatenation import load_concatenation
from vidllm_ros.structures import Frames, GroundedBox, SceneContext


@pytest.fixture(scope="module")
def folder(public_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("concatenation")
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", "llava_3d", "depth"))
    write_manifest(home, Manifest("vggt_llava3d", *places))
    return home


@pytest.fixture(scope="module")
def predictor(folder: Path) -> ConcatenationPredictor:
    return ConcatenationPredictor(load_concatenation(folder), folder)


def view(**changes: object) -> SceneView:
    images = np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3), dtype=np.uint8)
    return SceneView("scene", Frames(images, (0, 1, 2, 3)), **changes)  # type: ignore[arg-type]


def test_it_says_everything_a_benchmark_asks(predictor: ConcatenationPredictor) -> None:
    boxes = [np.array([x, 0.0, 0.0, x + 1.0, 1.0, 1.0]) for x in (0.0, 2.0)]
    given = tuple(Proposal(7 + i, box) for i, box in enumerate(boxes))
    seen = predictor.see(view(T_benchmark_first=np.eye(4), proposals=given))
    assert predictor.depth(seen).shape == (4, 42, 56)
    assert predictor.poses(seen).shape == (4, 4, 4)
    assert predictor.cloud(seen).shape[1] == 3
    assert isinstance(predictor.answer(seen, "where is it?", "I sit."), str)
    fits = predictor._fits(seen, "the chair")
    assert predictor.choose(seen, "the chair") == 7 + int(fits[1] > fits[0])
    assert sum(box.score for box in predictor._rated(seen, "the chair")) == pytest.approx(1.0)
    assert isinstance(predictor.caption(seen, boxes[0]), str)
    assert predictor.detect(seen) == []


def scored(
    predictor: ConcatenationPredictor, monkeypatch: pytest.MonkeyPatch, *scores: float
) -> SeenScene:
    """See a scene with a given box a score, numbered from 7."""
    given = np.array(scores, np.float32)
    monkeypatch.setattr(predictor.concatenation.talker, "score_boxes", lambda *_: given)
    boxes = [np.array([x, 0.0, 0.0, x + 1.0, 1.0, 1.0]) for x in range(len(scores))]
    proposals = tuple(Proposal(7 + i, box) for i, box in enumerate(boxes))
    return predictor.see(view(T_benchmark_first=np.eye(4), proposals=proposals))


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [((0.2, 0.8), 8), ((0.01, 0.02, 0.01), 8), ((0.0, 0.0), None)],
)
def test_the_likeliest_box_is_chosen_and_none_where_none_is_named(
    predictor: ConcatenationPredictor,
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[float, ...],
    chosen: int | None,
) -> None:
    seen = scored(predictor, monkeypatch, *scores)
    assert predictor.choose(seen, "the chair") == chosen
    found = predictor.ground_one(seen, "the chair")
    assert (found is None) == (chosen is None)
    if found is not None and chosen is not None:
        assert found.aabb[0] == chosen - 7


@pytest.mark.parametrize(
    ("scores", "taken"),
    [
        ((0.34, 0.33, 0.33), [0, 1, 2]),  # shares of one: three equal ones are three objects
        ((0.2, 0.8), [1]),
        ((0.3, 0.5, 0.2), [1, 0]),
        ((0.02,) * 49 + (0.04,), [49, *range(7)]),  # of fifty at most eight
    ],
)
def test_several_boxes_are_taken_by_their_shares_not_by_a_fit(
    predictor: ConcatenationPredictor,
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[float, ...],
    taken: list[int],
) -> None:
    """Trap: shares sum to 1 over all given boxes, so hardly any of them reaches one half."""
    seen = scored(predictor, monkeypatch, *scores)
    assert [box.aabb[0] for box in predictor.ground(seen, "the chairs")] == taken
    assert "never none; at most 8" in predictor.proposal_rule


def test_a_talker_that_picks_is_asked_once(
    predictor: ConcatenationPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored(predictor, monkeypatch, 0.0, 0.0, 0.0)
    for picked in ([], [(2, 0.1), (0, 0.1)]):
        monkeypatch.setattr(predictor.concatenation.talker, "pick_boxes", lambda *_, p=picked: p)
        found = predictor.ground(seen, "the chairs")
        assert [(box.aabb[0], box.score) for box in found] == picked


def test_boxes_written_are_placed_in_the_benchmarks_world(
    predictor: ConcatenationPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = GroundedBox("chair", 0.4, np.array([0.0, 0.0, 2.0]), np.array([1.0, 2.0, 3.0]))

    def ground(scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        return (written,)

    monkeypatch.setattr(predictor.concatenation.talker, "ground", ground)
    T = np.eye(4)
    T[:3, 3] = [10.0, 0.0, 0.0]
    seen = predictor.see(view(T_benchmark_first=T))
    (found,) = predictor.ground(seen, "chair")
    np.testing.assert_allclose(found.aabb, [9.5, -1.0, 0.5, 10.5, 1.0, 3.5])
    assert predictor.ground_one(seen, "chair") is not None


def test_a_question_is_asked_once(
    predictor: ConcatenationPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        predictor.concatenation.talker, "ground", lambda *_: pytest.fail("asked for a box")
    )
    predictor.answer(predictor.see(view()), "Where is the chair?")


def test_name_tells_scaled_from_unscaled_and_weights_apart(
    predictor: ConcatenationPredictor, folder: Path, public_parts: Path, tmp_path: Path
) -> None:
    assert predictor.name == f"VGGT+LLaVA-3D (scaled) {fingerprint(folder)}"
    content = json.loads((folder / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**content, "scale": "none"}))
    assert fingerprint(tmp_path) != fingerprint(folder)
    other = ConcatenationPredictor(load_concatenation(tmp_path), tmp_path)
    assert other.name.startswith("VGGT+LLaVA-3D (unscaled) ")
    copy = tmp_path / "vggt"
    copy.mkdir()
    stored = (public_parts / "vggt" / "model.safetensors").read_bytes()
    moved = {**content, "geometry": str(copy)}
    (tmp_path / MANIFEST).write_text(json.dumps(moved))
    names = []
    for last in (stored[-1], (stored[-1] + 1) % 256):
        (copy / "model.safetensors").write_bytes(stored[:-1] + bytes([last]))
        names.append(fingerprint(tmp_path))
    assert names[0] != names[1]
