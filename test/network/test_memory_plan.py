# SPDX-License-Identifier: Apache-2.0
import pytest

from vidllm_ros.network.memory_plan import (
    RESERVE,
    SLACK,
    STEP_NAMES,
    Rung,
    VidLLMAccount,
    Weights,
    ladder,
    plan_memory,
    weight_bytes,
)
from vidllm_ros.network.presets import paper_config

GIB = 2**30
WEIGHTS = Weights(int(3.2 * GIB), int(12.6 * GIB), int(0.5 * GIB))
NOTHING = Weights(0, 0, 0)
ACCOUNT = VidLLMAccount(paper_config(), (392, 518))


def plan(free_gib, rungs=None, **changes):
    rungs = ladder(32) if rungs is None else rungs
    return plan_memory(ACCOUNT, WEIGHTS, int(free_gib * GIB), rungs, **changes)


def test_an_h200_gives_up_nothing_and_stays_within_the_documented_30_gb():
    chosen = plan(139)
    assert chosen.rung == Rung("full", "none", 32, 1.0)
    assert chosen.fits
    assert chosen.needed_bytes < 30e9


def test_less_memory_never_gives_a_lower_rung_of_the_ladder():
    rungs = ladder(32)
    places = []
    for free in (139, 30, 22, 16, 12, 9, 7, 5, 1):
        places.append(rungs.index(plan(free).rung))
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == len(rungs) - 1
    assert len(set(places)) >= 4


def test_where_nothing_fits_it_says_so_with_both_numbers():
    chosen = plan(1)
    assert not chosen.fits
    assert "8 frames" in chosen.words
    assert "images at 50%" in chosen.words
    assert "of 1.0 GiB free" in chosen.words


def test_without_a_library_no_rung_is_quantised():
    assert {rung.quantize for rung in ladder(32, ())} == {"none"}
    assert {rung.quantize for rung in ladder(32, ["int8"])} == {"none", "int8"}
    assert plan(12, rungs=ladder(32, ())).rung.quantize == "none"


def test_the_order_is_the_documented_one():
    rungs = ladder(32)
    assert tuple(rung.name for rung in rungs) == STEP_NAMES
    assert [(rung.quantize, rung.frames, rung.shrink) for rung in rungs] == [
        ("none", 32, 1.0), ("int8", 32, 1.0), ("int4", 32, 1.0), ("int4", 16, 1.0),
        ("int4", 8, 1.0), ("int4", 8, 0.75), ("int4", 8, 0.5),
    ]  # fmt: skip
    few = [(rung.name, rung.frames) for rung in ladder(4, ())]
    assert few == [("full", 4), ("images_75", 4), ("images_50", 4)]


def test_what_was_measured_beside_the_account_moves_the_choice_down():
    lean, heavy = (
        plan_memory(ACCOUNT, NOTHING, 6 * GIB, ladder(32), {"window": slack})
        for slack in (1.0, 1.15)
    )
    assert lean.rung.name == "full"
    assert heavy.rung.frames < 32
    assert heavy.needed_bytes <= RESERVE * heavy.free_bytes


def test_int4_leaves_the_word_tables_as_they_are():
    saved = weight_bytes(WEIGHTS, "none") - weight_bytes(WEIGHTS, "int4")
    assert saved == pytest.approx(0.7 * (WEIGHTS.language - WEIGHTS.tables))


def test_a_byte_of_int8_saves_more_of_float32_than_of_half_precision():
    wide = Weights(0, 4000, 0, bytes_per_value=4)
    half = Weights(0, 2000, 0)
    assert weight_bytes(wide, "int8") == pytest.approx(weight_bytes(half, "int8"))
    assert weight_bytes(wide, "none") == 4000


class TwoStages:
    """First grows with the frames, second does not."""

    def stage_bytes(self, rung):
        return {"first": 10.0 * rung.frames, "second": 200.0}


def test_each_stage_is_corrected_by_itself_and_the_fullest_counts():
    rungs = ladder(32, ())
    for slack, name in (
        ({"first": 1.0, "second": 1.0}, "full"),  # 320
        ({"first": 1.0, "second": 3.0}, "images_50"),  # 600 whatever is given up
        ({"first": 2.0, "second": 1.0}, "half_frames"),  # 640, 320
    ):
        assert plan_memory(TwoStages(), NOTHING, 400, rungs, slack).rung.name == name
    assert not plan_memory(TwoStages(), NOTHING, 400, rungs, {"second": 3.0}).fits
    assert plan_memory(TwoStages(), NOTHING, 400, rungs[:1]).needed_bytes == 320 * SLACK


def test_what_must_lie_here_whole_before_it_is_quantised_counts():
    weights = Weights(100, 1000, 0)
    rungs = ladder(8, ["int8"])[1:2]
    assert plan_memory(TwoStages(), weights, 2000, rungs).needed_bytes == 100 + 530 + 250
    on_host = plan_memory(TwoStages(), weights, 2000, rungs, whole_first=True)
    assert on_host.needed_bytes == 1100


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="frames: expected a window of one or more, got 0"):
        ladder(0)
    with pytest.raises(ValueError, match="rungs, free_bytes: expected"):
        plan_memory(ACCOUNT, WEIGHTS, GIB, [])
