# SPDX-License-Identifier: Apache-2.0
import os
import socket
import textwrap
import time
from xml.etree import ElementTree

import pytest

from vidllm_ros.cli import ros_processes
from vidllm_ros.cli.ros_processes import ProcessError, RosProcesses, isolated_environment


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a writer of modules that stand where vidllm_ros.ros stands."""
    folder = tmp_path / "path" / "pretended_ros"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(ros_processes, "ROS_PACKAGE", "pretended_ros")
    environment = {**os.environ, "PYTHONPATH": str(folder.parent), "PYTHONUNBUFFERED": "1"}

    def write(**modules):
        for name, code in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(code))
        return RosProcesses(tmp_path, environment)

    return write


def test_domain_is_another_and_stays_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setenv("ROS_DOMAIN_ID", "17")
    monkeypatch.setenv("ROS_STATIC_PEERS", "robot.local")
    chosen = {isolated_environment(tmp_path)["ROS_DOMAIN_ID"] for _ in range(20)}
    assert "17" not in chosen
    assert "0" not in chosen
    assert len(chosen) > 5
    environment = isolated_environment(tmp_path)
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_STATIC_PEERS" not in environment
    assert isolated_environment(tmp_path, {"ROS_DISTRO": "humble"})["ROS_LOCALHOST_ONLY"] == "1"


def test_large_images_get_shared_memory_where_there_is_some(tmp_path, monkeypatch):
    monkeypatch.setattr(ros_processes, "_free_bytes", lambda folder: 64 << 20)
    environment = isolated_environment(tmp_path, {})
    profile = ElementTree.parse(environment["FASTRTPS_DEFAULT_PROFILES_FILE"])
    assert [entry.text for entry in profile.iter() if "segment_size" in entry.tag] == [
        str(8 << 20)
    ]
    monkeypatch.setattr(ros_processes, "_free_bytes", lambda folder: 1 << 20)
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in isolated_environment(tmp_path, {})


def test_a_domain_in_use_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ros_processes, "SAFE_DOMAINS", range(60, 62))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as user:
        user.bind(("", ros_processes.DDS_PORT + 250 * 60))
        assert isolated_environment(tmp_path)["ROS_DOMAIN_ID"] == "61"


def test_lines_come_through_and_the_end_is_clean(package):
    code = """
        import sys, time
        print('{"index": 1}'); print("chatter"); print('{"index": 2}')
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print('{"index": 3}')
    """
    with package(talker=code) as processes:
        talker = processes.start("talker", [])
        end = time.monotonic() + 20
        while len(talker.lines) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        begin = time.monotonic()
        processes.end_well([talker])
        assert time.monotonic() - begin < 5
        entries = list(ros_processes.json_lines(talker.take_lines()))
    assert [entry["index"] for entry in entries] == [1, 2, 3]


def test_a_failure_shows_its_last_lines(package):
    code = "import sys; [print('line', i, file=sys.stderr) for i in range(99)]; sys.exit(4)"
    with package(broken=code) as processes:
        broken = processes.start("broken", [])
        broken.finish()
        with pytest.raises(ProcessError, match=r"broken: .*exit code 4(.|\n)*line 98") as caught:
            processes.check()
    assert "line 83" not in str(caught.value)


def test_accepted_codes_are_no_failure(package):
    with package(asker="raise SystemExit(1)") as processes:
        processes.start("asker", [], accepted=(0, 1)).finish()
        processes.check()


def test_nothing_is_left_running(package, monkeypatch):
    monkeypatch.setattr(ros_processes, "STOP_S", 0.5)
    deaf = """
        import signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("{}")
        time.sleep(60)
    """
    with pytest.raises(RuntimeError, match="of the demo"), package(deaf=deaf) as processes:  # noqa: PT012
        process = processes.start("deaf", [])
        while not process.lines:
            time.sleep(0.02)
        raise RuntimeError("of the demo")
    assert process.has_ended()
