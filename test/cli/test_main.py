# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidllm_ros.cli import command, main

ROOT = Path(main.__file__).resolve().parents[2]


def test_help_lists_every_sub_command_and_imports_none(capsys):
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.SUB_COMMANDS)


def test_help_starts_within_a_second_and_without_torch():
    code = (
        "import sys; from vidllm_ros.cli.main import main; code = main(['--help']);"
        "print('torch' in sys.modules, file=sys.stderr); raise SystemExit(code)"
    )
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds.append(time.monotonic() - begin)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "False"
    assert min(seconds) < 1.0, seconds


def test_no_arguments_is_a_mistake(capsys):
    assert main.main([]) == main.UNKNOWN_COMMAND
    assert "infer" in capsys.readouterr().out


def test_unknown_sub_command_is_named(capsys):
    assert main.main(["inferr"]) == main.UNKNOWN_COMMAND
    shown = capsys.readouterr()
    assert "'inferr'" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("frames: expected 2,\n got 1"), "vidllm x: frames: expected 2, got 1\n"),
        (FileNotFoundError("path: expected a film"), "vidllm x: path: expected a film\n"),
        (FileNotFoundError(2, "No such file or directory", "a.mp4"), "vidllm x: a.mp4: no such"),
        (command.UserError("speak up"), "vidllm x: speak up\n"),
    ],
)
def test_a_mistake_is_one_sentence_without_traceback(raised, said, capsys):
    def fails() -> None:
        raise raised

    assert command.run_command(fails, "x", []) == command.FAILED
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


def test_traceback_on_request(monkeypatch):
    def fails() -> None:
        raise ValueError("inside")

    monkeypatch.setenv("VIDLLM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="inside"):
        command.run_command(fails, "x", [])


def test_a_programming_fault_is_not_hidden():
    def fails() -> None:
        raise AssertionError("cannot happen")

    with pytest.raises(AssertionError):
        command.run_command(fails, "x", [])


def test_exit_code_of_a_command_is_kept():
    import typer

    def stops() -> None:
        raise typer.Exit(3)

    assert command.run_command(stops, "x", []) == 3
    assert command.run_command(lambda: None, "x", []) == 0
    assert command.run_command(lambda: None, "x", ["--no-such"]) == 2


def test_an_interrupt_during_the_imports_is_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidllm_ros.cli.main.import_module", interrupted)
    assert main.main(["infer", "film.mp4"]) == 130
    assert capsys.readouterr().err == ""


def test_memory_that_ends_is_one_sentence(capsys, monkeypatch):
    monkeypatch.delenv("VIDLLM_TRACEBACK", raising=False)

    def too_much() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.\nmore")

    assert command.run_command(too_much, "x", []) == command.FAILED
    said = capsys.readouterr().err
    assert said.startswith("vidllm x: expected to get by with the memory there is")
    assert "you tried 9 bytes. more" in said
    assert said.count("\n") == 1

    def broken() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        command.run_command(broken, "x", [])
