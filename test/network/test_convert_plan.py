# SPDX-License-Identifier: Apache-2.0
"""Small seeded models of every public family, converted and compared output for output."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vidllm_ros import prompts
from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import convert_vggt, reconstruction_shapes
from vidllm_ros.network.convert_card import card_text, report_of
from vidllm_ros.network.convert_hub import Located
from vidllm_ros.network.convert_plan import Choices, Plan, build_plan
from vidllm_ros.network.convert_sources import Source, open_source
from vidllm_ros.network.convert_write import Supply, write_checkpoint
from vidllm_ros.network.dense_head import build_depth_head
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.network.text_packing import build_tokenizer, special_ids
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.recipe import TeacherRecipe
from vidllm_ros.training.teachers import load_teacher

_spec = importlib.util.spec_from_file_location(
    "vggt_names", Path(__file__).with_name("test_convert.py")
)
assert _spec is not None
assert _spec.loader is not None
names = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(names)

WIDTH, HEADS, WORDS, DIM = 32, 4, 320, 48
SENTENCES = ("the red chair stands beside the table", "how many windows are there?")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("public")


def seeded(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter values that matter: no zeros, no ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim else 1)
    return module.eval()


def vggt_config() -> VidLLMConfig:
    return VidLLMConfig(
        encoder={
            "hidden_size": WIDTH,
            "num_attention_heads": HEADS,
            "num_hidden_layers": 4,
            "image_size": 56,
        },
        encoder_layers=(0, 1, 2, 3),
        image_size=56,
        aggregator_heads=HEADS,
        adapter_heads=HEADS,
        camera_heads=HEADS,
        dense_features=16,
        dense_channels=(8, 12, 16, 16),
    )


@pytest.fixture(scope="module")
def vggt(home: Path) -> Path:
    _, theirs = names.vggt_like(reconstruction_shapes(vggt_config()))
    theirs = {n: t / max(1, t[0].numel()) ** 0.5 for n, t in theirs.items()}
    theirs["track_head.tracker.weight"] = torch.ones(2, 3)
    folder = home / "vggt"
    folder.mkdir()
    save_file({n: t.contiguous().clone() for n, t in theirs.items()}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# VGGT\n")
    return folder


def dinov2_model() -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
    )
    return seeded(Dinov2WithRegistersModel(config), 2)


def clip_model() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        image_size=28,
        patch_size=14,
    )
    return seeded(CLIPVisionModel(config), 3)


def llama_config(vocabulary: int = WORDS) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
    )


def save_tokenizer(folder: Path) -> None:
    build_tokenizer(SENTENCES, 270).save_pretrained(folder)


@pytest.fixture(scope="module")
def llava_hf(home: Path) -> Path:
    config = LlavaConfig(vision_config=clip_model().config, text_config=llama_config())
    model = seeded(LlavaForConditionalGeneration(config), 4)
    model.save_pretrained(home / "llava_hf")
    save_tokenizer(home / "llava_hf")
    return home / "llava_hf"


def original_layout(llava_hf: Path) -> dict[str, Tensor]:
    """The same weights under LLaVA's own names, in which LLaVA-1.5 was released."""
    found: dict[str, Tensor] = {}
    for name, value in load_file(llava_hf / "model.safetensors").items():
        name = name.removeprefix("language_model.")
        name = name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
        name = name.replace("multi_modal_projector.linear_2", "model.mm_projector.2")
        if name.startswith("vision_tower."):
            bare = name.removeprefix("vision_tower.").removeprefix("vision_model.")
            name = f"model.vision_tower.vision_tower.vision_model.{bare}"
        found[name] = value
    return found


def original_config() -> dict[str, Any]:
    fields = llama_config().to_diff_dict()
    return {
        **fields,
        "model_type": "llava",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 3,
    }


@pytest.fixture(scope="module")
def llava_original(home: Path, llava_hf: Path) -> Path:
    folder = home / "llava_original"
    folder.mkdir()
    weights = original_layout(llava_hf)
    ordered = sorted(weights)
    index = {}
    for number, part in enumerate((ordered[::2], ordered[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        index.update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(original_config()))
    save_tokenizer(folder)
    return folder


def position_head(width: int, seed: int) -> nn.Sequential:
    head = nn.Sequential(
        nn.Linear(3, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)
    )
    return seeded(head, seed)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def llava_3d(home: Path, llava_hf: Path) -> Path:
    folder = home / "llava_3d"
    folder.mkdir()
    weights = original_layout(llava_hf)
    for prefix, width, seed in (
        ("model.video_tower.video_tower.positional_embedding", WIDTH, 5),
        ("model.video_tower.prompt_encoder.pos_emb3d", DIM, 6),
    ):
        for name, value in position_head(width, seed).state_dict().items():
            weights[f"{prefix}.position_embedding_head.{name}"] = value
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(original_config()))
    save_tokenizer(folder)
    return folder


def convert(
    out: Path, wanted: dict[str, Path], choices: Choices | None = None, **supply: Any
) -> tuple[VidLLM, Plan, dict[str, Source]]:
    sources = {
        option: open_source(option, Located(path, str(path), "as given"))
        for option, path in wanted.items()
    }
    plan = build_plan(sources, choices or Choices())
    list(write_checkpoint(Supply(plan, sources, **supply), out, 100_000))
    return load_vidllm(out), plan, sources


def images() -> Tensor:
    return torch.rand(1, 3, 3, 42, 56, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_vggt_gives_the_same_poses_and_depth(vggt: Path, tmp_path: Path) -> None:
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt})
    config = vggt_config()
    parts = nn.ModuleDict(
        {
            "encoder": Encoder(config),
            "aggregator": Aggregator(config),
            "camera_head": CameraHead(config),
            "depth_head": build_depth_head(config),
        }
    ).eval()
    converted, _ = convert_vggt(load_file(vggt / "model.safetensors"), config)
    parts.load_state_dict(
        {n: t for n, t in converted.items() if not n.startswith("point_head")}, strict=True
    )
    encoded = parts["encoder"](images())
    aggregated = parts["aggregator"](encoded.patch_tokens, encoded.grid)
    poses = parts["camera_head"](aggregated.last)
    levels = list(aggregated.patch_levels(config.aggregator_layers))
    depth = parts["depth_head"](levels, encoded.grid, (42, 56))
    output = model.geometry(images())
    torch.testing.assert_close(output.pose_encodings[-1], poses[-1])
    torch.testing.assert_close(output.depth_rel, depth.values)
    torch.testing.assert_close(output.depth_confidence, depth.confidence)
    assert model.config.scale_alignment == "none"
    assert float(output.depth_rel.std()) > 0
    report = plan.reports["vggt"]
    assert [entry.name for entry in report.left_over] == ["track_head.tracker.weight"]
    missing = {entry.name.partition(".")[0] for entry in plan.missing}
    assert missing == {
        "adapter",
        "metric_depth",
        "patches",
        "language",
        "projector",
        "grounding",
        "box_features",
    }


@torch.no_grad()
@pytest.mark.parametrize("layout", ["installed", "v4"])
def test_dinov2_gives_the_same_tokens(layout: str, tmp_path: Path) -> None:
    theirs = dinov2_model()
    theirs.save_pretrained(tmp_path / "dinov2")
    if layout == "v4":
        file = tmp_path / "dinov2" / "model.safetensors"
        weights = load_file(file)
        for new, old in (
            ("q_proj", "attention.query"),
            ("k_proj", "attention.key"),
            ("v_proj", "attention.value"),
            ("o_proj", "output.dense"),
        ):
            weights = {
                n.replace(f"attention.{new}.", f"attention.{old}."): t for n, t in weights.items()
            }
        assert any("attention.attention.query" in name for name in weights)
        save_file(weights, file)
    model, _, _ = convert(tmp_path / "out", {"dinov2": tmp_path / "dinov2"})
    pixels = images()[0]
    expected = theirs(pixels).last_hidden_state
    torch.testing.assert_close(model.encoder.backbone(pixels).last_hidden_state, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llava_hf", "llava_original", "llava_3d"])
def test_llava_gives_the_same_words_and_features(
    layout: str, vggt: Path, llava_hf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    option = "llava_3d" if layout == "llava_3d" else "llava"
    folder = request.getfixturevalue(layout)
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt, option: folder})
    theirs = LlavaForConditionalGeneration.from_pretrained(llava_hf)
    ids = torch.tensor([[1, 50, 200, 3, 77]])
    logits = theirs(input_ids=ids).logits
    torch.testing.assert_close(model.language.model(input_ids=ids).logits, logits)
    features = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(
        model.projector(features), theirs.model.multi_modal_projector(features)
    )
    teacher = load_teacher(
        TeacherRecipe(kind="clip", folder=str(tmp_path / "out/teachers/semantic"), image_size=28)
    )
    assert teacher is not None
    tower: Any = theirs.model.vision_tower
    assert set(load_file(tmp_path / "out/teachers/semantic/model.safetensors")) == set(
        tower.state_dict()
    )
    assert teacher.width == WIDTH
    if layout == "llava_3d":
        points = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
        torch.testing.assert_close(
            model.patches.position(points), position_head(WIDTH, 5)(points), rtol=1e-4, atol=1e-5
        )
        left = [entry.name for entry in plan.reports[option].left_over]
        assert len(left) == 6
        assert all("prompt_encoder" in name for name in left)
    else:
        assert plan.reports[option].left_over == ()
    assert model.config.prompt_template == "vicuna"


@torch.no_grad()
def test_any_language_model_with_tied_tables_and_a_short_table(vggt: Path, tmp_path: Path) -> None:
    """The tokenizer's new words make the table longer; old words keep their logits."""
    config = Qwen2Config(
        vocab_size=268,
        hidden_size=DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    theirs = seeded(Qwen2ForCausalLM(config), 10)
    folder = tmp_path / "qwen"
    theirs.save_pretrained(folder)
    tokenizer = build_tokenizer((), 261)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in vocabulary["added_tokens"]:
        if token["content"] in (prompts.LOC, prompts.BOX):
            token["content"] = token["content"].upper()
    for token in (prompts.LOC, prompts.BOX):
        vocabulary["model"]["vocab"][token.upper()] = vocabulary["model"]["vocab"].pop(token)
    folder.joinpath("tokenizer.json").write_text(json.dumps(vocabulary))
    folder.joinpath("tokenizer_config.json").write_text(
        json.dumps({"eos_token": prompts.EOS, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "bos_token_id": None}))
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt, "language_model": folder})
    special = special_ids(model.language.tokenizer)
    assert (special.bos, special.eos) == (2, 2)
    assert special.loc != special.box
    assert plan.new_words == (261, 262)
    assert {special.loc, special.box} == set(plan.new_words)
    ids = torch.tensor([[2, 100, 7]])
    expected = theirs(input_ids=ids).logits
    found = model.language.model(input_ids=ids).logits
    torch.testing.assert_close(found[..., :261], expected[..., :261])
    table = model.language.model.get_input_embeddings().weight
    old = theirs.get_input_embeddings().weight
    trained = [row for row in range(268) if row not in plan.new_words]
    torch.testing.assert_close(table[special.loc], old[trained].mean(0))
    assert model.language.model.get_output_embeddings().weight is table


def test_a_table_shorter_than_the_tokenizer_grows(vggt: Path, tmp_path: Path) -> None:
    theirs = seeded(LlamaForCausalLM(llama_config(vocabulary=259)), 11)
    folder = tmp_path / "short"
    theirs.save_pretrained(folder)
    save_tokenizer(folder)
    model, _, _ = convert(tmp_path / "out", {"vggt": vggt, "language_model": folder})
    assert model.config.language["vocab_size"] == 320
    table = model.language.model.get_input_embeddings().weight
    old = theirs.get_input_embeddings().weight
    assert torch.equal(table[:259], old)
    torch.testing.assert_close(table[259:], old.mean(0).expand(61, -1))


@torch.no_grad()
def test_clip_and_vggt_become_the_teachers(vggt: Path, tmp_path: Path) -> None:
    theirs = clip_model()
    theirs.save_pretrained(tmp_path / "clip")
    model, _, _ = convert(tmp_path / "out", {"vggt": vggt, "clip": tmp_path / "clip"})
    teachers = tmp_path / "out" / "teachers"
    semantic = CLIPVisionModel.from_pretrained(teachers / "semantic")
    pixels = torch.rand(2, 3, 28, 28)
    for mine, public in zip(
        semantic(pixels, output_hidden_states=True).hidden_states,
        theirs(pixels, output_hidden_states=True).hidden_states,
        strict=True,
    ):
        torch.testing.assert_close(mine, public)
    geometry = load_teacher(TeacherRecipe(kind="vggt", folder=str(teachers / "geometry")))
    assert geometry is not None
    # Heads of DINOv2 have 64 channels; this small one has 8, so only the weights are compared.
    for name, value in geometry.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name


def test_shapes_that_do_not_fit_name_both_sides(
    vggt: Path, llava_3d: Path, tmp_path: Path
) -> None:
    weights = load_file(llava_3d / "model.safetensors")
    weights["model.mm_projector.0.weight"] = torch.zeros(DIM, 99)
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llava_3d / name).read_bytes())
    with pytest.raises(ValueError, match="llava_3d") as error:
        convert(tmp_path / "out", {"vggt": vggt, "llava_3d": tmp_path})
    assert f"projector.fc1.weight ({DIM}, {WIDTH})" in str(error.value)
    assert f"model.mm_projector.0.weight ({DIM}, 99)" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_half_a_part_is_refused(vggt: Path, tmp_path: Path) -> None:
    weights = load_file(vggt / "model.safetensors")
    del weights["camera_head.pose_branch.fc2.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"camera_head\.pose_branch\.fc2\.bias \(9,\)"):
        convert(tmp_path / "out", {"vggt": tmp_path})


def test_dinov2_encoder_beside_vggt_is_a_choice(vggt: Path, tmp_path: Path) -> None:
    theirs = dinov2_model()
    theirs.save_pretrained(tmp_path / "dinov2")
    wanted = {"vggt": vggt, "dinov2": tmp_path / "dinov2"}
    _, plan, sources = convert(tmp_path / "auto", wanted)
    assert "dinov2 was given and not used" in card_text("x", plan, sources, "command")
    model, plan, sources = convert(tmp_path / "dino", wanted, Choices(encoder="dinov2"))
    assert torch.equal(model.encoder.backbone.layernorm.weight, theirs.layernorm.weight)
    assert "need stage 1 first" in card_text("x", plan, sources, "command")
    kept = {piece.option for name, piece in plan.pieces.items() if name.startswith("aggregator")}
    assert kept == {"vggt"}


def test_report_accounts_for_every_tensor_of_both_sides(
    vggt: Path, llava_3d: Path, tmp_path: Path
) -> None:
    _, plan, sources = convert(tmp_path / "out", {"vggt": vggt, "llava_3d": llava_3d})
    report = report_of(plan, sources)
    for option, source in sources.items():
        entry = report["sources"][option]
        listed = [t["name"] for kind in ("used", "left_over") for t in entry[kind]]
        assert sorted(listed) == sorted(source.files.tensors)
    reached = {
        t["name"] for s in report["sources"].values() for u in s["used"] for t in u["targets"]
    }
    assert {m["name"] for m in report["missing"]} == set(plan.places) - reached
    card = card_text("vidllm-paper", plan, sources, "vidllm convert")
    for row in report["parts"]:
        assert f"`{row['part']}`" in card
    assert "**untrained**" in card
    written = set()
    for shard in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            written |= set(file.keys())
    assert written == set(plan.places)
