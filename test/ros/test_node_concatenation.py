# SPDX-License-Identifier: Apache-2.0
"""The node with public models in a row: the same topics and the same /ask, licences in its log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition

from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.srv import Ask

pytestmark = pytest.mark.ros
LANGUAGES = {"vggt_llava3d": "llava_3d", "vggt_vlm": "vlm"}


@pytest.mark.parametrize("kind", sorted(LANGUAGES))
def test_public_models_answer_a_service_call(
    kind: str, start: Callable[..., Any], public_parts: Path, tmp_path: Path
) -> None:
    places = [PartPlace(str(public_parts / n)) for n in ("vggt", LANGUAGES[kind], "depth")]
    write_manifest(tmp_path, Manifest(kind, *places))
    harness = start(backend=kind, model=str(tmp_path), device="cpu")
    harness.wait_active()
    stamps = harness.feed(4)
    harness.wait_windows(1)
    reply = harness.ask("what is red?")
    assert (reply.success, reply.error_code) == (True, Ask.Response.OK)
    assert [stamp_to_ns(stamp) for stamp in reply.frame_stamps] == stamps
    assert list(reply.objects.objects) == []  # random words hold no box: none is made up
    assert harness.ask("where is the chair?").answer == "not seen"
    harness.wait_said("licence cc-by-nc-4.0")
    harness.wait_said("frames: needs ")


def test_another_backends_folder_is_refused_at_configure(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    places = (PartPlace("./a"), PartPlace("./b"))
    write_manifest(tmp_path, Manifest("vggt_vlm", *places, scale="none"))
    harness = start(backend="vggt_llava3d", model=str(tmp_path), autostart=False)
    assert not harness.change(Transition.TRANSITION_CONFIGURE)
    harness.wait_said("set backend to vggt_vlm")
    assert harness.state == "unconfigured"
    assert harness.set_parameter("backend", "vggt_vlm").successful
    assert not harness.change(Transition.TRANSITION_CONFIGURE)
    harness.wait_said("geometry: expected a file, a folder or a hub id")
