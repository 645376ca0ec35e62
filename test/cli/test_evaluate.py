# SPDX-License-Identifier: Apache-2.0
"""`vidllm evaluate` and `vidllm score` from the command line to the files of the report."""

import json
import re

import pytest

from vidllm_ros.cli import evaluate, score

SEEDS = "1000000:1000002"
KEYS = (
    *("depth_absrel", "depth_delta1", "scale_error_median", "pose_maa30", "fscore_10cm"),
    *("fscore_5cm", "qa_em", "grounding_acc25", "grounding_acc50", "caption_cider50"),
    *("baseline_constant_depth_absrel", "baseline_still_pose_maa30", "multi_f1_25"),
    *("baseline_most_frequent_in_family_qa_em", "baseline_mean_box_grounding_acc25"),
)


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    arguments = [
        *("synthrooms", "--model", str(tiny_checkpoint), "--out", str(folder / "report.json")),
        *("--seeds", SEEDS, "--frames", "2", "--baseline-rooms", "1", "--text-only-minutes", "0"),
    ]
    assert evaluate.main(arguments) == 0
    return folder, arguments


def test_the_report_is_flat_and_tells_how_it_was_made(run):
    report = json.loads((run[0] / "report.json").read_text())
    assert all(isinstance(report[key], float) for key in KEYS)
    assert report["benchmark"] == "synthrooms"
    assert (report["seeds"], report["rooms"], report["frames"]) == (SEEDS, 2, 2)
    assert report["command"].startswith("vidllm evaluate synthrooms --model")
    assert "LEO" in report["variant"]


def test_markdown_plots_and_page_lie_beside(run):
    folder = run[0]
    report = json.loads((folder / "report.json").read_text())
    table = (folder / "report.md").read_text()
    assert f"| depth_absrel | {report['depth_absrel']:.3f} |" in table
    assert {file.stem for file in (folder / "report.plots").glob("*.png")} >= {"depth_absrel"}
    page = (folder / "report.html").read_text()
    assert page.count("class='case'") <= 70
    assert page.count("data:image/jpeg;base64,") > 20
    assert not re.search(r"(src|href)='(?!data:)", page)  # nothing is fetched
    assert "synthroom1000000/geometry" in page


def test_the_same_command_again_predicts_nothing_anew(run, monkeypatch, capsys):
    from vidllm_ros.network.vidllm import VidLLM

    def refuse(*args):
        raise AssertionError("the model was run again")

    folder, arguments = run
    before = json.loads((folder / "report.json").read_text())
    monkeypatch.setattr(VidLLM, "reconstruct", refuse)
    assert evaluate.main([*arguments, "--no-pages"]) == 0
    after = json.loads((folder / "report.json").read_text())
    assert {k: after[k] for k in KEYS} == {k: before[k] for k in KEYS}
    assert evaluate.main([*arguments[:-4], "--seeds", "1000000:1000003"]) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_anybodys_predictions_get_the_same_numbers(run, capsys):
    folder, _ = run
    arguments = [
        *("synthrooms", "--predictions", str(folder / "report.predictions")),
        *("--data", str(folder / "report.rooms"), "--out", str(folder / "again.json")),
        *("--seeds", SEEDS, "--frames", "2", "--no-pages"),
    ]
    assert score.main(arguments) == 0
    one = json.loads((folder / "report.json").read_text())
    two = json.loads((folder / "again.json").read_text())
    ours = [key for key in KEYS if not key.startswith("baseline")]
    assert {k: two[k] for k in ours} == {k: one[k] for k in ours}
    assert score.main([*arguments, "--predictions", str(folder / "none.json")]) == 1
    assert "none.json is not there" in capsys.readouterr().err


def test_mistakes_are_one_sentence(tiny_checkpoint, tmp_path, capsys):
    common = ["--model", str(tiny_checkpoint), "--out", str(tmp_path / "r.json")]
    for arguments, said in (
        (["scannet", *common], "benchmark: expected one of synthrooms"),
        (["synthrooms", *common, "--seeds", "5"], "expected A:B"),
        (["synthrooms", *common, "--seeds", "5:3"], "A below B"),
        (["nyuv2", *common], "--data: expected the folder of nyuv2's files"),
        (["nyuv2", *common, "--data", str(tmp_path / "x")], "is no folder"),
        (["nyuv2", *common, "--data", str(tmp_path), "--split", "val"], "expected one of"),
        (["nyuv2", *common, "--data", str(tmp_path), "--seeds", "1:2"], "with synthrooms only"),
        (["nyuv2", *common, "--data", str(tmp_path)], "nyudepthv2_test_files_with_gt.txt"),
        (["synthrooms", "--out", str(tmp_path / "r.json")], "either --model or --predictor"),
    ):
        assert evaluate.main(arguments) == 1, arguments
        shown = capsys.readouterr().err.strip()
        assert said in shown
        assert "\n" not in shown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--model", "{}/none"], "model: expected a folder with a Vid-LLM checkpoint"),
        (["--predictor", "no.such:thing"], "predictor: expected a module no.such to import"),
    ],
)
def test_a_model_that_is_not_there_leaves_nothing_behind(wrong, said, tmp_path, capsys):
    given = [word.format(tmp_path) for word in wrong]
    assert evaluate.main(["synthrooms", *given, "--out", str(tmp_path / "r.json")]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
