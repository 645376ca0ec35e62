# SPDX-License-Identifier: Apache-2.0
"""The whole network: shapes, one-way gradients, invariances, every variant, one batch learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm_ros import prompts
from vidllm_ros.network import plain_twin, vidllm
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.text_packing import IGNORE, Segment, pack_segments
from vidllm_ros.network.vidllm import VidLLM

RECONSTRUCTION = ("aggregator", "camera_head", "depth_head", "point_head", "metric_depth")
LANGUAGE = ("language", "projector", "grounding", "patches", "box_features")


def images(batch=1, frames=3):
    return torch.rand(batch, frames, 3, 42, 56, generator=torch.Generator().manual_seed(0))


def words(model, batch=1):
    segments = [
        Segment(prompts.question_prompt("What colour is the chair?"), " brown"),
        Segment(prompts.grounding_prompt("the table")),
    ]
    return pack_segments(model.language.tokenizer, [segments] * batch)


def language_loss(model, patches, text):
    said = model.language.packed_forward(model.projector(patches.tokens), patches.mask, text)
    proposals = model.grounding.propose(patches.for_boxes)
    match = model.grounding.match(proposals.features, text.at_loc(said.hidden))
    answer = torch.nn.functional.cross_entropy(
        said.logits.flatten(0, 1), text.labels.flatten(), ignore_index=IGNORE
    )
    boxes = sum(layer.center.square().mean() + layer.size.mean() for layer in proposals.layers)
    return answer + match.mean() + boxes + proposals.last.objectness_logits.mean()


def touched(model):
    return {
        name
        for name, part in model.named_children()
        if any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    }


def test_geometry_shapes_and_dense_frames(build_tiny):
    model = build_tiny()
    chosen = torch.tensor([0, 2])
    model.train()
    out = model.geometry(images(2, 4), chosen)
    assert [tuple(pose.shape) for pose in out.pose_encodings] == [(2, 4, 9)] * 4
    assert out.depth_rel.shape == out.depth_confidence.shape == (2, 2, 42, 56)
    assert out.points.shape == (2, 2, 42, 56, 3)
    assert out.metric_depth.depth.shape == (2, 2, 42, 56)
    assert out.adapter.geometry.shape == (2, 4, 12, 32)
    model.eval()
    few, whole = model.geometry(images(2, 4), chosen), model.geometry(images(2, 4))
    assert whole.points is None
    torch.testing.assert_close(few.depth_rel, whole.depth_rel[:, chosen], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        few.metric_depth.depth, whole.metric_depth.depth[:, chosen], atol=1e-5, rtol=1e-4
    )
    patches, _ = model.predicted_scene(whole)
    assert patches.tokens.shape[2] == 32
    assert patches.mask.any(dim=1).all()


@pytest.mark.parametrize("mode", ["least_squares", "metric_only", "none"])
def test_a_window_computes_metric_depth_where_its_scale_reads_it(
    build_tiny, frames, monkeypatch, mode
):
    model = build_tiny(scale_frames=3, scale_alignment=mode)
    seen = []
    head = model.metric_depth.forward

    def noted(levels, *arguments, **options):
        seen.append(levels[0].shape[1])
        return head(levels, *arguments, **options)

    monkeypatch.setattr(model.metric_depth, "forward", noted)
    few = model.reconstruct(frames)
    monkeypatch.setattr(vidllm, "frames_with_metric_depth", lambda total, config: None)
    whole = model.reconstruct(frames)
    assert seen == [{"least_squares": 3, "metric_only": 5, "none": 0}[mode], 5]
    assert few.scale == pytest.approx(whole.scale, rel=1e-6)
    assert few.scale_spread == pytest.approx(whole.scale_spread, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(few.depth, whole.depth, rtol=1e-5)
    np.testing.assert_allclose(few.T_world_camera, whole.T_world_camera, atol=1e-6)


def test_gradients_cross_the_door_one_way(build_tiny):
    model = build_tiny().train()
    geometry = model.geometry(images())
    language_loss(model, model.predicted_scene(geometry)[0], words(model)).backward()
    reached = touched(model)
    assert reached.isdisjoint(RECONSTRUCTION), reached
    assert {"encoder", "adapter", "language", "projector", "grounding", "patches"} <= reached
    for name in RECONSTRUCTION:
        assert all(p.grad is None for p in getattr(model, name).parameters()), name
    model.zero_grad()
    geometry = model.geometry(images())
    loss = geometry.depth_rel.mean() + geometry.points.mean() + geometry.metric_depth.depth.mean()
    (loss + sum(pose.sum() for pose in geometry.pose_encodings)).backward()
    assert touched(model) == {"encoder", "adapter", *RECONSTRUCTION}


def test_encoder_can_be_kept_from_either_loss(build_tiny):
    model = build_tiny(language_trains_encoder=False, metric_trains_encoder=False).train()
    geometry = model.geometry(images())
    language_loss(model, model.predicted_scene(geometry)[0], words(model)).backward()
    assert "encoder" not in touched(model)
    assert "adapter" in touched(model)
    model.zero_grad()
    model.geometry(images()).metric_depth.depth.mean().backward()
    assert touched(model) == {"metric_depth"}
    model.zero_grad()
    model.geometry(images()).depth_rel.mean().backward()
    assert "encoder" in touched(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"point_head": False},
        {"adapter": "none"},
        {"adapter": "cross_attention"},
        {"adapter": "concat_self_attention"},
        {"bridge_per_frame": True},
        {"scale_alignment": "metric_only"},
        {"scale_alignment": "none"},
        {"scale_alignment": "log_median"},
        {"metric_centers": "attractor", "metric_full_size": True},
        {"voxel_size_m": 0.0},
        {"prompt_template": "vicuna"},
        {"resize_mode": "square"},
    ],
    ids=str,
)
def test_every_variant_runs_end_to_end(build_tiny, frames, changes):
    model = build_tiny(**changes)
    reconstruction = model.reconstruct(frames)
    assert reconstruction.valid.all()
    answer = model.answer(reconstruction.scene, "What colour is the chair?", 4)
    assert 0 <= answer.confidence <= 1


def test_reconstruct_is_metric_normalised_and_repeatable(build_tiny, frames):
    model = build_tiny()
    first, second = model.reconstruct(frames), model.reconstruct(frames)
    assert first.images.shape == (5, 42, 56, 3)
    assert first.frame_id == "left_optical_frame"
    assert first.stamps_ns == frames.stamps_ns
    np.testing.assert_array_equal(first.T_world_camera[0], np.eye(4))
    np.testing.assert_array_equal(first.depth, second.depth)
    assert torch.equal(first.scene.tokens, second.scene.tokens)
    assert first.depth.dtype == np.float32
    assert first.scale > 0
    assert (first.confidence >= 1).all()
    np.testing.assert_allclose(first.K[:, 0, 2], 28.0)
    assert 0 < len(first.scene.tokens) <= 48
    single = model.reconstruct(frames.select([0]))
    assert single.depth.shape == (1, 42, 56)


@pytest.mark.parametrize("refinement", ["none", "bundle_adjustment"])
def test_the_lens_of_a_calibrated_camera_is_taken(build_tiny, frames, refinement):
    K = np.array([[70.0, 0, 39.5], [0, 72.0, 29.5], [0, 0, 1]])
    known = replace(frames, K=np.tile(K, (5, 1, 1)))
    model = build_tiny(pose_refinement=refinement)
    scale = 56 / 80
    wanted = [[70 * scale, 0, 27.5], [0, 72 * scale, 20.5], [0, 0, 1]]
    np.testing.assert_allclose(model.reconstruct(known).K[3], wanted, atol=1e-4)
    assert abs(model.reconstruct(frames).K[3, 0, 0] - 70 * scale) > 1.0


def test_frames_other_than_the_first_may_change_places(build_tiny):
    model = build_tiny()
    order = torch.tensor([0, 3, 1, 2])
    with torch.no_grad():
        straight, mixed = model.geometry(images(1, 4)), model.geometry(images(1, 4)[:, order])
    torch.testing.assert_close(mixed.depth_rel, straight.depth_rel[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        mixed.pose_encodings[-1], straight.pose_encodings[-1][:, order], atol=1e-4, rtol=1e-4
    )


def test_gradient_checkpointing_changes_no_gradient(build_tiny):
    grads = []
    for checkpointed in (False, True):
        model = build_tiny().train()
        if checkpointed:
            model.gradient_checkpointing_enable()
            assert model.aggregator.gradient_checkpointing
        model.geometry(images()).depth_rel.mean().backward()
        grads.append(model.adapter.phi_geometry.mlp.fc2.weight.grad)
    torch.testing.assert_close(*grads)


def test_default_size_fits_the_bundle():
    with torch.device("meta"):
        model = VidLLM(VidLLMConfig(point_head=False))
        count = sum(p.numel() for p in model.parameters())
    assert 10e6 < count <= 11.5e6, count


def test_learns_one_batch_under_bfloat16(build_tiny):
    model = build_tiny().train()
    text = words(model)
    frames_in, target = images(1, 2), torch.linspace(1.0, 3.0, 56).expand(1, 2, 42, 56)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(18):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            geometry = model.geometry(frames_in)
            patches, _ = model.predicted_scene(geometry)
            said = model.language.packed_forward(
                model.projector(patches.tokens), patches.mask, text
            )
        answer = torch.nn.functional.cross_entropy(
            said.logits.float().flatten(0, 1), text.labels.flatten(), ignore_index=IGNORE
        )
        metric = (geometry.metric_depth.depth.log() - target.log()).abs().mean()
        relative = (geometry.depth_rel - target / 2).abs().mean()
        optimizer.zero_grad()
        (answer + metric + relative).backward()
        optimizer.step()
        history.append((answer.item(), metric.item(), relative.item()))
    for name, values in zip(
        ("answer", "metric", "relative"), zip(*history, strict=True), strict=True
    ):
        assert values[-1] < 0.6 * values[0], (name, values)


@pytest.fixture
def norms_as_on_a_gpu(monkeypatch):
    """Norms answer in float32 under autocast, as CUDA's do and a CPU's do not."""
    whole = torch.nn.functional.layer_norm

    def in_float32(x, shape, weight=None, bias=None, eps=1e-5):
        if not torch.is_autocast_enabled("cpu"):
            return whole(x, shape, weight, bias, eps)
        with torch.autocast("cpu", enabled=False):
            weight, bias = (None if each is None else each.float() for each in (weight, bias))
            return whole(x.float(), shape, weight, bias, eps)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", in_float32)


@pytest.mark.usefixtures("norms_as_on_a_gpu")
@torch.inference_mode()
def test_token_streams_keep_the_weights_format_under_a_gpus_autocast(build_tiny):
    model = build_tiny().bfloat16()
    model.camera_head.float()
    half, images_ = torch.bfloat16, images()
    with model.autocast():
        assert (
            model.encoder.backbone.layernorm(torch.ones(1, 32).bfloat16()).dtype is torch.float32
        )
        for encoded in (model.encoder(images_), plain_twin.encode(model.encoder, images_)):
            assert {x.dtype for x in (encoded.patch_tokens, *encoded.levels)} == {half}
        adapted = model.adapter(encoded.patch_tokens)
        assert (adapted.geometry.dtype, adapted.semantic.dtype) == (half, half)
        aggregated = model.aggregator(adapted.geometry, encoded.grid)
        assert {level.dtype for level in aggregated.levels.values()} == {half}
        geometry = model.geometry(images_)
    assert geometry.depth_rel.dtype is geometry.metric_depth.depth.dtype is torch.float32
    assert geometry.pose_encodings[-1].dtype is torch.float32
    training = build_tiny()  # weights of float32 under autocast: streams stay what they were
    with torch.autocast("cpu", dtype=half):
        assert training.encoder(images_).patch_tokens.dtype is torch.float32
