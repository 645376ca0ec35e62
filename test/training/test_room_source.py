# SPDX-License-Identifier: Apache-2.0
"""Rooms rendered while training: the pool grows, the cache is used, the batch is its number."""

import numpy as np
import pytest

from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.training import build, recipe, room_source


def test_rooms_come_from_a_growing_pool_and_are_kept(tmp_path, monkeypatch, make_sample):
    rendered = []

    def make_scene(seed, height, width, device):
        rendered.append(seed)
        assert (height, width, device) == (28, 42, "cpu")
        return make_sample(seed)

    monkeypatch.setattr(room_source, "make_scene", make_scene)
    data = recipe.DataRecipe(
        cache=str(tmp_path), first_seed=100, rooms=50, pool=4, new_rooms=0.5, height=28, width=42
    )
    rooms = room_source.build_source(data)
    assert [rooms.pool(batch) for batch in (0, 1, 2, 1000)] == [4, 4, 5, 50]
    drawn = [rooms(np.random.default_rng(i), 0).scene_id for i in range(12)]
    again = [rooms(np.random.default_rng(i), 0).scene_id for i in range(12)]
    assert drawn == again
    assert set(rendered) <= {100, 101, 102, 103}
    assert len(rendered) == len(set(rendered)) == len(list(tmp_path.glob("*.npz")))
    late = {rooms(np.random.default_rng(i), 90).scene_id for i in range(40)}
    assert len(late) > 8
    free = room_source.build_source(recipe.DataRecipe(height=28, width=42))
    assert free.pool(0) == recipe.DataRecipe().rooms
    assert free.room(7).scene_id == "room7"


def test_a_run_without_rooms_leaves_nothing_behind(tmp_path, make_recipe):
    data = recipe.DataRecipe(folder=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="expected rendered rooms"):
        build.build_trainer(make_recipe(data=data), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_must_hold_rooms_of_the_recipes_size(tmp_path, make_sample):
    fits = recipe.DataRecipe(folder=str(tmp_path), height=28, width=42)
    with pytest.raises(FileNotFoundError, match=r"expected rendered rooms \(\*\.npz\)"):
        room_source.build_source(fits)
    save_sample(tmp_path / "room3.npz", make_sample(3))
    assert room_source.build_source(fits)(np.random.default_rng(0)).scene_id == "room3"
    other = recipe.DataRecipe(folder=str(tmp_path), height=42, width=28)
    with pytest.raises(ValueError, match=r"28 x 42 in .*room3\.npz, got 42 x 28"):
        room_source.build_source(other)
