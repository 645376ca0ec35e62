# SPDX-License-Identifier: Apache-2.0
"""Teachers by name from local folders; the semantic teacher's training; stage 1."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import build, image_text, optimizer, recipe, stages, teachers

COLORS = ("red", "blue")
TINY_CLIP = {
    "projection_dim": 24,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 14,
    },
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 400,
        "max_position_embeddings": 48,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}


def frames() -> torch.Tensor:
    return torch.rand(1, 2, 3, 28, 42, generator=torch.Generator().manual_seed(0))


def test_a_clip_teacher_is_its_own_hidden_layer(tmp_path):
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**TINY_CLIP["vision_config"]))
    tower.save_pretrained(tmp_path)
    made = recipe.TeacherRecipe("clip", str(tmp_path), layer=-2, image_size=42)
    teacher = teachers.load_teacher(made)
    images = frames()
    square = functional.interpolate(images[0], size=(42, 42), mode="bicubic", antialias=True)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (image_text.CLIP_MEAN, image_text.CLIP_STD)
    )
    with torch.no_grad():
        hidden = tower((square.clamp(0, 1) - mean) / std, output_hidden_states=True)
    own = hidden.hidden_states[-2][:, 1:]
    assert torch.allclose(teacher(images, (3, 3))[0], own, atol=1e-5)
    assert teacher(images, (2, 3)).shape == (1, 2, 6, 32)  # resized to the student's grid
    free = teachers.load_teacher(replace(made, image_size=0))
    assert free(images, (2, 3)).shape == (1, 2, 6, 32)  # positions interpolated instead
    with pytest.raises(ValueError, match="give the teacher an image_size"):
        free(torch.rand(1, 1, 3, 30, 42), (2, 3))


def test_a_vggt_teacher_is_the_encoder_under_its_published_names(tmp_path):
    torch.manual_seed(0)
    fields = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1}
    config = VidLLMConfig(encoder={**fields, "image_size": 42}, encoder_layers=[0, 1, 2, 3])
    encoder = Encoder(config).eval()
    own = dict(encoder.backbone.state_dict())
    published = {
        "cls_token": own["embeddings.cls_token"],
        "mask_token": own["embeddings.mask_token"],
        "register_tokens": own["embeddings.register_tokens"],
        "pos_embed": own["embeddings.position_embeddings"],
        "norm.weight": own["layernorm.weight"],
        "norm.bias": own["layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        name = f"embeddings.patch_embeddings.projection.{kind}"
        published[f"patch_embed.proj.{kind}"] = own[name]
    for layer in range(4):
        ours, theirs = f"encoder.layer.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                published[f"{theirs}{part}.{kind}"] = own[f"{ours}{part}.{kind}"]
            stacked = [own[f"{ours}attention.{x}_proj.{kind}"] for x in "qkv"]
            published[f"{theirs}attn.qkv.{kind}"] = torch.cat(stacked)
            published[f"{theirs}attn.proj.{kind}"] = own[f"{ours}attention.o_proj.{kind}"]
        for i in (1, 2):
            published[f"{theirs}ls{i}.gamma"] = own[f"{ours}layer_scale{i}.lambda1"]
    named = {f"aggregator.patch_embed.{name}": v.clone() for name, v in published.items()}
    save_file({**named, "camera_head.other": torch.zeros(1)}, tmp_path / "model.safetensors")
    teacher = teachers.load_teacher(recipe.TeacherRecipe("vggt", str(tmp_path)))
    images = frames()
    with torch.no_grad():
        assert torch.allclose(teacher(images, (2, 3)), encoder(images).patch_tokens, atol=1e-5)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is it VGGT's checkpoint"):
        teachers.load_teacher(recipe.TeacherRecipe("vggt", str(tmp_path)))


def test_teachers_that_are_not_there_are_named(tmp_path):
    assert teachers.load_teacher(recipe.TeacherRecipe()) is None
    for kind in ("encoder", "network", "clip", "vggt"):
        with pytest.raises(FileNotFoundError, match=r"teacher\.folder: expected"):
            teachers.load_teacher(recipe.TeacherRecipe(kind, str(tmp_path / "no")))
    with pytest.raises(ValueError, match="expected a folder"):
        recipe.TeacherRecipe("clip")
    with pytest.raises(ValueError, match="expected no folder with kind 'oracle'"):
        recipe.TeacherRecipe("oracle", "runs/x")
    with pytest.raises(ValueError, match="expected 0 with kind 'network'"):
        recipe.TeacherRecipe("network", "runs/x", image_size=336)
    with pytest.raises(ValueError, match=r"geometry_teacher\.kind"):
        recipe.Recipe(stage="distil", geometry_teacher=recipe.TeacherRecipe("oracle"))
    with pytest.raises(ValueError, match=r"semantic_teacher\.kind"):
        recipe.Recipe(stage="distil", semantic_teacher=recipe.TeacherRecipe("network", "runs/x"))
    with pytest.raises(ValueError, match="expected one above 0 with the oracle"):
        recipe.Recipe(
            stage="distil",
            semantic_teacher=recipe.TeacherRecipe("oracle"),
            losses=recipe.LossRecipe(oracle_label=0.0, oracle_color=0.0),
        )
    with pytest.raises(ValueError, match="at least one with stage 'distil'"):
        recipe.Recipe(stage="distil")
    with pytest.raises(ValueError, match="none with others"):
        recipe.Recipe(geometry_teacher=recipe.TeacherRecipe("encoder", "runs/x"))


@pytest.fixture
def image_text_stage(make_sample, tiny_settings) -> image_text.ImageTextStage:
    torch.manual_seed(0)
    texts = build.training_texts([make_sample(0)], tiny_settings)
    made = recipe.Recipe(stage="image_text", model=TINY_CLIP)
    return image_text.ImageTextStage(
        CLIPModel(CLIPConfig(**TINY_CLIP)),
        build.build_tokenizer(texts, 300),
        made,
        make_sample(0).labels,
        COLORS,
    )


def test_images_and_words_find_each_other(image_text_stage, batch, learn):
    outputs = learn(image_text_stage, batch, 40)
    for term in ("contrast_patch", "contrast_caption"):
        assert outputs[-1].terms[term] < 0.5 * outputs[0].terms[term], term
    assert outputs[-1].terms["patch_top1"] > 0.9
    missing = [n for n, p in image_text_stage.model.vision_model.named_parameters() if p is None]
    assert not missing


def test_words_of_patches(image_text_stage, batch):
    keys = image_text_stage.patch_keys(batch)
    said = {image_text_stage.words_of(int(key)) for key in keys.unique()}
    assert said == {"red chair", "blue table", "wall"}
    texts = image_text.frame_texts(torch.tensor([[0, 0, 1, 1, 1, 2]]), ["wall", "red bed", "sofa"])
    assert texts == ["a room with red bed, wall"]


def test_equal_texts_are_no_negatives(image_text_stage):
    images = functional.normalize(torch.randn(2, 24), dim=-1)
    scale = torch.tensor(10.0)
    assert image_text_stage.contrast(images, ["a", "a"], scale).item() == pytest.approx(
        0, abs=1e-5
    )
    assert image_text_stage.contrast(images, ["a", "b"], scale).item() > 0


def tiny_teachers(tmp_path) -> dict[str, recipe.TeacherRecipe]:
    torch.manual_seed(1)
    tower = CLIPVisionModel(CLIPVisionConfig(**TINY_CLIP["vision_config"]))
    tower.save_pretrained(tmp_path / "clip")
    return {"semantic_teacher": recipe.TeacherRecipe("clip", str(tmp_path / "clip"))}


@pytest.mark.parametrize("chosen", ["geometry", "semantic", "both", "no structure"])
def test_stage_one_moves_encoder_and_adapter_towards_its_teachers(
    tmp_path, tiny_model, tiny_fields, batch, chosen
):
    tower = CLIPVisionModel(CLIPVisionConfig(**TINY_CLIP["vision_config"]))
    semantic = teachers.ClipTeacher(tower, -2, 0).eval()
    weights = Encoder(VidLLMConfig(**tiny_fields)).state_dict()
    geometry = teachers.EncoderTeacher(VidLLMConfig(**tiny_fields), weights, 0).eval()
    structure = 0.0 if chosen == "no structure" else 1.0
    made = recipe.Recipe(losses=recipe.LossRecipe(distil_structure=structure))
    stage = stages.DistilStage(
        tiny_model,
        None if chosen == "semantic" else geometry,
        None if chosen == "geometry" else semantic,
        made,
    )
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    mover = optimizer.Optimizer(stage, recipe.OptimizerRecipe(lr=3e-3, schedule="constant"))
    totals = []
    for _ in range(20):
        output = stage(batch, 0.0)
        output.loss.backward()
        mover.step(0.5)
        totals.append(output.loss.item())
    expected = {
        "geometry": {"distil_geometry", "distil_structure"},
        "semantic": {"distil_semantic", "distil_structure"},
        "both": {"distil_geometry", "distil_semantic", "distil_structure"},
        "no structure": {"distil_geometry", "distil_semantic"},
    }[chosen]
    assert set(output.terms) == expected
    assert totals[-1] < 0.7 * totals[0]
    moved = {n for n, v in tiny_model.state_dict().items() if not torch.equal(v, before[n])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "adapter"}
    assert not any(name.startswith("teachers") for name in stage.state_dict())


def test_a_run_is_a_teacher_and_a_start(tmp_path, tiny_model, saved_run):
    run = saved_run(tmp_path / "run")
    teacher = teachers.load_teacher(recipe.TeacherRecipe("encoder", str(run)))
    images = frames()
    with torch.no_grad():
        assert torch.equal(teacher(images, (2, 3)), tiny_model.encoder(images).patch_tokens)
    other = build.load_network(run, {"scale_alignment": "metric_only"})
    assert other.config.scale_alignment == "metric_only"
    assert isinstance(other, VidLLM)
    for name, value in other.state_dict().items():
        assert torch.equal(value, tiny_model.state_dict()[name]), name
    with pytest.raises(ValueError, match="change only settings that keep shapes"):
        build.load_network(run, {"bridge_tokens": 5})
    with pytest.raises(FileNotFoundError, match="run the stage before it first"):
        build.load_network(tmp_path / "nothing")
    with pytest.raises(ValueError, match="a trained adapter cannot become another"):
        build.load_network(run, {"adapter": "cross_attention"})


@pytest.mark.parametrize("has_start", [False, True])
def test_a_run_does_not_go_on_as_another_network(tmp_path, tiny_model, tiny_fields, has_start):
    start = tmp_path / "start"
    tiny_model.save_pretrained(start)
    fields = {**tiny_fields, "metric_focal": 0.8}
    made = recipe.Recipe(model=fields, init=str(start) if has_start else "")
    settings = build.loader_settings(made, 14)
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    network = tiny_model.config.__class__(**fields)
    network.save_pretrained(folder)
    tiny_model.language.tokenizer.save_pretrained(folder)
    assert build.build_model(made, folder, settings).config.metric_focal == 0.8
    before = (folder / "config.json").read_bytes()
    other = replace(made, model={**fields, "metric_focal": 0.7, "max_scene_tokens": 99})
    with pytest.raises(ValueError, match="got other max_scene_tokens, metric_focal; take another"):
        build.build_model(other, folder, settings)
    assert (folder / "config.json").read_bytes() == before


def test_a_semantic_teacher_does_not_go_on_as_another(tmp_path):
    CLIPConfig(**TINY_CLIP).save_pretrained(tmp_path / "model")
    vision = {**TINY_CLIP["vision_config"], "num_hidden_layers": 4}
    made = recipe.Recipe(stage="image_text", model={**TINY_CLIP, "vision_config": vision})
    with pytest.raises(ValueError, match="got other vision_config"):
        build.build_image_text(made, tmp_path / "model", build.loader_settings(made, 14))
