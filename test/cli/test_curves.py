# SPDX-License-Identifier: Apache-2.0
"""Runs drawn over each other."""

from pathlib import Path

from vidllm_ros.cli import curves


def test_curves_say_what_is_missing(tmp_path, capsys):
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png")]) == 1
    assert "expected log.jsonl" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text('{"step": 1, "scenes": 2, "loss": 3.0}\n{"step"')
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png")]) == 0
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png"), "--terms", "no"]) == 1


def test_a_run_keeps_its_colour_in_every_panel():
    first = [{"scenes": 1, "loss": 2.0}], []
    second = [{"scenes": 1, "loss": 3.0, "language": 1.0}], [{"scenes": 1, "qa_em": 0.5}]
    read = {Path("geometry"): first, Path("words"): second}
    figure = curves.draw_curves(read, ["loss", "language", "qa_em"])
    colors = [[line.get_color() for line in axes.get_lines()] for axes in figure.axes]
    assert colors == [["C0", "C1"], ["C1"], ["C1"]]
    shown = figure.legends[0]
    assert [text.get_text() for text in shown.get_texts()] == ["geometry", "words"]
    assert [line.get_color() for line in shown.get_lines()] == ["C0", "C1"]
