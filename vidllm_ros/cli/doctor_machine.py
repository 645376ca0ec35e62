# SPDX-License-Identifier: Apache-2.0
"""What `vidllm doctor` looks at without ROS: torch, GPU, weights, memory, NumPy and cv_bridge.

Each check returns one finding and raises nothing. cv_bridge is imported in a process of its own:
one built for NumPy 1 may end the interpreter under NumPy 2. Next: doctor_camera.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from vidllm_ros.cli.command import one_sentence
from vidllm_ros.cli.doctor_findings import Finding, Level, fail, ok, skipped, warn
from vidllm_ros.streaming.loading import choose_device, choose_precision
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL, LoadingError, find_model
from vidllm_ros.streaming.window_types import WindowSettings

FIXES_BEGIN = (
    *("check", "choose", "copy", "download", "free", "give", "install", "name", "pip", "run"),
    *("set", "take", "use", "write", "`vidllm"),
)
_IMPORT_S = 60.0
_CV_BRIDGE = """
import numpy as np
from cv_bridge import CvBridge
bridge = CvBridge()
bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(np.zeros((2, 2, 3), np.uint8), "rgb8"), "bgr8")
"""


def check_machine(model: Path | None, device: str) -> Iterator[Finding]:
    """Look at everything that needs no camera.

    Args:
        model: folder of weights; None is the bundled one.
        device: as the commands take it.
    """
    from vidllm_ros.network.concat_manifest import has_manifest

    yield check_torch()
    try:
        where = str(choose_device(device))
        yield ok("device", where)
    except LoadingError as error:
        where = "cpu"
        yield refusal("device", error, "take auto")  # the rest is checked for the CPU
    try:
        folder = find_model(model or BUNDLED_MODEL)
    except LoadingError as error:
        yield refusal("weights", error, "name another")
    else:
        if has_manifest(folder):
            yield from check_concatenation(folder, where)
        else:
            yield from check_network(folder, where)
    yield check_numpy()
    yield check_ros()


def refusal(what: str, error: Exception, fix: str) -> Finding:
    """Fail for the cause an error names, with the fix its sentence ends in, else with this one.

    What follows the last semicolon may be of the cause, as other libraries put it: it is a fix
    where it says to do something.
    """
    sentence = one_sentence(error)
    words, mark, own_fix = sentence.rpartition("; ")
    if mark and own_fix.split(" ")[0] in FIXES_BEGIN:
        return fail(what, words, own_fix)
    return fail(what, sentence, fix)


def check_torch() -> Finding:
    """Say which torch this is, and whether it sees the GPU that is there."""
    import torch

    from vidllm_ros.network.full_float32 import why_not_full_float32

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    words = f"{torch.__version__}, {built}"
    if torch.cuda.is_available():
        if reason := why_not_full_float32():
            return refusal("torch", LoadingError(reason), "")
        names = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        return ok("torch", f"{words}, sees {names}")
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return ok("torch", f"{words}; there is no NVIDIA GPU, the CPU computes")
    if torch.version.cuda is None:
        fix = "install a CUDA build: https://pytorch.org/get-started/locally"
    else:
        fix = "check nvidia-smi; in a container, start it with --gpus all"
    return warn("torch", f"{words}; there is a GPU and torch does not see it", fix)


def check_network(folder: Path, device: str) -> Iterator[Finding]:
    """Look at a checkpoint's files, then at memory for them, then load them."""
    from vidllm_ros.network.checkpoint import check_folder

    try:
        check_folder(folder)
    except (OSError, ValueError) as error:
        yield refusal("weights", error, "copy the folder again")
        return
    memory = check_memory(folder, device)
    yield memory
    if memory.level is Level.FAIL:
        yield skipped("weights", f"{folder}: not loaded, as there is no memory for them")
    else:
        yield check_weights(folder)


def check_memory(folder: Path, device: str) -> Finding:
    """Hold what the model needs against what is free, on the host on its way to a GPU as well."""
    import torch

    from vidllm_ros.network.memory import free_bytes, needed_bytes
    from vidllm_ros.streaming.host_memory import rungs_with_host_room, vidllm_on_host
    from vidllm_ros.streaming.memory_rungs import AUTO, usable_rungs

    where = torch.device(device)
    dtype = choose_precision("auto", where)
    try:
        rungs = usable_rungs(WindowSettings.size, AUTO, where, dtype)
        rungs_with_host_room(vidllm_on_host(folder, dtype), where, rungs, folder.name)
    except (OSError, ValueError) as error:  # as configure refuses it
        return refusal("memory", error, "take a smaller model or another device")
    needed, free = needed_bytes(folder, dtype), free_bytes(device)
    words = f"{needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free on {device}"
    if needed > free:
        return fail("memory", words, "take a smaller model or another device")
    if 2 * needed > free:
        return warn("memory", f"{words}: a rough estimate", "free memory, or a smaller model")
    return ok("memory", words)


def check_weights(folder: Path) -> Finding:
    """Load the weights, as the node will."""
    from transformers.utils.logging import disable_progress_bar

    from vidllm_ros.network.checkpoint import load_vidllm

    disable_progress_bar()
    try:
        network = load_vidllm(folder)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        return refusal("weights", error, "copy the folder again")
    count = sum(parameter.numel() for parameter in network.parameters())
    threshold = network.config.grounding_threshold
    words = f"{folder}: {count / 1e6:.1f} M parameters, boxes from score {threshold:g}"
    return ok("weights", words)


def check_concatenation(folder: Path, device: str) -> Iterator[Finding]:
    """Look at public models in a row: whether each part is there and whole, and what they need."""
    import torch

    from vidllm_ros.network.concat_account import look_at_concatenation
    from vidllm_ros.network.concat_manifest import read_manifest
    from vidllm_ros.network.concat_metric_depth import look_at_metric_depth
    from vidllm_ros.network.concatenation import locate_parts
    from vidllm_ros.network.memory import free_bytes
    from vidllm_ros.network.memory_plan import plan_memory
    from vidllm_ros.streaming.host_memory import concatenation_on_host, rungs_with_host_room
    from vidllm_ros.streaming.memory_rungs import AUTO, usable_rungs

    where = torch.device(device)
    try:
        manifest = read_manifest(folder)
        dtype = choose_precision("auto", where)
        account, weights = look_at_concatenation(folder, dtype)
        if manifest.scale != "none":
            look_at_metric_depth(locate_parts(folder, manifest)["metric_depth"])
    except (OSError, ValueError, RuntimeError) as error:
        yield refusal("weights", error, "name another part with `vidllm concatenate`")
        return
    frames = WindowSettings.size  # the node's default
    rungs = usable_rungs(frames, AUTO, where, dtype)
    host_bytes = concatenation_on_host(folder, dtype, weights)
    try:
        rungs, left_out = rungs_with_host_room(host_bytes, where, rungs, folder.name)
    except ValueError as error:
        yield refusal("memory", error, "take smaller parts or another device")
        return
    whole_first = where.type == "cpu"  # as the node loads
    plan = plan_memory(account, weights, free_bytes(device), rungs, whole_first=whole_first)
    words = f"{plan.words} on {device}"
    if left_out and plan.rung.name != "full":
        words += f"; {left_out}"
    if not plan.fits:
        yield fail("memory", words, "take smaller parts or another device")
    elif plan.rung.frames < frames:
        yield warn("memory", f"{words}: not the whole window", "free memory, or a smaller part")
    else:
        yield ok("memory", words)
    parts = f"{len(manifest.parts())} parts are there, looked at and not loaded"
    yield ok("weights", f"{folder}: {manifest.title}, backend {manifest.backend}, {parts}")


def check_numpy() -> Finding:
    """See whether cv_bridge and this NumPy belong together."""
    numpy = f"NumPy {version('numpy')}"
    if find_spec("cv_bridge") is None:
        return ok("cv_bridge", f"not installed ({numpy}); the node converts images itself")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CV_BRIDGE],
            capture_output=True,
            text=True,
            timeout=_IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return warn("cv_bridge", f"no answer in {_IMPORT_S:g} s", "the node may start slowly")
    if done.returncode == 0:
        return ok("cv_bridge", f"works with {numpy}")
    last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    fix = "the node converts images itself; for other nodes: pip install 'numpy<2'"
    return warn("cv_bridge", f"built for another NumPy than {numpy} ({last[:200]})", fix)


def check_ros() -> Finding:
    """See whether ROS 2 and the generated messages are on the path."""
    fix = "source a ROS 2 Jazzy installation, or . scripts/env.sh"
    if find_spec("rclpy") is None:
        return skipped("ros", "no rclpy: camera, TF and QoS cannot be looked at", fix)
    if find_spec("vidllm_ros.msg") is None:
        return fail("ros", "rclpy is there, the messages of vidllm_ros are not", "colcon build")
    return ok("ros", "rclpy and the messages are there")
