#!/usr/bin/env bash
# A run on TPU slices of Google Kubernetes Engine: fills in gke_jobset.yaml and hands it to kubectl.
#
#   launch/gke.sh apply    start the run, or continue it after `delete`
#   launch/gke.sh logs     follow the log of process 0
#   launch/gke.sh delete   stop the run and free the slices; the bucket stays, and so do node pools of a fixed size
#
#   --dry-run prints the command and, for `apply`, the manifest; --help this.
#
# MER_JAX_JOB              name of the JobSet; every run has its own
# MER_JAX_IMAGE            training image, built from launch/Dockerfile and pushed
# MER_JAX_BUCKET           bucket that every pod mounts at /mnt/mer_jax
# MER_JAX_SERVICE_ACCOUNT  Kubernetes service account that may write it (default)
# MER_JAX_CONFIG           config file
# MER_JAX_WORKDIR          folder of the run below /mnt/mer_jax, or a URL (gs://...); the same one again continues it
# MER_JAX_FLAGS            more flags of mer_jax.main (optional)
# MER_JAX_TPU_ACCELERATOR  node label (tpu-v5-lite-podslice)
# MER_JAX_TPU_TOPOLOGY     of one slice (4x4)
# MER_JAX_HOSTS            hosts of a slice (4); MER_JAX_CHIPS: chips of a host (4)
# MER_JAX_SLICES           slices (1)
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Prints the manifest with every ${NAME} filled in.
manifest() {
  local text name
  text=$(cat "$here/gke_jobset.yaml")
  for name in MER_JAX_{JOB,IMAGE,BUCKET,SERVICE_ACCOUNT,CONFIG,WORKDIR,FLAGS,SLICES,HOSTS,CHIPS} \
    MER_JAX_TPU_{ACCELERATOR,TOPOLOGY}; do
    [[ ${!name:-} != *[\"\\]* ]] || die "$name holds a quotation mark or backslash, which the manifest cannot"
    text=${text//"\${$name}"/"${!name:-}"}
  done
  printf '%s\n' "$text"
}

apply() {
  need MER_JAX_IMAGE "training image, built from launch/Dockerfile and pushed"
  need MER_JAX_BUCKET "bucket that every pod mounts at /mnt/mer_jax"
  need_run
  need_shared /mnt/mer_jax pod
  : "${MER_JAX_SERVICE_ACCOUNT:=default}" "${MER_JAX_TPU_ACCELERATOR:=tpu-v5-lite-podslice}"
  : "${MER_JAX_TPU_TOPOLOGY:=4x4}" "${MER_JAX_HOSTS:=4}" "${MER_JAX_CHIPS:=4}" "${MER_JAX_SLICES:=1}"
  local name
  for name in MER_JAX_{HOSTS,CHIPS,SLICES}; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name is ${!name}; expected a whole number above 0"
  done
  local filled
  filled=$(manifest)
  run kubectl apply -f - <<<"$filled"
  [ -z "$dry" ] || printf '%s\n' "$filled"
}

logs() {
  run kubectl logs --follow --tail 100 \
    --selector "jobset.sigs.k8s.io/jobset-name=$MER_JAX_JOB,batch.kubernetes.io/job-completion-index=0"
}

delete() {
  run kubectl delete jobset "$MER_JAX_JOB"
}

verb=""
for word in "$@"; do
  case $word in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 ;;
    apply | logs | delete)
      [ -z "$verb" ] || die "found $verb and $word; expected one of them"
      verb=$word
      ;;
    *) die "found $word; expected apply, logs or delete, see --help" ;;
  esac
done
[ -n "$verb" ] || die "expected apply, logs or delete, see --help"
need MER_JAX_JOB "name of the JobSet"
"$verb"
