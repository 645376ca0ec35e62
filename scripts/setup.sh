#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Bring an empty checkout to where the node runs: .venv, pinned packages, ROS 2 (sourced, or from wheels), our interfaces.
# Safe to call again: each step leaves a stamp of what it was made from and is skipped while that holds (about 0.1 s).
# PYTHON=python3.12 picks the interpreter. Called by `make setup`, `make demo`, `make test`.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
venv=$root/.venv
state=$venv/vidllm-setup
python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }
digest() { cat -- "$@" | sha256sum | cut -c1-32; }
stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# run_step WORDS COMMAND...: run it with its output in a log, say every 20 s that it goes on, show the log's end if it fails.
run_step() {
  words=$1; shift
  log=$root/.cache/setup.log
  start=$(date +%s)
  say "$words ..."
  "$@" >"$log" 2>&1 &
  child=$!
  trap 'kill "$child" 2>/dev/null; exit 130' INT TERM
  tick=0
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.5
    tick=$((tick + 1))
    [ $((tick % 40)) -ne 0 ] || say "  still at it, $(($(date +%s) - start)) s: $(grep -v WARNING: "$log" | tail -n 1 | cut -c1-90)"
  done
  trap - INT TERM
  if ! wait "$child"; then
    tail -n 30 "$log" >&2
    fail "$words: failed; the whole log is $log"
  fi
  say "  done in $(($(date +%s) - start)) s"
}

# ---- which ROS, which interpreter --------------------------------------------------------------------------------------
ros=${ROS_DISTRO:-wheels}

can_serve() {  # can_serve INTERPRETER: Python 3.10 to 3.13 that can make an environment and has its headers
  "$1" -c '
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 13) and os.path.exists(header)))' >/dev/null 2>&1
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    candidates=$PYTHON
  elif [ "$ros" != wheels ]; then
    candidates=/usr/bin/python3  # the interpreter a ROS installation is built for
  else
    candidates="python3 python3.12 python3.11 python3.13 python3.10 /usr/bin/python3"
  fi
  for candidate in $candidates; do
    if can_serve "$candidate"; then
      "$candidate" -c 'import sys; print(sys._base_executable)'
      return 0
    fi
  done
  return 1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

python_of_environment() { sed -n 's/^version = //p' "$venv/pyvenv.cfg" 2>/dev/null || true; }

# ---- system packages ---------------------------------------------------------------------------------------------------
has_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q "$1"; }

missing_packages() {
  command -v c++ >/dev/null && command -v cc >/dev/null || echo build-essential
  command -v cmake >/dev/null || echo cmake
  command -v make >/dev/null || echo make
  command -v xmllint >/dev/null || echo libxml2-utils
  has_library libusb-1.0.so.0 || echo libusb-1.0-0
  has_library libGL.so.1 || echo libgl1
  has_library libEGL.so.1 || echo libegl1
  has_library libgomp.so.1 || echo libgomp1
  has_library libX11.so.6 || echo libx11-6
  find_python >/dev/null || { [ -n "${PYTHON:-}" ] || echo python3 python3-dev python3-venv; }
}

install_system_packages() {
  packages=$(missing_packages | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  line="apt-get update && apt-get install -y --no-install-recommends $packages"
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    fail "system packages are missing; install them and call again:  sudo sh -c '$line'"
  fi
  run_step "system packages: $packages" env DEBIAN_FRONTEND=noninteractive sh -c "$line"
}

# ---- the environment ---------------------------------------------------------------------------------------------------
make_environment() {  # an empty .venv; one that was interrupted half-way is made anew
  base=$(find_python) || fail "python: expected 3.10 to 3.13 with its headers and venv, got ${PYTHON:-none}; set PYTHON"
  say "python $(version_of "$base"), ROS 2: $ros"
  site=; [ "$ros" = wheels ] || site=--system-site-packages
  # shellcheck disable=SC2086
  run_step "virtual environment .venv" "$base" -m venv --clear $site "$venv"
  mkdir -p "$state"
  printf '%s' "$environment_key" >"$state/environment"
}

install_packages() {
  : >"$state/installing"  # removed when pip ends well: a kill in between can leave a package half on disk
  torch=$(grep '^torch==' requirements.txt)
  run_step "$torch (first, so that a CPU wheel at hand is taken)" \
    "$python" -m pip install --progress-bar off -c constraints.txt -c requirements-dev.txt "$torch"
  set -- -r requirements.txt -r requirements-dev.txt
  if [ "$ros" = wheels ]; then
    set -- "$@" -r requirements-ros.txt
  elif ! command -v colcon >/dev/null; then
    # shellcheck disable=SC2046
    set -- "$@" $(grep '^colcon-' requirements-ros.txt)
  fi
  run_step "python packages (1 to 3 minutes)" "$python" -m pip install --progress-bar off -c constraints.txt "$@"
  if [ "$ros" = wheels ]; then
    "$python" scripts/rewrite_wheel_cmake.py >>"$root/.cache/setup.log"
  fi
  rm -f "$state/installing"
  printf '%s' "$packages_key" >"$state/packages"
}

install_command() {
  run_step "command vidllm" "$python" -m pip install --no-deps --no-build-isolation -e .
  printf '%s' "$command_key" >"$state/command"
}

# ---- the interfaces ----------------------------------------------------------------------------------------------------
build_interfaces() {
  if ! stamped install/.vidllm-environment "$build_key"; then
    rm -rf build install log  # another interpreter or another place: nothing of the old build fits
  fi
  set -- --paths "$root"
  [ "$ros" != wheels ] || set -- "$@" "$root/ros_shims/tf2_msgs"  # ROS brings its own tf2_msgs
  run_step "messages and services (colcon build)" sh -c '
    . scripts/env.sh && exec colcon build --symlink-install "$@" \
      --cmake-args -DPython3_EXECUTABLE="$VIDLLM_ROOT/.venv/bin/python" -DBUILD_TESTING=OFF' build "$@"
  printf '%s' "$build_key" >install/.vidllm-environment
  printf '%s' "$interfaces_key" >install/.vidllm-interfaces
}

# ---- what is there already? --------------------------------------------------------------------------------------------
mkdir -p .cache
exec 9>.cache/setup.lock
flock -n 9 || { say "another set-up is running here; waiting for it"; flock 9; }

environment_key="$root $ros"
packages_key=$(digest requirements.txt requirements-dev.txt requirements-ros.txt constraints.txt)
command_key=$(digest setup.py package.xml)
interfaces_key=$(
  { digest msg/* srv/* ros_shims/tf2_msgs/msg/* ros_shims/tf2_msgs/CMakeLists.txt ros_shims/tf2_msgs/package.xml \
      CMakeLists.txt package.xml scripts/vidllm scripts/vidllm_node
    find config launch models -type f ! -path '*/__pycache__/*' | LC_ALL=C sort; } | sha256sum | cut -c1-32)

# An interpreter asked for by name replaces an environment of another version.
wanted=; [ -z "${PYTHON:-}" ] || wanted=$(version_of "$PYTHON") || fail "PYTHON: cannot run $PYTHON"
present=$(python_of_environment)

began=$(date +%s)
if ! stamped "$state/environment" "$environment_key" || [ -e "$state/installing" ] || [ ! -x "$python" ] ||
  [ "${wanted:-$present}" != "$present" ]; then
  install_system_packages
  make_environment
fi
stamped "$state/packages" "$packages_key" || { install_system_packages; install_packages; }
stamped "$state/command" "$command_key" || install_command
build_key="$environment_key, python $(python_of_environment), $(digest requirements-ros.txt)"
if ! stamped install/.vidllm-environment "$build_key" || ! stamped install/.vidllm-interfaces "$interfaces_key"; then
  build_interfaces
fi
took=$(($(date +%s) - began))
[ "$took" -lt 2 ] || say "ready after $took s"
