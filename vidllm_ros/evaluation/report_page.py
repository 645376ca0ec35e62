# SPDX-License-Identifier: Apache-2.0
"""One HTML file with its pictures inside: the 50 worst and 20 random cases of a run.

The worst show what to mend, the random ones what is usual. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vidllm_ros.evaluation.benchmark_cases import Case, Record
from vidllm_ros.evaluation.benchmark_run import write_whole
from vidllm_ros.evaluation.report_pictures import (
    Picture,
    asked_of,
    pictures_of,
    said_of,
    words_of,
)

if TYPE_CHECKING:
    from vidllm_ros.evaluation.report import Outcome

WORST = 50
RANDOM = 20
SEED = 0
TASK = "task"  # where a benchmark asks several things, the page takes turns among them
JPEG_QUALITY = 80
SHOWN_FACTS = ("given", "boxes", "predictions_not_scored", "command")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1100px;
  padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .7rem .15rem 0; text-align: left; }
.case { border-top: 1px solid #ddd; padding: .8rem 0; }
.case h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-end; }
figure { margin: 0; max-width: 100%; } figure img { max-width: 100%; display: block; }
figcaption { font-size: .8rem; color: #555; } .numbers { color: #333; font-size: .85rem; }
.said { margin: .2rem 0; } .facts { color: #444; font-size: .9rem; margin: .2rem 0; }
.numbers-all { columns: 20rem; font-size: .9rem; } .plots { margin-top: 1rem; }
.plots figure { flex: 0 1 32rem; }
"""


def choose(outcome: Outcome) -> tuple[list[str], list[str]]:
    """Return ids of the worst cases, worst first, and of random others."""
    scores = outcome.scores
    by_task: dict[str, list[tuple[float, str]]] = {}
    for case_id, row in scores.per_case.items():
        value = row.get(scores.worst_by)
        if isinstance(value, (int, float)):
            by_task.setdefault(str(row.get(TASK, "")), []).append((float(value), case_id))
    for rated in by_task.values():
        rated.sort(key=lambda pair: pair[0], reverse=not scores.higher_is_better)
    turns = zip_longest(*by_task.values())  # the worst of every task, then the next worst
    worst = [pair[1] for turn in turns for pair in turn if pair is not None][:WORST]
    rest = sorted(set(scores.per_case) - set(worst))
    count = min(RANDOM, len(rest))
    drawn = np.random.default_rng(SEED).permutation(len(rest))[:count]
    return worst, [rest[i] for i in drawn.tolist()]


def write_page(file: Path, outcome: Outcome, plots: Sequence[Path] = ()) -> Path:
    """Write the page and return its file.

    Args:
        file: to write.
        outcome: what to tell.
        plots: images put at the top.
    """
    worst, random = choose(outcome)
    wanted = {*worst, *random}
    shown = {case.case_id: case_html(outcome, case) for case in wanted_cases(outcome, wanted)}
    by = outcome.scores.worst_by
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(outcome.benchmark.title)}</title><style>{STYLE}</style></head>",
        f"<body><h1>{html.escape(outcome.benchmark.title)}: {html.escape(outcome.model)}</h1>",
        f"<p>{html.escape(outcome.scores.variant)}</p>",
        facts_html("split", f"{outcome.cases.split}, {len(outcome.scores.per_case)} cases"),
        *(facts_html(name, outcome.facts[name]) for name in SHOWN_FACTS if name in outcome.facts),
        numbers_html(outcome),
        "<div class='row plots'>",
        *(figure_html(embed_file(plot), plot.stem, says_itself=True) for plot in plots),
        "</div>",
        f"<h2>The {len(worst)} worst cases by {html.escape(by)}</h2>",
        *(shown[case_id] for case_id in worst if case_id in shown),
        *([f"<h2>{len(random)} random cases of the rest</h2>"] if random else []),
        *(shown[case_id] for case_id in random if case_id in shown),
        "</body></html>\n",
    ]
    write_whole(file, "\n".join(parts))
    return file


def wanted_cases(outcome: Outcome, wanted: set[str]) -> Iterator[Case]:
    """Find cases by id, one scene in memory at a time."""
    missing = set(wanted)
    for scene_id in outcome.cases.scene_ids:
        if not missing:
            return
        for case in outcome.cases.cases_of(scene_id):
            if case.case_id in missing:
                missing.discard(case.case_id)
                yield case


def case_html(outcome: Outcome, case: Case) -> str:
    """Return a case's block: what was asked, said and true, its numbers and pictures."""
    record: Record = outcome.predictions.get(case.case_id, {})
    row = outcome.scores.per_case[case.case_id]
    lines = []
    for name, text in (
        ("asked", asked_of(case.request)),
        ("said", said_of(record)),
        ("true", words_of(case.truth)),
    ):
        if text:
            lines.append(f"<p class='said'><b>{name}</b> {html.escape(text)}</p>")
    numbers = ", ".join(
        f"{html.escape(name)} {brief(value)}" for name, value in row.items() if not_words(value)
    )
    pictures = "".join(
        figure_html(embed(picture), picture.caption)
        for picture in pictures_of(outcome.cases, case, record)
    )
    return (
        f"<div class='case'><h3>{html.escape(case.case_id)}</h3>{''.join(lines)}"
        f"<p class='numbers'>{numbers}</p><div class='row'>{pictures}</div></div>"
    )


def brief(value: float | str) -> str:
    """Write a number with three digits, a count in full."""
    is_count = isinstance(value, (int, float)) and abs(value) >= 1 and float(value).is_integer()
    return f"{int(value)}" if is_count else f"{value:.3g}"


def not_words(value: object) -> bool:
    """Tell numbers from words."""
    return isinstance(value, (int, float))


def numbers_html(outcome: Outcome) -> str:
    """Return every number as a table."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>"
        for name, value in outcome.scores.values.items()
    )
    return (
        "<details><summary>All numbers</summary>"
        f"<div class='numbers-all'><table>{rows}</table></div></details>"
    )


def facts_html(name: str, value: object) -> str:
    """Return a line about how the numbers were made."""
    return f"<p class='facts'><b>{html.escape(name)}</b> {html.escape(str(value))}</p>"


def figure_html(source: str, caption: str, says_itself: bool = False) -> str:
    """Return an image with its line, unless the image says it itself."""
    line = "" if says_itself else f"<figcaption>{html.escape(caption)}</figcaption>"
    alt = html.escape(caption, quote=True)
    return f"<figure><img src='{source}' alt='{alt}'>{line}</figure>"


def embed(picture: Picture) -> str:
    """Return an image as a data address."""
    ok, data = cv2.imencode(
        ".jpg",
        np.ascontiguousarray(picture.image[..., ::-1]),
        [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
    )
    if not ok:
        raise ValueError(f"image: expected one that JPEG can hold, got {picture.image.shape}")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def embed_file(file: Path) -> str:
    """Return a PNG file as a data address."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
