# SPDX-License-Identifier: Apache-2.0
"""Batches: frame choice, majorities, the move to the window's world, determinism."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.data import loader, scene_batch
from vidllm_ros.data.samples import Caption, Question, Reference, SceneObject, SceneSample
from vidllm_ros.structures import Frames, GroundedBox

LABELS = ("wall", "chair", "table")


def make_sample(seed: int = 0, frames: int = 9) -> SceneSample:
    rng = np.random.default_rng(seed)
    H, W = 28, 42
    poses = np.repeat(np.eye(4)[None], frames, axis=0)
    poses[:, :3, :3] = Rotation.random(frames, random_state=seed).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(frames, 3))
    depth = rng.uniform(0.5, 4, (frames, H, W)).astype(np.float32)
    depth[:, 0, 0] = np.nan
    instance = np.full((frames, H, W), -1, np.int32)
    instance[:, :14, :14] = 3
    label = np.zeros((frames, H, W), np.int16)
    label[:, :14, :14] = 1
    box = GroundedBox("chair", 1.0, np.array([1.0, 2, 0.4]), np.array([0.5, 0.6, 0.8]))
    return SceneSample(
        scene_id=f"room{seed}",
        frames=Frames(
            rng.integers(0, 255, (frames, H, W, 3)).astype(np.uint8),
            tuple(range(frames)),
            K=np.repeat(np.array([[30.0, 0, 21], [0, 30, 14], [0, 0, 1]])[None], frames, 0),
        ),
        depth=depth,
        instance_ids=instance,
        label_ids=label,
        T_world_camera=poses,
        objects=(SceneObject(3, "chair", box, "red"),),
        labels=LABELS,
        questions=tuple(
            Question(f"q{i}", f"What is {i}?", (str(i),), (3,), "count") for i in range(20)
        ),
        references=(Reference("the red chair", (3,), "unique"), Reference("a bed", (), "none")),
        captions=(Caption(3, "A red chair."),),
    )


def settings(**changes: object) -> scene_batch.LoaderSettings:
    base = scene_batch.LoaderSettings(
        seed=1,
        frames_per_batch=12,
        max_scenes=3,
        total_batches=10,
        min_frames=2,
        max_frames=6,
        long_from=1.0,
        long_share=0.0,
        long_min_frames=8,
        long_max_frames=9,
        dense_frames=2,
        segments=8,
        captions=2,
        phrases=3,
        noise=0.5,
        patch_size=14,
        colors=("red", "blue"),
    )
    return replace(base, **changes)


def batches(**changes: object) -> loader.SceneBatches:
    return loader.SceneBatches(
        lambda rng, *_: make_sample(int(rng.integers(100))),
        lambda sample, indices, seed: sample.select(indices),
        settings(**changes),
    )


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_chosen_frames_are_a_walk_of_distinct_frames(count):
    starts = set()
    for seed in range(200):
        chosen = loader.choose_frames(32, count, np.random.default_rng(seed))
        assert len(set(chosen)) == count == len(chosen)
        assert min(chosen) >= 0
        assert max(chosen) < 32
        assert chosen in (sorted(chosen), sorted(chosen, reverse=True))
        starts.add(chosen[0])
    assert len(starts) > (1 if count == 32 else 5)


def test_majority_of_patches():
    ids = np.full((1, 28, 28), -1)
    ids[0, :14, :14] = 2
    ids[0, :14, 14:] = 1
    ids[0, 0, 14:20] = 0
    ids[0, 14:, :5] = 2
    assert scene_batch.patch_majority(ids, 14, 3).tolist() == [[2, 1, -100, -100]]


def test_batch_is_a_function_of_its_number():
    first, second, other = batches()[3], batches()[3], batches()[4]
    assert first.scene_ids == second.scene_ids
    assert (first.images == second.images).all()
    assert first.sentences == second.sentences
    assert first.scene_ids != other.scene_ids


def test_shapes_and_validity():
    batch = batches()[0]
    B, S = batch.images.shape[:2]
    assert B * S <= 12
    assert batch.images.shape[2:] == (3, 28, 42)
    assert batch.depth.shape == (B, S, 28, 42)
    assert batch.depth.isfinite().all()
    assert not batch.valid[:, :, 0, 0].any()
    assert batch.patch_labels.shape == batch.patch_colors.shape == (B, S, 6)
    assert batch.patch_labels[0, 0, 0] == 1
    assert batch.patch_colors[0, 0].tolist() == [0, -100, -100, -100, -100, -100]
    assert len(batch.dense_frames) == 2
    assert all(len(said) == 8 for said in batch.sentences)


def test_window_world_is_the_first_cameras():
    sample = make_sample()
    batch = scene_batch.batch_samples([sample], settings(), 0, [np.random.default_rng(0)])
    assert np.allclose(batch.T_world_camera[0, 0], np.eye(4))
    relative = np.linalg.inv(sample.T_world_camera[0]) @ sample.T_world_camera[4]
    assert np.allclose(batch.T_world_camera[0, 4], relative, atol=1e-5)
    center = np.linalg.inv(sample.T_world_camera[0]) @ np.array([1.0, 2, 0.4, 1])
    assert np.allclose(batch.boxes[0].center[0], center[:3], atol=1e-5)
    up = sample.T_world_camera[0, :3, :3].T @ np.array([0, 0, 1.0])
    assert np.allclose(batch.boxes[0].rotation[0, :, 2], up, atol=1e-5)


def test_sentences_hold_every_kind_and_what_they_mean():
    said = scene_batch.build_sentences(
        make_sample(), settings(segments=60, phrases=40), np.random.default_rng(0)
    )
    kinds = {sentence.kind for sentence in said}
    assert kinds == {"answer", "caption", "phrase"}
    phrases = {s.prompt: s.object_ids for s in said if s.kind == "phrase"}
    assert next(ids for prompt, ids in phrases.items() if "red chair" in prompt) == (3,)
    absent = [ids for prompt, ids in phrases.items() if "a bed" in prompt]
    assert absent == [()]
    assert all(s.answer.startswith(" ") for s in said if s.kind != "phrase")


def test_long_windows_come_late_only():
    stream = batches(long_from=0.5, long_share=1.0)
    counts = [stream.frame_count(i) for i in range(10)]
    assert max(counts[:5]) <= 6
    assert min(counts[5:]) >= 8


def test_how_many_frames_says_nothing_of_which_room():
    """numpy pads seeds with zeros: (seed, index) would draw what (seed, index, 0) draws."""
    first = []
    stream = loader.SceneBatches(
        lambda rng, *_: first.append(rng.random()) or make_sample(),
        lambda sample, indices, seed: sample.select(indices),
        settings(min_frames=2, max_frames=6, max_scenes=1),
    )
    counts = [stream[i].images.shape[1] for i in range(60)]
    assert abs(np.corrcoef(counts, first)[0, 1]) < 0.4
    assert len(set(counts)) == 5


def test_processes_share_the_scenes_of_a_batch():
    whole = batches()[2]
    parts = [
        loader.SceneBatches(
            lambda rng, *_: make_sample(int(rng.integers(100))),
            lambda sample, indices, seed: sample.select(indices),
            settings(),
            rank,
            2,
        )[2]
        for rank in range(2)
    ]
    together = [name for part in parts for name in part.scene_ids]
    if len(whole.scene_ids) > 1:
        assert sorted(together) == sorted(whole.scene_ids)


def test_a_growing_folder_and_an_empty_one(tmp_path):
    rooms = loader.RoomFolder(tmp_path, "*.npz", lambda path: make_sample(int(path.stem)))
    with pytest.raises(FileNotFoundError, match="render some first"):
        rooms(np.random.default_rng(0))
    (tmp_path / "1.npz").touch()
    assert rooms(np.random.default_rng(0)).scene_id == "room1"
    (tmp_path / "2.npz").touch()
    rooms.scanned = -1e9
    seen = {rooms(np.random.default_rng(0), 0, draw).scene_id for draw in range(2)}
    assert seen == {"room1", "room2"}


@pytest.mark.parametrize(
    ("world", "least", "most", "scenes"), [(1, 4, 4, 3), (2, 2, 6, 3), (2, 2, 2, 1), (3, 2, 6, 2)]
)
def test_no_room_comes_twice_before_all_were_there(tmp_path, world, least, most, scenes):
    for i in range(12):
        (tmp_path / f"{i:02d}.npz").touch()

    def parts(seed: int = 5) -> list[loader.SceneBatches]:
        rooms = loader.RoomFolder(tmp_path, "*.npz", lambda p: make_sample(int(p.stem)), seed)
        made = settings(min_frames=least, max_frames=most, max_scenes=scenes, frames_per_batch=12)
        made = replace(made, total_batches=100)
        return [
            loader.SceneBatches(
                rooms, lambda room, chosen, _: room.select(chosen), made, rank, world
            )
            for rank in range(world)
        ]

    def dealt(shares: list[loader.SceneBatches]) -> list[str]:
        return [name for k in range(24) for part in shares for name in part[k].scene_ids][:24]

    names = dealt(parts())
    every = sorted(f"room{i}" for i in range(12))
    assert sorted(names[:12]) == sorted(names[12:]) == every
    assert names[:12] != names[12:]
    assert names == dealt(parts())
    assert names != dealt(parts(6))
    late = parts()[0]  # a resumed run asks for a late batch first
    assert late[20].scene_ids == parts()[0][20].scene_ids


@pytest.mark.parametrize("stream", [17, 19, 23, 29, 37])
def test_what_decides_on_a_batch_is_no_scenes_chance(stream):
    """A batch of more scenes than a stream's number draws nothing twice."""
    decides = scene_batch.batch_chances(5, 7, stream).random(4)
    for place in range(64):
        assert not np.array_equal(decides, np.random.default_rng((5, 7, place)).random(4))
    assert np.array_equal(decides, scene_batch.batch_chances(5, 7, stream).random(4))
