# SPDX-License-Identifier: Apache-2.0
"""A model that knows the truth scores full marks; one that knows nothing scores its baseline."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from vidllm_ros.data.samples import Question, SceneSample
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.evaluation import baselines as trivial
from vidllm_ros.evaluation import benchmark
from vidllm_ros.evaluation.text_only import TextOnlyAnswerer
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext


@pytest.fixture(scope="module")
def sample() -> SceneSample:
    return make_scene(1_000_000, frames=5, height=56, width=70)


class Oracle:
    """Answers from the truth of one sample, in the window's world."""

    def __init__(self, sample: SceneSample, scale: float = 1.0) -> None:
        self.sample, self.scale = sample, scale

    def reconstruct(self, frames: Frames) -> Reconstruction:
        valid = np.isfinite(self.sample.depth)
        poses = benchmark.truth_in_window(self.sample)
        poses[:, :3, 3] *= self.scale
        stamps = frames.stamps_ns
        return Reconstruction(
            images=frames.images,
            stamps_ns=stamps,
            depth=np.where(valid, self.sample.depth * self.scale, 0).astype(np.float32),
            valid=valid,
            confidence=np.full(valid.shape, 2.0, np.float32),
            K=self.sample.K,
            T_world_camera=poses,
            scale=1.0,
            scale_spread=0.0,
            scene=SceneContext(torch.zeros(1, 4), torch.zeros(1, 3), stamps, poses),
        )

    def answer(self, scene: SceneContext, question: str) -> Answer:
        text = next(q.answers[-1] for q in self.sample.questions if q.question == question)
        return Answer(text, 1.0, (), scene.stamps_ns)

    def box(self, object_id: int) -> GroundedBox:
        T_window_room = np.linalg.inv(self.sample.T_world_camera[0])
        return transform_box(T_window_room, self.sample.object(object_id).box)

    def ground(self, scene, phrase, threshold, max_boxes):
        ids = next(r.object_ids for r in self.sample.references if r.phrase == phrase)
        return tuple(self.box(i) for i in ids)[:max_boxes]

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        return tuple(self.box(item.object_id) for item in self.sample.objects)

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        nearest = min(
            self.sample.captions,
            key=lambda c: np.linalg.norm(self.box(c.object_id).center - box.center),
        )
        return Answer(nearest.text, 1.0, (), scene.stamps_ns)


def measure(model: Oracle, sample: SceneSample, text_only=None) -> dict[str, float]:
    tally = benchmark.Tally()
    fitted = trivial.fit_baselines([sample])
    benchmark.measure_room(tally, model, sample, fitted, text_only)
    return tally.report()


def test_the_truth_scores_full_marks(sample):
    report = measure(Oracle(sample), sample)
    for name in ("depth_delta1", "pose_maa30", "fscore_10cm", "fscore_5cm", "qa_em"):
        assert report[name] == pytest.approx(1.0, abs=1e-3), name
    for name in ("grounding_acc25", "grounding_acc50", "multi_f1_25", "multi_f1_50"):
        assert report[name] == pytest.approx(1.0), name
    assert report["depth_absrel"] == pytest.approx(0.0, abs=1e-6)
    assert report["scale_error_median"] == pytest.approx(0.0, abs=1e-6)
    assert report["caption_cider50"] > 5.0
    assert report["questions"] == len(sample.questions)
    assert report["baseline_constant_depth_absrel"] > 0.1
    assert report["baseline_still_pose_maa30"] < 0.5
    assert report["baseline_mean_box_grounding_acc50"] < 0.5


def test_scale_is_never_forgiven(sample):
    report = measure(Oracle(sample, scale=1.3), sample)
    assert report["depth_absrel"] == pytest.approx(0.3, abs=1e-4)
    assert report["depth_absrel_median_scaled"] == pytest.approx(0.0, abs=1e-4)
    assert report["scale_error_median"] == pytest.approx(0.3, abs=1e-4)
    assert report["depth_delta1"] == 0.0
    assert report["pose_maa30"] == pytest.approx(1.0, abs=1e-3)  # directions know no scale
    assert report["fscore_5cm"] < 0.5


def test_a_text_only_answerer_is_counted_beside(sample):
    report = measure(Oracle(sample), sample, lambda question: "nonsense")
    assert report["qa_em_text_only"] == 0.0
    assert report["baseline_most_frequent_in_family_qa_em"] > 0.0


def test_text_only_learns_what_the_words_give_away():
    questions = [
        Question(str(i), f"is there a {thing}?", (reply,), (), "existence")
        for i, (thing, reply) in enumerate([("door", "yes"), ("boat", "no")] * 64)
    ]
    tokenizer = build_tokenizer((q.question + " yes no" for q in questions), 300)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    answerer = TextOnlyAnswerer(config, tokenizer)
    answerer.fit(questions, minutes=4.0, max_epochs=60)  # epochs end it, not a busy machine
    assert answerer(questions[0]) == "yes"
    assert answerer(questions[1]) == "no"
    with pytest.raises(ValueError, match="expected some"):
        answerer.fit([], 1.0)


def test_baselines_are_means_and_modes(sample):
    fitted = trivial.fit_baselines([sample, sample])
    assert fitted.depth_m == pytest.approx(float(np.nanmean(sample.depth)))
    assert fitted.rooms == 2
    answers = [q.answers[0] for q in sample.questions]
    assert answers.count(fitted.answer) == max(answers.count(a) for a in answers)
    with pytest.raises(ValueError, match="at least one training room"):
        trivial.fit_baselines([])
