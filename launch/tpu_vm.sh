#!/usr/bin/env bash
# A Cloud TPU VM or pod slice by hand: everything is done on all its workers.
#
#   launch/tpu_vm.sh create   make the slice
#   launch/tpu_vm.sh setup    copy this commit to every worker, install it, mount the bucket
#   launch/tpu_vm.sh run      start the run on every worker, wait for its end; ends with its exit code
#   launch/tpu_vm.sh stop     SIGTERM: the run saves and leaves with 75
#   launch/tpu_vm.sh logs     follow the log of worker 0 (MER_JAX_WORKER for another)
#   launch/tpu_vm.sh delete   delete the slice, which ends its costs; the bucket stays
#
#   --dry-run prints the commands, --help this.
#
# MER_JAX_PROJECT, MER_JAX_ZONE  Google Cloud project and zone
# MER_JAX_TPU_NAME               name of the slice
# MER_JAX_TPU_TYPE               accelerator type, e.g. v5litepod-16                                   (create)
# MER_JAX_TPU_VERSION            software version of the VMs, e.g. v2-alpha-tpuv5-lite                 (create)
# MER_JAX_CAPACITY               on-demand (default), spot or reserved                                 (create)
# MER_JAX_BUCKET                 bucket that every worker mounts at /mnt/mer_jax                       (setup)
# MER_JAX_CONFIG                 config file                                                           (run)
# MER_JAX_WORKDIR                folder of the run below /mnt/mer_jax; the same one again continues it (run)
# MER_JAX_FLAGS                  more flags of mer_jax.main (optional)                                 (run)
# MER_JAX_DATA                   folder of built datasets (/mnt/mer_jax/data)                          (run)
#
# What happens on a worker is in worker.sh. `run` may be interrupted: the run goes on, and `run` again waits for it.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mount=/mnt/mer_jax

tpu() {
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$@" --project "$MER_JAX_PROJECT" --zone "$MER_JAX_ZONE"
}

# on_all COMMAND: runs a line on every worker; ends with the exit code of a worker where it failed.
on_all() {
  tpu ssh "$MER_JAX_TPU_NAME" --worker all --command "$1"
}

create() {
  need MER_JAX_TPU_TYPE "accelerator type, e.g. v5litepod-16"
  need MER_JAX_TPU_VERSION "software version of the VMs, e.g. v2-alpha-tpuv5-lite"
  local capacity=()
  case ${MER_JAX_CAPACITY:-on-demand} in
    on-demand) ;;
    spot) capacity=(--spot) ;;
    reserved) capacity=(--reserved) ;;
    *) die "MER_JAX_CAPACITY is '$MER_JAX_CAPACITY'; expected on-demand, spot or reserved" ;;
  esac
  # storage-rw: the VMs write checkpoints into the bucket with their service account; no key leaves this machine
  tpu create "$MER_JAX_TPU_NAME" --accelerator-type "$MER_JAX_TPU_TYPE" --version "$MER_JAX_TPU_VERSION" \
    --scopes storage-rw,logging-write,monitoring-write --labels project=mer_jax \
    ${capacity[@]+"${capacity[@]}"}
}

check_setup() {
  need MER_JAX_BUCKET "name of the bucket that every worker mounts at $mount"
  version=$(commit)
  if [[ $version == *-dirty && -z $dry ]]; then
    die "there are uncommitted changes; commit them first: a run is stored with its commit"
  fi
}

setup() {
  local version archive
  check_setup
  archive=${TMPDIR:-/tmp}/mer_jax-$version.tar.gz
  run git -C "$root" archive --format tar.gz --output "$archive" HEAD
  tpu scp "$archive" "$MER_JAX_TPU_NAME:mer_jax.tar.gz" --worker all
  on_all "rm -rf mer_jax && mkdir mer_jax && tar -xzf mer_jax.tar.gz -C mer_jax && echo $version > mer_jax/COMMIT"
  on_all "MER_JAX_BUCKET=$MER_JAX_BUCKET MER_JAX_MOUNT=$mount bash mer_jax/launch/worker.sh setup"
}

check_run() {
  need_run
  need_shared "$mount" worker
}

run_on_workers() {
  check_run
  local environment
  printf -v environment 'MER_JAX_CONFIG=%q MER_JAX_WORKDIR=%q MER_JAX_FLAGS=%q MER_JAX_DATA=%q' \
    "$MER_JAX_CONFIG" "$MER_JAX_WORKDIR" "${MER_JAX_FLAGS:-}" "${MER_JAX_DATA:-$mount/data}"
  environment+=" MER_JAX_MOUNT=$mount JAX_COMPILATION_CACHE_DIR=$mount/compiled"
  on_all "$environment bash mer_jax/launch/worker.sh run"
}

stop() {
  on_all "bash mer_jax/launch/worker.sh stop"
}

logs() {
  tpu ssh "$MER_JAX_TPU_NAME" --worker "${MER_JAX_WORKER:-0}" --command "tail -n 100 -F mer_jax/run.log"
}

delete() {
  tpu delete "$MER_JAX_TPU_NAME" --quiet
}

verb=""
for word in "$@"; do
  case $word in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 ;;
    create | setup | run | stop | logs | delete | check)
      [ -z "$verb" ] || die "found $verb and $word; expected one of them"
      verb=$word
      ;;
    *) die "found $word; expected create, setup, run, stop, logs or delete, see --help" ;;
  esac
done
[ -n "$verb" ] || die "expected create, setup, run, stop, logs or delete, see --help"
need MER_JAX_PROJECT "Google Cloud project"
need MER_JAX_ZONE "zone, e.g. us-west4-a"
need MER_JAX_TPU_NAME "name of the slice"
case $verb in
  run) run_on_workers ;;
  check) check_setup && check_run ;; # for queued_resource.sh: says what is missing, does nothing
  *) "$verb" ;;
esac
