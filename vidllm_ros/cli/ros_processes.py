# SPDX-License-Identifier: Apache-2.0
"""Start the ROS side as processes, read what they print, and never leave one behind.

The command line does not import rclpy: node, camera player, recorder and asker are modules of
`vidllm_ros.ros` run by this interpreter (`sys.executable`), so that a fault in one is a line of a
log and not a crash here. Next: demo.py joins them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from vidllm_ros.cli.command import UserError

ROS_PACKAGE = "vidllm_ros.ros"
ROS_CLIENT = "rclpy"
STOP_S = 20.0
LAST_LINES = 15
DDS_PORT = 7410  # of the first participant in domain 0; domains are 250 ports apart
# Fast DDS cuts a message larger than its shared memory (0.5 MB) into pieces, and best effort loses
# one with any piece: of raw 640 x 480 images a quarter arrived by default, all with this.
FASTDDS_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles>
  <transport_descriptors>
    <transport_descriptor>
      <transport_id>memory</transport_id><type>SHM</type>
      <segment_size>{segment}</segment_size><maxMessageSize>{segment}</maxMessageSize>
    </transport_descriptor>
    <transport_descriptor>
      <transport_id>loopback</transport_id><type>UDPv4</type>
      <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
    </transport_descriptor>
  </transport_descriptors>
  <participant profile_name="demo" is_default_profile="true"><rtps>
    <userTransports>
      <transport_id>memory</transport_id><transport_id>loopback</transport_id>
    </userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
  </rtps></participant>
</profiles></dds>
"""
SHARED_MEMORY = Path("/dev/shm")
SMALLEST_SEGMENT, LARGEST_SEGMENT = (
    1 << 20,
    16 << 20,
)  # four processes fit the 64 MB of a container
SAFE_DOMAINS = range(1, 102)  # beyond these the ports meet the ephemeral ones of Linux


class ProcessError(UserError):
    """A process of ours ended when it should not have; the text holds its last lines."""


def check_ros() -> None:
    """Raise unless the ROS side can be started by this interpreter; nothing is imported.

    Raises:
        UserError: there is no ROS 2.
    """
    if find_spec(ROS_CLIENT) is None:
        raise UserError(
            f"ROS 2: expected {ROS_CLIENT} in {sys.executable}, found none; use `make demo`, or "
            "source a ROS 2 installation (or scripts/env.sh) first"
        )


def isolated_environment(folder: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in a ROS domain nobody uses here, kept to this machine.

    A demo must neither be seen by a robot on the same network nor see it.

    Args:
        folder: of this run; takes the profile of Fast DDS.
        base: environment to start from; this process's if None.
    """
    environment = dict(os.environ if base is None else base)
    taken = {environment.get("ROS_DOMAIN_ID", "0")}
    free = [domain for domain in SAFE_DOMAINS if str(domain) not in taken]
    random.SystemRandom().shuffle(free)
    domain = next(entry for entry in free if _is_unused(entry))
    for name in ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "ROS_DISCOVERY_SERVER"):
        environment.pop(name, None)
    environment["ROS_DOMAIN_ID"] = str(domain)
    if environment.get("ROS_DISTRO", "") in ("humble", "foxy", "galactic"):
        environment["ROS_LOCALHOST_ONLY"] = "1"
    else:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    segment = min(LARGEST_SEGMENT, _free_bytes(SHARED_MEMORY) // 8)
    if segment >= SMALLEST_SEGMENT:
        profile = folder / "fastdds.xml"
        profile.write_text(FASTDDS_PROFILE.format(segment=segment))
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
            environment[name] = str(profile)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _is_unused(domain: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", DDS_PORT + 250 * domain))
        except OSError:
            return False
    return True


@dataclass
class RosProcess:
    """A module of `vidllm_ros.ros` at work; its stderr is kept in a file.

    Attributes:
        name: how messages call it.
        process: the running interpreter.
        log: file that holds its stderr.
        accepted: exit codes that are no failure.
        lines: what it printed to stdout that nobody took yet.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    accepted: tuple[int, ...] = (0,)
    lines: deque[str] = field(default_factory=deque)
    _reader: threading.Thread | None = None
    _is_interrupted: bool = False

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def take_lines(self) -> Iterator[str]:
        """Yield what it has printed since the last call."""
        while self.lines:
            yield self.lines.popleft()

    def interrupt(self) -> None:
        """Ask it to end (SIGINT); asking once is enough."""
        if not self.has_ended() and not self._is_interrupted:
            self.process.send_signal(signal.SIGINT)
            self._is_interrupted = True

    def stop(self) -> int:
        """Ask it to end, insist after a while, and return its exit code."""
        if not self.has_ended():
            self.interrupt()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.finish()

    def finish(self, timeout_s: float | None = None) -> int:
        """Wait for its end, take in the rest of its output, and return its exit code.

        Raises:
            ProcessError: it does not end in time.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.failure(f"expected its end within {timeout_s} s") from None
        if self._reader is not None:
            self._reader.join(STOP_S)
        return code

    def last_lines(self) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.rstrip().splitlines()[-LAST_LINES:])

    def failure(self, said: str) -> ProcessError:
        """Return the error that tells what happened and shows the end of the log."""
        code = self.process.poll()
        state = "still running" if code is None else f"exit code {code}"
        tail = self.last_lines() or "(it logged nothing)"
        return ProcessError(f"{self.name}: {said} ({state}); its last lines:\n{tail}")


class RosProcesses:
    """All processes of one run, in one ROS domain; leaving the `with` block ends them all."""

    def __init__(self, log_folder: Path, environment: Mapping[str, str]) -> None:
        self.log_folder = log_folder
        self.environment = dict(environment)
        self.running: list[RosProcess] = []

    def __enter__(self) -> RosProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for entry in self.running:
                entry.interrupt()
            for entry in reversed(self.running):
                entry.stop()
        finally:  # a second Ctrl-C comes here
            for entry in self.running:
                if not entry.has_ended():
                    entry.process.kill()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        has_input: bool = False,
        accepted: tuple[int, ...] = (0,),
    ) -> RosProcess:
        """Start `python -m vidllm_ros.ros.<name> arguments...`."""
        log = self.log_folder / f"{name}-{len(self.running)}.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{ROS_PACKAGE}.{name}", *arguments],
                stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we end them in order
            )
        entry = RosProcess(name, process, log, accepted)
        stdout = process.stdout
        if stdout is None:  # piped above
            raise AssertionError("a process without stdout")
        entry._reader = threading.Thread(target=_drain, args=(stdout, entry.lines), daemon=True)
        entry._reader.start()
        self.running.append(entry)
        return entry

    def check(self) -> None:
        """Raise if a process ended with an error.

        Raises:
            ProcessError: one of them did.
        """
        for entry in self.running:
            if entry.process.poll() not in (None, *entry.accepted):
                raise entry.failure("ended with an error")

    def end_well(self, entries: Sequence[RosProcess]) -> None:
        """Ask these to end and see that they do so without an error.

        Raises:
            ProcessError: one of them did not.
        """
        for entry in entries:
            entry.interrupt()
        for entry in entries:
            if entry.stop() not in entry.accepted:
                raise entry.failure("expected a clean end")


def _drain(stream: BinaryIO | Any, lines: deque[str]) -> None:
    for line in stream:
        lines.append(line.decode(errors="replace").rstrip("\n"))


def json_lines(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among lines; whatever else was printed is passed over."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)
