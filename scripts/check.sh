#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every check of the project, the cheap ones first; all of them run, and the summary comes last. Called by `make test`.
# Arguments go to pytest: scripts/check.sh -k window
set -u

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root" || exit 1
. scripts/env.sh

# A ROS domain of its own, and no word of it to the network: two runs side by side do not hear each other.
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$(($$ % 100 + 1))}"
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"

results=.cache/checks
mkdir -p .cache
: >"$results"
failed=0

check() {  # check NAME COMMAND...
  name=$1; shift
  began=$(date +%s)
  printf '\n== %s\n' "$name"
  if "$@"; then verdict=passed; else verdict=FAILED; failed=1; fi
  printf '%-14s %s  %4d s\n' "$name" "$verdict" "$(($(date +%s) - began))" >>"$results"
}

run_pytest() {  # pytest's last line is kept for the summary
  { python -m pytest "$@"; echo $? >.cache/pytest.code; } 2>&1 | tee .cache/pytest.log
  return "$(cat .cache/pytest.code)"
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "package.xml" xmllint --nonet --noout package.xml ros_shims/tf2_msgs/package.xml
check "mypy" mypy
check "pytest" run_pytest "$@"

printf '\n== summary\n'
cat "$results"
tail -n 1 .cache/pytest.log
exit "$failed"
