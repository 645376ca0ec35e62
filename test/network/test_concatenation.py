# SPDX-License-Identifier: Apache-2.0
"""The concatenation as a backend: whole windows of public parts through the node's own session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidllm_ros.network import concatenation
from vidllm_ros.network.concat_geometry import load_vggt_geometry
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.concat_metric_depth import load_metric_depth
from vidllm_ros.network.concatenation import Concatenation, load_concatenation, weight_bytes
from vidllm_ros.network.scale_alignment import align_scale, confidence_weights
from vidllm_ros.streaming.backend import Backend, ThriftyBackend
from vidllm_ros.streaming.session import Session, SessionSettings
from vidllm_ros.streaming.window import WindowSettings
from vidllm_ros.structures import Answer, Frames, GroundedBox, SceneContext

KINDS = {"vggt_llava3d": "llava_3d", "vggt_vlm": "vlm"}


def film(count: int = 6) -> Frames:
    images = np.random.default_rng(0).integers(0, 255, (count, 60, 80, 3), dtype=np.uint8)
    return Frames(images, tuple(i * 100_000_000 for i in range(count)))


@pytest.fixture(scope="module")
def folder(public_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("concatenations")
    for kind, language in KINDS.items():
        places = (PartPlace(str(public_parts / name)) for name in ("vggt", language, "depth"))
        write_manifest(home / kind, Manifest(kind, *places, scale_frames=3, frames=2))
    return home


@pytest.fixture(scope="module", params=sorted(KINDS))
def backend(request: pytest.FixtureRequest, folder: Path) -> Concatenation:
    return load_concatenation(folder / request.param)


@torch.inference_mode()
def test_window_is_vggts_scaled_to_the_depth_model(
    backend: Concatenation, public_parts: Path
) -> None:
    shown = backend.prepare(film())
    assert shown.images.shape[1:3] == (42, 56)
    rec = backend.reconstruct(film())
    vggt = load_vggt_geometry(public_parts / "vggt")
    said = vggt(torch.from_numpy(shown.images).permute(0, 3, 1, 2)[None].float() / 255)
    metric = load_metric_depth(public_parts / "depth").depth(shown.images)
    fit = align_scale(
        said.depth[0],
        metric,
        confidence_weights(said.depth_confidence[0]),
        torch.ones_like(metric, dtype=torch.bool),
        frames=3,
        seed=0,
    )
    assert rec.scale == pytest.approx(float(fit.scale), rel=1e-4)
    assert rec.scale_spread == pytest.approx(float(fit.spread), rel=1e-2)
    np.testing.assert_allclose(rec.depth, (said.depth[0] * fit.scale).numpy(), rtol=1e-3)
    np.testing.assert_allclose(rec.T_world_camera[0], np.eye(4), atol=1e-6)
    assert rec.valid.all()


def test_unscaled_keeps_vggts_unit(backend: Concatenation) -> None:
    plain = Concatenation(
        backend.geometry, None, backend.talker, replace(backend.manifest, scale="none")
    )
    rec, scaled = plain.reconstruct(film()), backend.reconstruct(film())
    assert (rec.scale, rec.scale_spread) == (1.0, 0.0)
    np.testing.assert_allclose(rec.depth * scaled.scale, scaled.depth, rtol=1e-4)
    assert plain.title.endswith("(unscaled)")
    with pytest.raises(ValueError, match="metric_depth: expected a model"):
        Concatenation(backend.geometry, None, backend.talker, backend.manifest)


def test_point_head_gives_another_depth(backend: Concatenation) -> None:
    manifest = replace(backend.manifest, depth_from="point_head")
    other = Concatenation(backend.geometry, backend.metric_depth, backend.talker, manifest)
    rec = other.reconstruct(film())
    assert np.isfinite(rec.depth).all()
    assert not np.allclose(rec.depth, backend.reconstruct(film()).depth)


def test_a_calibrated_camera_keeps_its_lens(backend: Concatenation) -> None:
    K = np.tile([[70.0, 0, 39.5], [0, 70.0, 29.5], [0, 0, 1]], (6, 1, 1))
    rec = backend.reconstruct(replace(film(), K=K))
    assert rec.K[0, 0, 0] == pytest.approx(70 * 56 / 80)
    np.testing.assert_allclose(rec.depth, backend.reconstruct(film()).depth, rtol=1e-4)


def test_frames_seen_before_are_not_computed_again(backend: Concatenation) -> None:
    backend.forget_frames()
    counts = backend._frames.counts
    before = (counts.encoded, counts.reused)
    first, second = film(8).select(range(6)), film(8).select(range(2, 8))
    backend.reconstruct(first)
    warm = backend.reconstruct(second)
    assert (counts.encoded - before[0], counts.reused - before[1]) == (8, 4)
    backend.forget_frames()
    cold = backend.reconstruct(second)
    assert len(backend._frames) == 6
    np.testing.assert_allclose(warm.depth, cold.depth, rtol=1e-3)
    assert warm.scale == pytest.approx(cold.scale, rel=1e-3)


def test_smaller_images_where_memory_is_short(backend: Concatenation) -> None:
    assert backend.reconstruct(film(), shrink=0.5).depth.shape == (6, 28, 28)
    with pytest.raises(ValueError, match="shrink"):
        backend.prepare(film(), 0.0)


def test_it_serves_a_session(backend: Concatenation) -> None:
    satisfied: Backend = backend
    assert isinstance(satisfied, ThriftyBackend)
    settings = SessionSettings(
        window=WindowSettings(size=4, stride=2, min_frames=4, min_motion=0.0, min_gap_s=0.0)
    )
    session = Session(backend, settings)
    shown = film()
    for stamp, image in zip(shown.stamps_ns, shown.images, strict=True):
        session.add_frame(stamp, image)
    result = session.process_next()
    assert result is not None
    assert len(result.cloud.points) > 0
    answer = session.ask("what colour is the chair?")
    assert isinstance(answer.text, str)
    assert answer.boxes == ()
    assert session.ask("where is the chair?").text == "not seen"  # no box, so none is told


class Told:
    """A language model that says what it is told, and keeps what it was asked."""

    def __init__(self, boxes: tuple[GroundedBox, ...]) -> None:
        self.boxes = boxes
        self.asked: list[str] = []

    def answer(self, scene: SceneContext, question: str) -> Answer:
        return Answer("yes", 0.9, (), scene.stamps_ns)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        self.asked.append(phrase)
        return self.boxes


def scene() -> SceneContext:
    return SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), (1,), np.eye(4)[None])


def test_a_place_is_asked_for_once_more(backend: Concatenation) -> None:
    box = GroundedBox("chair", 0.4, np.zeros(3), np.ones(3))
    told = Told((box,))
    joined = Concatenation(backend.geometry, backend.metric_depth, told, backend.manifest)  # type: ignore[arg-type]
    assert joined.answer(scene(), "is it red?").boxes == ()
    assert told.asked == []
    assert joined.answer(scene(), "Where is the chair?").boxes == (box,)
    assert told.asked == ["the chair"]
    assert joined.ground(scene(), "chair", threshold=0.5) == ()
    assert joined.ground(scene(), "chair", max_boxes=0) == ()


def test_objects_are_looked_for_by_name_only(backend: Concatenation) -> None:
    told = Told((GroundedBox("x", 0.4, np.zeros(3), np.ones(3)),))
    manifest = replace(backend.manifest, labels=("chair", "lamp"))
    named = Concatenation(backend.geometry, backend.metric_depth, told, manifest)  # type: ignore[arg-type]
    assert len(named.detect(scene())) == 2
    assert told.asked == ["chair", "lamp"]
    assert backend.detect(backend.reconstruct(film()).scene) == ()


def test_licences_and_sizes_are_said(backend: Concatenation, folder: Path) -> None:
    assert backend.licences[0].endswith("licence cc-by-nc-4.0")
    home = folder / backend.manifest.backend
    files = [Path(p.where) / "model.safetensors" for p in backend.manifest.parts().values()]
    numbers = sum(t.numel() for file in files for t in load_file(file).values()) - 6  # tracker
    assert weight_bytes(home, torch.float32) == 4 * numbers
    # What stays in float32 when loaded: VGGT's camera head, and the metric depth.
    vggt = load_file(Path(backend.manifest.geometry.where) / "model.safetensors")
    kept = sum(t.numel() for name, t in vggt.items() if name.startswith("camera_head."))
    assert kept > 0
    assert backend.manifest.metric_depth is not None
    depth = load_file(Path(backend.manifest.metric_depth.where) / "model.safetensors")
    kept += sum(t.numel() for t in depth.values())
    assert weight_bytes(home, torch.bfloat16) == 2 * numbers + 2 * kept


def test_a_part_that_is_not_there_is_one_sentence(public_parts: Path, tmp_path: Path) -> None:
    manifest = Manifest(
        "vggt_llava3d", PartPlace(str(public_parts / "vggt")), PartPlace("./none"), scale="none"
    )
    write_manifest(tmp_path, manifest)
    with pytest.raises(FileNotFoundError, match=r"^language: expected a file, a folder or a hub"):
        load_concatenation(tmp_path)


def test_unscaled_loads_no_depth_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidllm_ros.network.concat_manifest import read_manifest

    write_manifest(tmp_path, replace(read_manifest(folder / "vggt_vlm"), scale="none"))
    monkeypatch.setattr(concatenation, "load_metric_depth", lambda *_: pytest.fail("loaded"))
    assert load_concatenation(tmp_path).metric_depth is None
