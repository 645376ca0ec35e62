# SPDX-License-Identifier: Apache-2.0
# Source this (`. scripts/env.sh` in the checkout, sh or bash) to use what `make setup` built: python, ROS 2 and our messages.
# Elsewhere: VIDLLM_ROOT=/path/to/checkout . /path/to/checkout/scripts/env.sh
VIDLLM_ROOT=${VIDLLM_ROOT:-$(pwd)}
if [ ! -f "$VIDLLM_ROOT/scripts/env.sh" ]; then
  echo "env.sh: expected the checkout, got $VIDLLM_ROOT; cd into the checkout first, or set VIDLLM_ROOT to it" >&2
  unset VIDLLM_ROOT
  return 1
fi
export VIDLLM_ROOT
_venv=$VIDLLM_ROOT/.venv
_site=$(echo "$_venv"/lib/python3.*/site-packages)

_prepend() {  # _prepend VARIABLE FOLDER: put FOLDER first in a path list, once
  eval "_now=\${$1:-}"
  case ":$_now:" in
    *":$2:"*) ;;
    *) eval "export $1=\"\$2\${_now:+:\$_now}\"" ;;
  esac
}

_prepend PATH "$_venv/bin"
VIRTUAL_ENV=$_venv
export VIRTUAL_ENV
if [ -z "${ROS_DISTRO:-}" ] && [ -d "$_venv/share/rclpy" ]; then
  # ROS 2 from wheels: the virtual environment itself is the ament prefix.
  _prepend AMENT_PREFIX_PATH "$_venv"
  _prepend CMAKE_PREFIX_PATH "$_venv"
  for _libs in "$_site"/ros_*.libs "$_venv/lib"; do
    [ -d "$_libs" ] && _prepend LD_LIBRARY_PATH "$_libs"
  done
  _ROS_WHEELS_BOOTSTRAP_COMPLETE=1  # what the wheels' bootstrapper does by starting python twice is done above
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi

# Threads of the network that wait must not spin: beside other work on the same cores they would starve it and themselves.
# On two cores that 12 other processes wanted a window of 32 frames took 1.7 to 8.8 s so; otherwise three did not end in 150 s.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

for _prefix in "$VIDLLM_ROOT"/install/*; do
  [ -d "$_prefix/share" ] || continue
  _prepend AMENT_PREFIX_PATH "$_prefix"
  _prepend CMAKE_PREFIX_PATH "$_prefix"
  _prepend LD_LIBRARY_PATH "$_prefix/lib"
  for _packages in "$_prefix"/lib/python3*/site-packages "$_prefix"/local/lib/python3*/dist-packages; do
    [ -d "$_packages" ] && _prepend PYTHONPATH "$_packages"
  done
done
_prepend PYTHONPATH "$VIDLLM_ROOT"
unset _venv _site _now _libs _prefix _packages
