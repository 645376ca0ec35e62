# SPDX-License-Identifier: Apache-2.0
"""A frame is encoded once however many windows hold it, and nothing changes by that."""

import copy

import numpy as np
import pytest
import torch

from vidllm_ros.network.frame_cache import FrameCache
from vidllm_ros.structures import Frames


def film(count, seed=0, height=42, width=56):
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    return Frames(images, tuple(i * 100_000_000 for i in range(count)))


def assert_same(got, want):
    for name in ("depth", "confidence", "K", "T_world_camera"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), rtol=2e-4, atol=2e-5, err_msg=name
        )
    np.testing.assert_array_equal(got.valid, want.valid)
    np.testing.assert_array_equal(got.images, want.images)
    assert got.scale == pytest.approx(want.scale, rel=1e-4)
    torch.testing.assert_close(got.scene.tokens, want.scene.tokens, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(got.scene.positions, want.scene.positions, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (0, 1, 2, 2)])
def test_warm_window_equals_cold_window(build_tiny, layers):
    """Also where the last layer is no level, so that it is kept beside them."""
    model = build_tiny(encoder_layers=layers).eval()
    frames = film(12)
    model.reconstruct(frames.select(range(8)))
    warm = model.reconstruct(frames.select(range(2, 12)))
    assert (model.frame_cache.counts.encoded, model.frame_cache.counts.reused) == (12, 6)
    model.forget_frames()
    cold = model.reconstruct(frames.select(range(2, 12)))
    assert model.frame_cache.counts.encoded == 22
    assert_same(warm, cold)
    again = model.reconstruct(frames.select(range(2, 12)))
    assert model.frame_cache.counts.encoded == 22
    assert_same(again, cold)


def test_cached_encoder_equals_its_plain_twin(build_tiny):
    model = build_tiny().eval()
    frames = film(9)
    with torch.inference_mode():
        plain = model._encode_images(frames.images[3:])
        model.frame_cache.encode(frames.images[:5], frames.stamps_ns[:5], model._encode_images)
        cached = model.frame_cache.encode(
            frames.images[3:], frames.stamps_ns[3:], model._encode_images
        )
    assert cached.grid == plain.grid
    torch.testing.assert_close(cached.patch_tokens, plain.patch_tokens, rtol=1e-4, atol=1e-5)
    for got, want in zip(cached.levels, plain.levels, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_another_film_with_the_same_stamps_is_another_film(build_tiny):
    model = build_tiny().eval()
    model.reconstruct(film(6, seed=1))
    warm = model.reconstruct(film(6, seed=2))
    assert model.frame_cache.counts.reused == 0
    model.forget_frames()
    assert_same(warm, model.reconstruct(film(6, seed=2)))
    model.reconstruct(film(6, seed=2, height=28))
    assert model.frame_cache.counts.reused == 0
    assert len(model.frame_cache) == 6  # of the newest window alone


def test_memory_is_bounded_in_bytes(build_tiny):
    model = build_tiny().eval()
    frames = film(8)
    model.reconstruct(frames)
    one = model.frame_cache.byte_count // 8
    assert one == 42 * 56 * 3 + 12 * 4 * 32 * 4  # pixels; patches, layers, channels, bytes
    model.frame_cache.max_bytes = 3 * one
    model.reconstruct(frames)
    assert len(model.frame_cache) == 3
    model.frame_cache.max_bytes = 0
    model.reconstruct(frames)
    assert len(model.frame_cache) == 0
    with pytest.raises(ValueError, match="max_bytes: expected at least 0, got -1"):
        FrameCache(-1)


def test_only_the_newest_window_is_remembered(build_tiny):
    model = build_tiny().eval()
    frames = film(12)
    model.reconstruct(frames.select(range(8)))
    model.reconstruct(frames.select(range(4, 12)))
    assert len(model.frame_cache) == 8
    model.reconstruct(frames.select(range(4)))
    assert model.frame_cache.counts.reused == 4


@pytest.mark.parametrize("change", ["train", "cast", "copy"])
def test_other_weights_forget(build_tiny, change):
    model = build_tiny().eval()
    model.reconstruct(film(4))
    assert len(model.frame_cache) == 4
    if change == "copy":
        model = copy.deepcopy(model)
    elif change == "cast":
        model = model.double().float()
    else:
        model.train().eval()
    assert len(model.frame_cache) == 0
    assert np.isfinite(model.reconstruct(film(4)).depth).all()


def test_failure_of_the_encoder_remembers_nothing(build_tiny):
    model = build_tiny().eval()

    def fails(images):
        raise MemoryError("simulated")

    with pytest.raises(MemoryError):
        model.frame_cache.encode(film(3).images, film(3).stamps_ns, fails)
    assert len(model.frame_cache) == 0


def test_prepared_frames_are_the_ones_the_network_would_make(build_tiny):
    model = build_tiny().eval()
    large = film(5, height=90, width=120)
    small = model.prepare(large)
    assert small.images.shape == (5, 42, 56, 3)
    assert_same(model.reconstruct(small), model.reconstruct(large))
    shrunk = model.prepare(large, 0.5)
    assert shrunk.images.shape == (5, 28, 28, 3) or shrunk.images.shape == (5, 14, 28, 3)
    assert model.reconstruct(large, 0.5).depth.shape[1:] == shrunk.images.shape[1:3]
    assert model.prepare(large, 0.01).images.shape[2] == 28
    with pytest.raises(ValueError, match="shrink"):
        model.prepare(large, 0.0)
