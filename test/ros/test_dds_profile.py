# SPDX-License-Identifier: Apache-2.0
"""When the profile of Fast DDS is set, and when it is left to its owner."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("ament_index_python")
from vidllm_ros.ros import dds_profile
from vidllm_ros.ros.dds_profile import AUTO, NONE, PROFILE_VARIABLES, profile_environment


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the free bytes of /dev/shm, to be changed."""
    free = [1 << 30]
    monkeypatch.setattr(dds_profile, "_free_bytes", lambda _: free[0])
    return free


def test_ours_is_named_and_fits_a_full_hd_image() -> None:
    chosen = profile_environment({})
    assert set(chosen) == set(PROFILE_VARIABLES)
    names = {entry.tag.rpartition("}")[2]: entry.text for entry in _entries(chosen)}
    assert int(names["segment_size"] or 0) > 2 * 1920 * 1080 * 3
    assert int(names["maxMessageSize"] or 0) == int(names["segment_size"] or 0)
    assert names["useBuiltinTransports"] == "false"
    kinds = [entry.text for entry in _entries(chosen) if entry.tag.endswith("}type")]
    assert kinds == ["SHM", "UDPv4"]


@pytest.mark.parametrize(
    "environment",
    [
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "/my.xml"},
        {"FASTDDS_DEFAULT_PROFILES_FILE": "/my.xml"},
        {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
    ],
)
def test_what_somebody_chose_stays(environment: dict[str, str]) -> None:
    assert profile_environment(environment) == {}


def test_fast_dds_by_name_is_served() -> None:
    assert profile_environment({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"})


def test_a_small_shared_memory_is_left_alone(shared_memory: list[int]) -> None:
    shared_memory[0] = 63 << 20
    assert profile_environment({}) == {}


def test_none_and_a_file_are_taken_at_their_word(tmp_path: Path) -> None:
    assert profile_environment({}, NONE) == {}
    profile = tmp_path / "mine.xml"
    profile.write_text("<dds/>")
    chosen = profile_environment({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, str(profile))
    assert set(chosen.values()) == {str(profile)}
    with pytest.raises(FileNotFoundError, match="dds_profile: expected auto, none or a file"):
        profile_environment({}, str(tmp_path / "missing.xml"))


def test_without_any_profile_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dds_profile, "find_profile", lambda: None)
    assert profile_environment({}, AUTO) == {}


def _entries(chosen: dict[str, str]) -> list[ElementTree.Element]:
    return list(ElementTree.parse(chosen[PROFILE_VARIABLES[0]]).iter())
