#!/usr/bin/env bash
# Runs a config in several processes on this machine, with the flags that a pod without auto-detection needs.
#
#   MER_JAX_CONFIG=configs/ma2mi.py:tiny MER_JAX_WORKDIR=workdir/two launch/local_multiprocess.sh [--dry-run]
#
# MER_JAX_CONFIG     config file
# MER_JAX_WORKDIR    folder of the run; the same one again continues it
# MER_JAX_FLAGS      more flags of mer_jax.main (optional)
# MER_JAX_PROCESSES  number of processes (2)
# MER_JAX_PORT       port of process 0 on localhost (a free one)
# MER_JAX_LOGS       folder for the output of the other processes (MER_JAX_WORKDIR.logs)
#
# Process 0 prints here, process N into MER_JAX_LOGS/N.log. SIGTERM and SIGINT are passed on to all processes, which
# save and leave. Exit code: 2 or 3 where a process ended so (a mistake), else 1 (a bug), else 75 (run again), else the first
# that is not 0. On CPU a process shows one device unless MER_JAX_FLAGS says --cpu_devices.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for word in "$@"; do
  case $word in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 ;;
    *) die "found $word; expected --help or --dry-run" ;;
  esac
done
need_run
export MER_JAX_COMMIT=${MER_JAX_COMMIT:-$(commit)}
processes=${MER_JAX_PROCESSES:-2}
logs=${MER_JAX_LOGS:-$MER_JAX_WORKDIR.logs}
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "MER_JAX_PROCESSES is '$processes'; expected a whole number above 0"

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
}

# process N: becomes process N of the run.
process() {
  local coordinator=localhost:$port
  # shellcheck disable=SC2086 # flags are words
  run exec python -m mer_jax.main --config "$MER_JAX_CONFIG" --workdir "$MER_JAX_WORKDIR" ${MER_JAX_FLAGS:-} \
    --coordinator "$coordinator" --processes "$processes" --process "$1"
}

cd "$root"
[[ " ${MER_JAX_FLAGS:-}" == *" --cpu_devices"* ]] || MER_JAX_FLAGS="${MER_JAX_FLAGS:-} --cpu_devices=1"
if [ -n "$dry" ]; then
  port=${MER_JAX_PORT:-29500}
  for ((i = 0; i < processes; i++)); do process "$i"; done
  exit 0
fi

port=${MER_JAX_PORT:-$(free_port)}
mkdir -p "$logs"
pids=()
for ((i = 0; i < processes; i++)); do
  if [ "$i" -eq 0 ]; then process 0 & else process "$i" >"$logs/$i.log" 2>&1 & fi
  pids+=($!)
done
echo "processes: ${pids[*]}; output of 1 and above in $logs" >&2
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

# How much a code says: a mistake or an infinite number, a bug, saved and stopped, anything else, done.
weight() {
  case $1 in 2 | 3) echo 4 ;; 1) echo 3 ;; 75) echo 2 ;; 0) echo 0 ;; *) echo 1 ;; esac
}

result=0
for i in "${!pids[@]}"; do
  code=0
  # a signal interrupts `wait` while the process still saves: ask again until it is gone
  while wait "${pids[i]}" || code=$?; [ "$code" -gt 128 ] && kill -0 "${pids[i]}" 2>/dev/null; do code=0; done
  [ "$code" -eq 0 ] || echo "process $i ended with $code" >&2
  [ "$(weight "$code")" -le "$(weight "$result")" ] || result=$code
done
exit "$result"
