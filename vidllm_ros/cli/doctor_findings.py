# SPDX-License-Identifier: Apache-2.0
"""What `vidllm doctor` finds: a level, a thing, what is the matter, and the one-line fix.

Next: doctor_machine.py and doctor_camera.py, which make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        level: how bad it is.
        what: the thing that was looked at.
        words: how it stands.
        fix: what to do; empty where all is well.
    """

    level: Level
    what: str
    words: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return plain values."""
        return {
            "level": self.level.value,
            "what": self.what,
            "words": self.words,
            "fix": self.fix,
        }


def ok(what: str, words: str) -> Finding:
    return Finding(Level.OK, what, words)


def warn(what: str, words: str, fix: str) -> Finding:
    return Finding(Level.WARN, what, words, fix)


def fail(what: str, words: str, fix: str) -> Finding:
    return Finding(Level.FAIL, what, words, fix)


def skipped(what: str, words: str, fix: str = "") -> Finding:
    return Finding(Level.SKIPPED, what, words, fix)
