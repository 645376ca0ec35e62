# SPDX-License-Identifier: Apache-2.0
"""How every sub-command runs: parse, work, and say a user's mistake in one sentence.

The packages below raise ValueError, TypeError or an OSError whose text already is a sentence
("path: expected ..., got ...; do ..."); here it goes to stderr without a traceback and becomes a
non-zero exit code. Set VIDLLM_TRACEBACK=1 to see where it came from. Next: main.py lists the
sub-commands, infer.py is the simplest of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console

FAILED = 1
INTERRUPTED = 130
MEMORY_ENDED = (
    "expected to get by with the memory there is, got no more; close other programs, or take "
    "fewer frames, a smaller model or another device"
)
TOPIC_HELP = "image topic of a rosbag2 with several cameras"


class UserError(Exception):
    """Something the person at the keyboard can mend; its text is the whole message."""


def run_command(command: Callable[..., Any], name: str, argv: Sequence[str] | None = None) -> int:
    """Parse `argv` for `command` (a function typer can read), run it, and return the exit code.

    A command says that it failed after having done its work by raising `typer.Exit(code)`.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command()(command)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        typer.main.get_command(app).main(args=arguments, prog_name=f"vidllm {name}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UserError, ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("VIDLLM_TRACEBACK"):
            raise
        complain(f"vidllm {name}: {one_sentence(error)}")
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("VIDLLM_TRACEBACK"):
            raise
        from vidllm_ros.streaming.memory_steps import is_out_of_memory  # torch: seconds to import

        if not is_out_of_memory(error):
            raise
        complain(f"vidllm {name}: {MEMORY_ENDED} ({one_sentence(error)})")
        return FAILED
    return 0


def one_sentence(error: BaseException) -> str:
    """Return what an exception says as one line; a UserError may go on with lines of a log."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def complain(message: str) -> None:
    """Write one line to stderr; never wrapped, so that it can be searched for."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(message, style="red", markup=False)


def note(message: str) -> None:
    """Tell the person something on stderr; stdout stays for results."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)
