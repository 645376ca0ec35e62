# SPDX-License-Identifier: Apache-2.0
import sys

from pretended_ros import FOLDER, until_interrupted

if (FOLDER / "node_fails").exists():
    print("model: expected weights, got none; train some", file=sys.stderr)
    raise SystemExit(1)
(FOLDER / "node_arguments").write_text("\n".join(sys.argv[1:]))
until_interrupted(lambda: None)
(FOLDER / "node_ended").write_text("")
