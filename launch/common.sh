#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, not run. Sets `here`, `root`, `dry` and the functions below.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
dry=""

# Prints the comment at the top of the calling script.
usage() {
  awk 'NR == 1 || /^#SBATCH/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
}

# Ends with one message and the exit code of a user's mistake.
die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# need NAME MEANING: the environment must hold NAME.
need() {
  [ -n "${!1:-}" ] || die "$1 is not set ($2); export $1=..., see launch/README.md"
}

# need_run: what every run needs.
need_run() {
  need MER_JAX_CONFIG "config file, e.g. configs/ma2mi.py:paper"
  need MER_JAX_WORKDIR "folder of the run that every process sees; the same one again continues the run"
}

# need_shared MOUNT WHO: the folder of the run must be one that they all see.
need_shared() {
  [[ $MER_JAX_WORKDIR == "$1"/* || $MER_JAX_WORKDIR == gs://* ]] || die "MER_JAX_WORKDIR is $MER_JAX_WORKDIR; \
expected a folder below $1, which every $2 sees, or gs://..."
}

# run COMMAND...: runs it; with --dry-run prints it, quoted so that it can be pasted.
run() {
  if [ -z "$dry" ]; then
    "$@"
    return
  fi
  [ "$1" != exec ] || shift
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}

# The commit that is launched; "-dirty" where the working tree differs from it.
commit() {
  git -C "$root" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown
}

# is_final CODE: whether running again would not help (done, a user's mistake, a number became infinite).
is_final() {
  [ "$1" -eq 0 ] || [ "$1" -eq 2 ] || [ "$1" -eq 3 ]
}
