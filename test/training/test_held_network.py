# SPDX-License-Identifier: Apache-2.0
"""Stage 1 taken again by a trained network: its own branch held, meaning asked, heads carried."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import build, distillation, recipe, stages, teachers


@pytest.mark.parametrize("is_run", [True, False])
def test_a_network_teaches_what_its_own_branch_reads(
    tmp_path, tiny_model, batch, saved_run, is_run
):
    if is_run:
        saved_run(tmp_path / "it")
    else:
        tiny_model.save_pretrained(tmp_path / "it")
        tiny_model.language.tokenizer.save_pretrained(tmp_path / "it")
    teacher = teachers.load_teacher(recipe.TeacherRecipe("network", str(tmp_path / "it")))
    with torch.no_grad():
        encoded = tiny_model.encoder(batch.images)
        adapted = tiny_model.adapter(encoded.patch_tokens)
    read = torch.stack([adapted.geometry, *encoded.levels])
    assert torch.allclose(teacher(batch.images, encoded.grid), read, atol=1e-5)
    made = recipe.Recipe(losses=recipe.LossRecipe(distil_structure=0.0))
    stage = stages.DistilStage(tiny_model, teacher, None, made)
    assert not list(stage.heads.parameters())  # nothing stands between teacher and student
    assert stage(batch, 0.0).loss.item() == pytest.approx(0.0, abs=1e-5)


def test_meaning_is_learnt_while_the_branch_keeps_what_it_reads(tmp_path, batch, saved_run, learn):
    saved_run(tmp_path)
    made = recipe.Recipe(
        stage="distil",
        init=str(tmp_path),
        geometry_teacher=recipe.TeacherRecipe("network", str(tmp_path)),
        semantic_teacher=recipe.TeacherRecipe("oracle"),
        losses=recipe.LossRecipe(distil_structure=0.0, distil_geometry=5.0),
    )
    settings = build.loader_settings(made, 14)
    apart = {}
    for weight in (5.0, 0.0):
        torch.manual_seed(0)
        losses = replace(made.losses, distil_geometry=weight)
        folder = tmp_path / f"run{weight}" / "model"
        stage = build.build_stage(replace(made, losses=losses), folder, settings)
        outputs = learn(stage, batch, 30, lr=1e-3)
        assert outputs[-1].terms["oracle_label"] < 0.5 * outputs[0].terms["oracle_label"]
        teacher = stage.teachers[0]
        with torch.no_grad():
            encoded = stage.model.encoder(batch.images)
            read = distillation.branch_inputs(encoded, stage.model.adapter(encoded.patch_tokens))
            taught = teacher(batch.images, encoded.grid)
        far = (read - taught).square().sum(-1) / taught.square().sum(-1)  # lengths count
        apart[weight] = far.mean((1, 2, 3))  # of each of the five
    assert (apart[5.0] < 0.5 * apart[0.0]).all()


def test_a_stage_takes_over_the_heads_of_the_run_it_starts_from(tmp_path, tiny_model, saved_run):
    made = recipe.Recipe(init=str(tmp_path), losses=recipe.LossRecipe(guide_ray=1.0))
    settings = build.loader_settings(made, 14)
    saved_run(tmp_path)
    stage = build.build_stage(made, tmp_path / "a" / "model", settings)
    kept = {f"oracle.{n}": torch.full_like(v, 0.25) for n, v in stage.oracle.state_dict().items()}
    kept["oracle.color.weight"] = torch.zeros(3, 3)  # of another size: left as it begins
    probe = next(iter(stage.probes.state_dict()))
    kept[f"probes.{probe}"] = torch.full_like(stage.probes.state_dict()[probe], 0.5)
    saved_run(tmp_path, **kept)
    stage = build.build_stage(made, tmp_path / "b" / "model", settings)
    assert (stage.oracle.label.weight == 0.25).all()
    assert (stage.probes.state_dict()[probe] == 0.5).all()
    assert stage.oracle.color.weight.shape != (3, 3)
    assert torch.equal(stage.model.encoder.backbone.layernorm.weight,
                       tiny_model.encoder.backbone.layernorm.weight)  # fmt: skip
    words = replace(made, stage="words")
    build.build_stage(words, tmp_path / "c" / "model", settings)  # has no such heads


def test_a_damaged_or_other_network_is_no_teacher(tmp_path, tiny_model, tiny_fields, saved_run):
    home = tmp_path / "it"
    tiny_model.save_pretrained(home)
    made = recipe.TeacherRecipe("network", str(home))
    file = next(home.glob("*.safetensors"))
    tensors = load_file(file)
    lost = next(name for name in tensors if name.startswith("adapter."))
    save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="adapter"):
        teachers.load_teacher(made)
    other = VidLLM(VidLLMConfig(**{**tiny_fields, "encoder_layers": [0, 0, 1, 1]}))
    saved_run(tmp_path / "run")
    teacher = teachers.load_teacher(replace(made, folder=str(tmp_path / "run")))
    with pytest.raises(ValueError, match="of the student's encoder_layers"):
        stages.DistilStage(other, teacher, None, recipe.Recipe())


def test_patches_of_things_are_counted_alone(batch):
    torch.manual_seed(0)
    labels = int(batch.patch_labels.max()) + 1
    oracle = distillation.OracleTeacher(8, labels, 2)
    semantic = torch.randn(*batch.patch_labels.shape, 8)
    objects = batch.patch_objects >= 0
    assert objects.any()
    assert not objects.all()
    guess = oracle.label(oracle.norm(semantic)).argmax(-1)
    pairs = zip(guess[objects].tolist(), batch.patch_labels[objects].tolist(), strict=True)
    hits = [a == b for a, b in pairs if b >= 0]
    counted = oracle.accuracy(semantic, batch.patch_labels, objects).item()
    assert counted == pytest.approx(sum(hits) / len(hits))
