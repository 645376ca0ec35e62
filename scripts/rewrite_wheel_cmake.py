# SPDX-License-Identifier: Apache-2.0
"""Point the CMake files of the ROS wheels at this interpreter's headers.

The wheels export the include folders of the machine that built them (/opt/python/cpXY-cpXY/...).
Runs once after every install of wheels; a second run finds nothing to do. Next: setup.sh.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

_BUILD_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+t?/include/python3\.\d+t?")
_BUILD_PURELIB = re.compile(r"/opt/python/cp\d+-cp\d+t?/lib/python3\.\d+t?/site-packages")


def rewrite_text(text: str, include: str, purelib: str) -> str:
    """Return the text with the build machine's two folders replaced by this machine's."""
    text = _BUILD_INCLUDE.sub(lambda _: include, text)
    return _BUILD_PURELIB.sub(lambda _: purelib, text)


def rewrite_tree(share: Path, include: str, purelib: str) -> list[Path]:
    """Rewrite every .cmake file under `share`; return the files that changed."""
    changed = []
    for path in sorted(share.rglob("*.cmake")):
        before = path.read_text(encoding="utf-8")
        after = rewrite_text(before, include, purelib)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> int:
    """Rewrite the files of the environment whose interpreter runs this."""
    share = Path(sys.prefix) / "share"
    paths = sysconfig.get_paths()
    changed = rewrite_tree(share, paths["include"], paths["purelib"])
    print(f"{len(changed)} CMake files of the ROS wheels now name this interpreter's headers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
