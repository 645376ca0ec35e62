# SPDX-License-Identifier: Apache-2.0
"""The paper's rows: names are ours where the measure is, means are means, odd ones are told."""

import json

import pytest

from vidllm_ros.evaluation import paper_tables
from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS
from vidllm_ros.network.concat_manifest import Manifest, PartPlace

DATA = json.loads(paper_tables.DATA_FILE.read_text())


def values(benchmark, method, source):
    rows = paper_tables.rows_of(benchmark)
    return next(r.values for r in rows if (r.method, r.source) == (method, source))


def test_rows_belong_to_known_benchmarks_and_tables():
    for row in DATA["rows"]:
        assert row["table"] in DATA["tables"]
        assert row["benchmark"] in {*BENCHMARKS, "speed"}
        assert row["values"]
    assert {row["benchmark"] for row in DATA["elsewhere"]} <= set(BENCHMARKS)
    assert set(DATA["caveats"]) <= {*BENCHMARKS, "speed"}


def test_numbers_of_the_paper_hold_together_where_they_should():
    scanrefer = values("scanrefer", "Vid-LLM", "Vid-LLM, Table 3")
    mean = values("scanrefer", "Vid-LLM", "Vid-LLM, Table 5")["mean of both"]
    assert sum(scanrefer.values()) / 2 == pytest.approx(mean)
    caption = values("scan2cap", "Vid-LLM", "Vid-LLM, Table 2")
    assert sum(caption.values()) / 4 == pytest.approx(53.2, abs=0.05)


def test_what_does_not_hold_together_is_said():
    row = values("scannet-reconstruction", "Vid-LLM", "Vid-LLM, Table 9")
    harmonic = 2 * row["precision"] * row["recall"] / (row["precision"] + row["recall"])
    assert harmonic == pytest.approx(0.739, abs=5e-4)
    assert row["f"] == 0.582
    assert "Do not take .582 for a target" in " ".join(
        paper_tables.caveats_of("scannet-reconstruction")
    )
    assert "F1" in paper_tables.caveats_of("multi3drefer")[0]
    assert paper_tables.caveats_of("synthrooms") == []


def test_a_row_nobody_has_read_says_how_it_is_known():
    told = "Vid-LLM, Table 1, as two public accounts of it agree"
    assert values("scanqa", "Vid-LLM", told) == {"cider": 101.9}
    # The five measures have a mean of 42.62: what is left for the other four is in range.
    mean = values("scanqa", "Vid-LLM", "Vid-LLM, Table 1")["mean of the table's five"]
    assert 15 < (5 * mean - 101.9) / 4 < 35
    own = values("sqa3d", "3DRS", "3DRS's paper")
    assert own["em"] == values("sqa3d", "3DRS", told)["em"]
    assert own["em"] > values("sqa3d", "Vid-LLM", told)["em"]
    of_3drs = values("scanqa", "3DRS", "3DRS's paper")["cider"]
    assert of_3drs == values("scanqa", "3DRS", told)["cider"]


def test_the_concatenations_row_is_called_as_our_report_of_it_is():
    named = {
        scale: Manifest(
            "vggt_llava3d", PartPlace("a"), PartPlace("b"), PartPlace("c"), scale=scale
        ).title
        for scale in ("least_squares", "none")
    }
    methods = [row.method for row in paper_tables.rows_of("scannet-reconstruction")]
    assert named["least_squares"] in methods
    assert named["none"] not in methods
    assert named["none"] in paper_tables.left_out()["5"]
    assert "of the other no F is known" in paper_tables.caveats_of("scannet-reconstruction")[-1]


def test_what_is_not_known_is_left_out_and_said():
    assert set(paper_tables.left_out()) == {"1", "2", "3", "4", "5", "7", "8", "9"}
    assert not [
        row for row in DATA["rows"] if row["benchmark"] in ("multi3drefer", "nr3d", "sr3d")
    ]
    assert not [row for row in DATA["rows"] if row["table"] == "4"]
