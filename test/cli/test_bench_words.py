# SPDX-License-Identifier: Apache-2.0
"""Both sides of the benchmark learn the same words; what cannot be measured is refused."""

import json

import pytest
import torch

from vidllm_ros.cli import bench, bench_words
from vidllm_ros.network.configuration import VidLLMConfig


def test_words_fill_what_there_is_in_whole_sentences():
    text = bench_words.random_text(3, 64, 50, seed=1)
    for ids, offsets in zip(text.segment_ids, text.offsets, strict=True):
        real = ids >= 0
        assert real.sum() > 64 - bench_words.SENTENCE[1]
        lengths = torch.bincount(ids[real])
        assert lengths.min() >= bench_words.SENTENCE[0]
        assert offsets[real].tolist() == [place for n in lengths for place in range(n)]


def test_report_has_both_sides_and_their_ratio(tmp_path, capsys):
    config = VidLLMConfig(max_scene_tokens=24)
    config.save_pretrained(tmp_path)
    out = tmp_path / "words.json"
    options = ["--model", str(tmp_path), "--scenes", "2", "--text-tokens", "200"]
    assert bench.main(["words", *options, "--repetitions", "1", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["rows_vs_packed"] == pytest.approx(
        report["packed"]["median_ms"] / report["rows"]["median_ms"], rel=1e-3
    )
    assert report["bars"]["rows_vs_packed"]["at"] == "least"
    assert json.loads(capsys.readouterr().out)["rows"]["count"] == 1


def test_both_sides_learn_the_same_from_the_same_words():
    config = VidLLMConfig(max_scene_tokens=24)
    calls = bench_words.passes(config, 2, 300, torch.device("cpu"), is_half=False)
    packed, rows = calls["packed"](), calls["rows"]()
    assert set(packed) == set(rows) > {"scenes"}
    for name, wanted in packed.items():
        assert wanted.abs().max() > 0, name
        least = 1e-5 * wanted.abs().max().item()
        torch.testing.assert_close(rows[name], wanted, atol=least, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clock", "sundial"], "clock: expected wall"),
        (["--precision", "int4"], "precision: expected float32 or bfloat16"),
        (["--model", "nowhere"], "expected a folder with a config.json, got nowhere"),
        (["--out", "words.txt"], "--out"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, capsys):
    assert bench.main(["words", *options]) == 1
    assert message in capsys.readouterr().err
