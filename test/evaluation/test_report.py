# SPDX-License-Identifier: Apache-2.0
"""What a report tells: ours beside the paper's, the worst cases, pictures that show the truth."""

import numpy as np
import pytest

from vidllm_ros.evaluation.benchmark_cases import Case, Scores, cases_from_items
from vidllm_ros.evaluation.benchmark_registry import load_benchmark
from vidllm_ros.evaluation.grounding_benchmarks import BoxTruth
from vidllm_ros.evaluation.predictor import SceneView
from vidllm_ros.evaluation.report import Outcome, markdown, number, report_entries
from vidllm_ros.evaluation.report_page import RANDOM, WORST, choose, write_page
from vidllm_ros.evaluation.report_pictures import (
    OUR_COLOR,
    TRUE_COLOR,
    box_pictures,
    colored,
    plan,
    strip,
)
from vidllm_ros.structures import Frames

BOX = np.array([0.0, 0, 0, 1, 1, 1])


def make(count=3, rows=None, higher=True):
    frames = Frames(np.full((6, 12, 16, 3), 90, np.uint8), tuple(range(6)))
    items = [
        Case(f"q{i}", "room", {"phrase": f"the <{i}> & chair"}, BoxTruth(BOX[None], "unique"))
        for i in range(count)
    ]
    cases = cases_from_items(items, lambda scene: SceneView(scene, frames), "val")
    rows = rows or {f"q{i}": {"iou": i / 10} for i in range(count)}
    scores = Scores({"acc@0.25": 50.0, "acc@0.5": 0.0}, rows, "some variant", "iou", higher)
    records = {f"q{i}": {"case_id": f"q{i}", "box": (BOX + i).tolist()} for i in range(count)}
    return Outcome(load_benchmark("scanrefer"), cases, records, scores, "ours", {"command": "x"})


def test_ours_stand_beside_the_papers_rows_with_their_caveats():
    text = markdown(make())
    assert "| method | acc@0.25 | acc@0.5 | mean of both | from |" in text
    assert "| ours | 50 | 0.000 | - | this run |" in text
    assert "| Vid-LLM | 63.20 | 56.40 | - | Vid-LLM, Table 3 |" in text
    assert "Mask3D's proposals" in text
    assert "Protocol: some variant" in text
    entries = report_entries(make())
    assert (entries["acc@0.25"], entries["split"], entries["cases"]) == (50.0, "val", 3)


def test_numbers_have_the_digits_of_a_table():
    assert [number(v) for v in (0.12345, 63.2, 2000.0, 0.0)] == ["0.123", "63.20", "2000", "0.000"]


def test_the_worst_come_first_and_the_random_are_others():
    outcome = make(100, {f"q{i}": {"iou": i / 100} for i in range(100)})
    worst, random = choose(outcome)
    assert worst == [f"q{i}" for i in range(WORST)]
    assert len(random) == RANDOM
    assert not set(worst) & set(random)
    low_is_good = make(100, {f"q{i}": {"iou": i / 100} for i in range(100)}, higher=False)
    assert choose(low_is_good)[0][0] == "q99"


def test_tasks_take_turns():
    rows = {f"q{i}": {"iou": i / 100, "task": "ab"[i % 2]} for i in range(90)}
    worst, _ = choose(make(90, rows))
    assert worst[:4] == ["q0", "q1", "q2", "q3"]
    rows = {f"q{i}": {"iou": i / 100, "task": "a" if i < 80 else "b"} for i in range(90)}
    assert choose(make(90, rows))[0][:4] == ["q0", "q80", "q1", "q81"]


def test_the_page_shows_what_was_said_and_escapes_it(tmp_path):
    page = write_page(tmp_path / "r.html", make()).read_text()
    assert "the &lt;2&gt; &amp; chair" in page
    assert "box [1.00, 1.00, 1.00, 2.00, 2.00, 2.00]" in page
    assert page.count("class='case'") == 3
    assert "random cases" not in page  # all are among the worst
    many = write_page(tmp_path / "m.html", make(60)).read_text()
    assert "<h2>10 random cases of the rest</h2>" in many
    assert page.index("<h3>q0") < page.index("<h3>q1") < page.index("<h3>q2")


def colours(image):
    return {tuple(int(v) for v in pixel) for pixel in image.reshape(-1, 3)}


def test_boxes_are_drawn_in_their_colours_where_they_are():
    case = Case("q", "room", {}, BoxTruth(BOX[None], "unique"))
    picture = box_pictures(case, {"box": (BOX + 2).tolist()})[0]
    assert {TRUE_COLOR, OUR_COLOR} <= colours(picture.image)
    rows = np.nonzero((picture.image == TRUE_COLOR).all(-1))[0]
    ours = np.nonzero((picture.image == OUR_COLOR).all(-1))[0]
    assert rows.mean() > ours.mean()  # y upwards: the true box, nearer the origin, lies lower
    nothing = box_pictures(case, {"box": None})[0]
    assert OUR_COLOR not in colours(nothing.image)


def test_unknown_depth_is_grey():
    image = colored(np.array([[1.0, np.nan], [2.0, 3.0]]), 1.0, 3.0)
    assert (image[:60, -60:] == 128).all()
    assert len(colours(image)) == 4


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_strip_has_five_frames_at_most(count):
    image = strip(np.zeros((count, 30, 40, 3), np.uint8))
    shown = min(count, 5)
    assert image.shape == (150, shown * 200 + (shown - 1) * 4, 3)


def test_a_plan_of_nothing_says_so():
    assert "nothing to draw" in plan([(np.zeros((0, 2)), OUR_COLOR)], "x").caption
