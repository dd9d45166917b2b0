#!/usr/bin/env bash
# What tpu_vm.sh does on a worker: runs there, from the copied code. Keeps COMMIT, ready, run.log, running (pid), code.
#
#   launch/worker.sh setup    system packages, virtual environment, bucket mounted at MER_JAX_MOUNT
#   launch/worker.sh run      start the run unless it is going on, wait for its end; ends with its exit code
#   launch/worker.sh stop     SIGTERM: the run saves and leaves with 75
#
#   --dry-run prints the commands, --help this.
#
# MER_JAX_BUCKET                                  bucket                              (setup)
# MER_JAX_MOUNT                                   where it is mounted                 (setup, run)
# MER_JAX_CONFIG, MER_JAX_WORKDIR, MER_JAX_FLAGS  config file, folder and more flags  (run)
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Whether the process of the last `run` still lives; a pid of before a reboot may be somebody else's.
going_on() {
  [ -f running ] && grep -qs worker.sh "/proc/$(cat running)/cmdline"
}

setup() {
  need MER_JAX_BUCKET "bucket to mount"
  need MER_JAX_MOUNT "where the bucket is mounted"
  run sudo env DEBIAN_FRONTEND=noninteractive apt-get -q update
  run sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y install python3.11 python3.11-venv
  run python3.11 -m venv .venv
  run .venv/bin/pip install -q -c constraints.txt -e ".[tpu,gcs]"
  if [ -n "$dry" ] || ! mountpoint -q "$MER_JAX_MOUNT"; then
    [ -n "$dry" ] || command -v gcsfuse >/dev/null || die "there is no gcsfuse on this worker; install it \
(https://cloud.google.com/storage/docs/cloud-storage-fuse/install), or take a MER_JAX_TPU_VERSION that has it"
    run sudo install -d -m 777 "$MER_JAX_MOUNT"
    run gcsfuse --implicit-dirs --rename-dir-limit 100000 "$MER_JAX_BUCKET" "$MER_JAX_MOUNT"
  fi
  [ -n "$dry" ] || touch ready # all of it is done
}

# Becomes the run; its shell outlives a SIGTERM to the group, to write down how main ended.
main() {
  trap : TERM
  local code=0
  # shellcheck disable=SC2086 # flags are words
  run python -m mer_jax.main --config "$MER_JAX_CONFIG" --workdir "$MER_JAX_WORKDIR" ${MER_JAX_FLAGS:-} || code=$?
  [ -n "$dry" ] || echo "$code" >code
}

start_and_wait() {
  need_run
  need MER_JAX_MOUNT "where the bucket is mounted"
  PATH=$PWD/.venv/bin:$PATH
  if [ -n "$dry" ]; then
    main
    return
  fi
  if ! going_on; then
    if [ ! -f ready ] || ! mountpoint -q "$MER_JAX_MOUNT"; then # after a reboot nothing is mounted
      echo "worker.sh: this worker is not set up; setup comes before run" >&2
      return 127
    fi
    rm -f code
    [ ! -f COMMIT ] || MER_JAX_COMMIT=$(cat COMMIT)
    export MER_JAX_CONFIG MER_JAX_WORKDIR MER_JAX_FLAGS="${MER_JAX_FLAGS:-}" MER_JAX_COMMIT="${MER_JAX_COMMIT:-$(commit)}"
    # a session of its own: it outlives the connection that started it
    setsid bash "$here/worker.sh" main >>run.log 2>&1 </dev/null &
    echo $! >running
  fi
  while going_on; do sleep "${MER_JAX_POLL:-2}"; done
  local code=137 # killed before it could say anything
  [ ! -s code ] || code=$(cat code)
  [ "$code" -eq 0 ] || tail -n 3 run.log >&2
  return "$code"
}

stop() {
  [ -n "$dry" ] || going_on || die "no run is going on"
  run kill -TERM -- "-$(cat running 2>/dev/null || echo PID)"
}

verb=""
for word in "$@"; do
  case $word in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 ;;
    setup | run | stop | main) verb=$word ;;
    *) die "found $word; expected setup, run or stop, see --help" ;;
  esac
done
cd "$root"
case $verb in
  run) start_and_wait ;;
  "") die "expected setup, run or stop, see --help" ;;
  *) "$verb" ;;
esac
