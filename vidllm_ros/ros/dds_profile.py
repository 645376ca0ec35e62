# SPDX-License-Identifier: Apache-2.0
"""Which profile Fast DDS should read, so that whole images and clouds fit its shared memory.

Of raw 640 x 480 images at best effort, fewer than half arrived with the defaults on a busy machine
and four fifths where the sender read config/fastdds.xml (docs/ros_interface.md). Whoever set a
profile or transports of their own keeps them. Used by play.py and the launch file. Next: play.py.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

PROFILE = "config/fastdds.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
OWN_CHOICES = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")
SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 64 << 20  # four processes of 16 MB
AUTO, NONE = "auto", "none"


def profile_environment(environment: Mapping[str, str], wanted: str = AUTO) -> dict[str, str]:
    """Return the variables that name the profile to a process to be started.

    Args:
        environment: it would have without them.
        wanted: AUTO for ours where nothing else is chosen and it fits, NONE, or a file.

    Raises:
        FileNotFoundError: `wanted` is a file that does not exist.
    """
    if wanted == NONE:
        return {}
    if wanted != AUTO:
        path = Path(wanted).expanduser().absolute()
        if not path.is_file():
            raise FileNotFoundError(
                f"dds_profile: expected {AUTO}, {NONE} or a file, got {path}, which is none"
            )
        return dict.fromkeys(PROFILE_VARIABLES, str(path))
    is_fastdds = "fastrtps" in (environment.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp")
    has_chosen = any(environment.get(name) for name in OWN_CHOICES)
    if not is_fastdds or has_chosen or _free_bytes(SHARED_MEMORY) < ROOM_BYTES:
        return {}
    profile = find_profile()
    return {} if profile is None else dict.fromkeys(PROFILE_VARIABLES, str(profile))


def find_profile() -> Path | None:
    """Return our profile, installed or beside the source; None where neither is."""
    roots = [Path(__file__).resolve().parents[2]]
    with contextlib.suppress(PackageNotFoundError, LookupError):
        roots.insert(0, Path(get_package_share_directory("vidllm_ros")))
    return next((root / PROFILE for root in roots if (root / PROFILE).is_file()), None)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0
