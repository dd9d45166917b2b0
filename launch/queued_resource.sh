#!/usr/bin/env bash
# A TPU slice as a queued resource: asked for, waited for, and asked for again when it is taken away (spot).
#
#   launch/queued_resource.sh create   ask for the slice
#   launch/queued_resource.sh wait     wait until it is there (fails where it cannot be)
#   launch/queued_resource.sh run      create and set up what is missing, run, again while that helps; then delete
#   launch/queued_resource.sh delete   delete slice and request, which ends the costs; the bucket stays
#
#   --dry-run prints the commands (of `run`: of one attempt), --help this.
#
# MER_JAX_PROJECT, MER_JAX_ZONE, MER_JAX_TPU_NAME, MER_JAX_TPU_TYPE, MER_JAX_TPU_VERSION, MER_JAX_CAPACITY,
# MER_JAX_BUCKET, MER_JAX_CONFIG, MER_JAX_WORKDIR, MER_JAX_FLAGS, MER_JAX_DATA
#                  as in tpu_vm.sh, which sets up and runs
# MER_JAX_RETRIES  attempts of `run` (20)
# MER_JAX_KEEP     1 keeps the slice after `run` (it goes on costing)
# MER_JAX_POLL     seconds between two looks at the request (30)
#
# `run` tries again after every exit code but 0 (done), 2 (a mistake) and 3 (a number became infinite): 75 means saved
# and stopped, anything else a lost worker. MER_JAX_WORKDIR stays the same, so that every attempt continues the run.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

queued() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$MER_JAX_TPU_NAME" "$@" \
    --project "$MER_JAX_PROJECT" --zone "$MER_JAX_ZONE"
}

create() {
  need MER_JAX_TPU_TYPE "accelerator type, e.g. v5litepod-16"
  need MER_JAX_TPU_VERSION "software version of the VMs, e.g. v2-alpha-tpuv5-lite"
  local capacity=()
  case ${MER_JAX_CAPACITY:-on-demand} in
    on-demand) ;;
    spot) capacity=(--spot) ;;
    reserved) capacity=(--reserved) ;;
    *) die "MER_JAX_CAPACITY is $MER_JAX_CAPACITY; expected on-demand, spot or reserved" ;;
  esac
  queued create --node-id "$MER_JAX_TPU_NAME" --accelerator-type "$MER_JAX_TPU_TYPE" \
    --runtime-version "$MER_JAX_TPU_VERSION" --scopes storage-rw,logging-write,monitoring-write \
    --labels project=mer_jax ${capacity[@]+"${capacity[@]}"}
}

# Prints the state of the request; NONE where there is none, UNKNOWN where nobody can say.
state() {
  local found
  if found=$(queued describe --format "value(state.state)" 2>&1); then
    echo "${found:-UNKNOWN}"
  elif [[ $found == *NOT_FOUND* || $found == *"not found"* ]]; then
    echo NONE
  else
    echo "$found" >&2
    echo UNKNOWN
  fi
}

await() {
  if [ -n "$dry" ]; then
    queued describe --format "value(state.state)"
    return
  fi
  local now last=""
  while true; do
    now=$(state)
    [ "$now" = "$last" ] || echo "$(date +%T) $MER_JAX_TPU_NAME: $now" >&2
    last=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING | NONE) return 1 ;;
      *) sleep "${MER_JAX_POLL:-30}" ;;
    esac
  done
}

delete() {
  queued delete --force --quiet
}

vm() {
  run bash "$here/tpu_vm.sh" "$1"
}

# One attempt: makes what is missing, then runs; ends with the run's exit code, or that of what failed before.
attempt() {
  local now code=0 new=""
  now=$(state)
  case $now in
    NONE) new=1 ;;
    FAILED | SUSPENDED | SUSPENDING) # a request that lost its slice cannot get it back: it is made anew
      delete || return 1
      new=1
      ;;
    *) ;; # it is there, or waits for its turn
  esac
  [ -z "$new" ] || create || return 1
  [ "$now" = ACTIVE ] || await || return 1
  [ -z "$new" ] || vm setup || return $?
  vm run || code=$?
  if [ "$code" -eq 127 ]; then # not set up yet, or in part only, or without its mount after a reboot
    code=0
    vm setup || return $?
    vm run || code=$?
  fi
  return "$code"
}

run_until_done() {
  need_run
  bash "$here/tpu_vm.sh" check ${dry:+--dry-run} # what setup and run need, before anything costs
  if [ -n "$dry" ]; then
    create
    await
    vm setup
    vm run
    [ -n "${MER_JAX_KEEP:-}" ] || delete
    return
  fi
  local code=1 retries=${MER_JAX_RETRIES:-20} number
  for ((number = 1; number <= retries; number++)); do
    code=0
    attempt || code=$?
    if is_final "$code"; then break; fi
    echo "attempt $number of $retries ended with $code; once more" >&2
    sleep "${MER_JAX_POLL:-30}"
  done
  if [ -n "${MER_JAX_KEEP:-}" ]; then
    echo "$MER_JAX_TPU_NAME is kept and costs until: launch/queued_resource.sh delete" >&2
  else
    delete || echo "$MER_JAX_TPU_NAME could not be deleted and may go on costing: delete it by hand" >&2
  fi
  return "$code"
}

verb=""
for word in "$@"; do
  case $word in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 ;;
    create | wait | run | delete)
      [ -z "$verb" ] || die "found $verb and $word; expected one of them"
      verb=$word
      ;;
    *) die "found $word; expected create, wait, run or delete, see --help" ;;
  esac
done
[ -n "$verb" ] || die "expected create, wait, run or delete, see --help"
need MER_JAX_PROJECT "Google Cloud project"
need MER_JAX_ZONE "zone, e.g. us-west4-a"
need MER_JAX_TPU_NAME "name of the slice and of the request"
case $verb in
  wait) await ;;
  run) run_until_done ;;
  *) "$verb" ;;
esac
