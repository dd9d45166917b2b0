"""Scripts of launch/: what they print, refuse, call, and how they go on after each exit code."""

import re
import subprocess
import time

import pytest

from tests.launch.launching import (
    LAUNCH,
    MAIN,
    NAMES,
    ROOT,
    SCRIPTS,
    VERBS,
    calls,
    environment,
    first_in_path,
    launch,
    stand_in,
    verbs_in_help,
)

EVERY_VERB = [(script, verb) for script, verbs in VERBS.items() for verb in verbs]


def test_no_script_is_missing_here():
    assert {p.name for p in LAUNCH.glob("*.sh")} | {"slurm.sbatch"} == {*SCRIPTS, "common.sh"}


def test_shellcheck_finds_nothing():
    files = [f"launch/{name}" for name in (*SCRIPTS, "common.sh")]
    found = subprocess.run(
        ["shellcheck", "--external-sources", *files], cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_executable(script):
    text = (LAUNCH / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert (LAUNCH / script).stat().st_mode & 0o111 or script == "slurm.sbatch"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_verb_and_variable(script):
    done = launch(script, "--help")
    assert done.returncode == 0, done.stderr
    assert set(verbs_in_help(done.stdout)) == set(filter(None, VERBS[script]))
    used = set(re.findall(r"\bneed (MER_JAX_\w+)", (LAUNCH / script).read_text()))
    assert {name for name in used if name not in done.stdout} == set()
    assert "--dry-run" in done.stdout
    assert "MER_JAX_CONFIG" in done.stdout or script == "queued_resource.sh"  # "the variables are those of tpu_vm.sh"


@pytest.mark.parametrize(("script", "verb"), EVERY_VERB)
def test_a_dry_run_prints_commands_and_runs_none(script, verb, tmp_path):
    for tool in ("gcloud", "kubectl", "srun", "scontrol", "sudo", "gcsfuse", "python3.11"):
        stand_in(tmp_path, tool, "exit 1")
    done = launch(script, *filter(None, [verb]), "--dry-run", **NAMES, **first_in_path(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list(tmp_path.glob("*.calls")) == []
    again = launch(script, "--dry-run", *filter(None, [verb]), **NAMES, **first_in_path(tmp_path))
    assert again.stdout == done.stdout
    first = done.stdout.split()[0]
    assert first in ("gcloud", "git", "bash", "kubectl", "srun", "sudo", "kill", "python"), done.stdout


@pytest.mark.parametrize(("script", "verb"), EVERY_VERB)
def test_a_missing_name_is_one_message(script, verb):
    needed = set(re.findall(r"\bneed (MER_JAX_\w+)", (LAUNCH / script).read_text())) | {"MER_JAX_CONFIG"}
    missed = 0
    for name in needed:
        names = {k: v for k, v in NAMES.items() if k != name}
        done = launch(script, *filter(None, [verb]), "--dry-run", **names)
        if done.returncode:
            missed += 1
            assert done.returncode == 2
            assert done.stderr.startswith(f"{script}: {name} is not set (")
            assert len(done.stderr.splitlines()) == 1
    assert missed or (script, verb) == ("worker.sh", "stop")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_word_is_refused(script):
    done = launch(script, "destroy", **NAMES)
    assert done.returncode == 2
    assert "destroy" in done.stderr


@pytest.mark.parametrize("flags", ["", "--config.seeds=(0,1) --config.stages=all"])
def test_the_main_line_is_the_same_everywhere(flags):
    ours = ["worker.sh", "local_multiprocess.sh", "slurm.sbatch", "skypilot.yaml", "gke_jobset.yaml", "Dockerfile"]
    for name in (*ours, "README.md"):
        assert MAIN in (LAUNCH / name).read_text(), name
    for path in LAUNCH.iterdir():
        assert set(re.findall(r"python -m mer_jax\.main.*?\$\{MER_JAX_FLAGS:-\}", path.read_text())) <= {MAIN}, path
    expected = f"python -m mer_jax.main --config {NAMES['MER_JAX_CONFIG']} --workdir {NAMES['MER_JAX_WORKDIR']}"
    for script, verb in (("worker.sh", "run"), ("slurm.sbatch", ""), ("local_multiprocess.sh", "")):
        out = launch(script, *filter(None, [verb]), "--dry-run", **NAMES, MER_JAX_FLAGS=flags).stdout
        quoted = " ".join(f"'{w}'" if "(" in w else w for w in flags.split())
        assert f"{expected} {quoted}".strip() in out


def test_no_secrets():
    for path in LAUNCH.iterdir():
        assert not re.search(
            r"(?i)password|api[_-]?key|secret|token|BEGIN .*PRIVATE|[a-z]+-key\.json", path.read_text()
        ), path


def test_processes_get_the_flags_of_a_pod():
    names = {**NAMES, "MER_JAX_PROCESSES": "3", "MER_JAX_PORT": "1234"}
    lines = launch("local_multiprocess.sh", "--dry-run", **names).stdout.splitlines()
    for number, line in enumerate(lines):
        assert line.endswith(f"--coordinator localhost:1234 --processes 3 --process {number}")
    assert len(lines) == 3
    bad = launch("local_multiprocess.sh", "--dry-run", **{**NAMES, "MER_JAX_PROCESSES": "two"})
    assert (bad.returncode, "two" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((75, 75), 75), ((75, 137), 75), ((137, 75), 75), ((134, 2), 2), ((2, 134), 2), ((0, 75), 75),
     ((75, 1), 1), ((75, 3), 3), ((0, 134), 134)],
)  # fmt: skip
def test_local_processes_end_with_the_code_that_says_most(codes, expected, tmp_path):
    body = f'case "$*" in *"--process 0") exit {codes[0]} ;; *"--process 1") exit {codes[1]} ;; *) echo 29500 ;; esac'
    stand_in(tmp_path, "python", body)
    names = {**NAMES, "MER_JAX_WORKDIR": str(tmp_path / "run"), **first_in_path(tmp_path)}
    assert launch("local_multiprocess.sh", **names).returncode == expected


# -- Slurm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "restarts", "expected", "queued"),
    [(0, 0, 0, False), (2, 0, 2, False), (3, 0, 3, False), (75, 0, 0, True), (137, 3, 0, True), (75, 20, 75, False)],
)
def test_slurm_queues_again_what_helps(code, restarts, expected, queued, tmp_path):
    stand_in(tmp_path, "srun", f"exit {code}")
    stand_in(tmp_path, "scontrol", "")
    slurm = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts), "SLURM_SUBMIT_DIR": str(ROOT)}
    venv = {"MER_JAX_VENV": str(tmp_path)}  # its bin/ does not exist: the stand-ins come next
    done = launch("slurm.sbatch", **NAMES, **slurm, **venv, **first_in_path(tmp_path))
    assert done.returncode == expected, done.stderr
    assert calls(tmp_path, "scontrol") == (["requeue 77"] if queued else [])
    assert len(calls(tmp_path, "srun")) == 1


def test_slurm_asks_for_a_signal_before_the_end_and_may_be_queued_again():
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert re.fullmatch(r"TERM@\d+", asked["signal"])  # without B: it reaches the processes, not this script
    assert {"requeue", "time", "open-mode"} <= set(asked)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]  # jax gives each Slurm task of a node one GPU
    first_command = next(i for i, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    last_option = max(i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert last_option < first_command  # sbatch stops reading options at the first command


# -- queued resources: a stand-in for gcloud answers from a list of states and one of exit codes -----------------------

GCLOUD = """
here=$(dirname "$0")
next() { head -n 1 "$here/$1"; tail -n +2 "$here/$1" > "$here/$1.rest"; mv "$here/$1.rest" "$here/$1"; }
case "$*" in
  *"queued-resources describe"*)
    state=$(next states)
    [ "$state" != NONE ] || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
    [ "$state" != BROKEN ] || { echo "ERROR: network is unreachable" >&2; exit 1; }
    echo "$state" ;;
  *"worker.sh setup"*) [ ! -s "$here/setups" ] || exit "$(next setups)" ;;
  *"worker.sh run"*) exit "$(next codes)" ;;
esac
"""


def until_done(folder, states, codes, setups=(), commit="abc", **names):
    stand_in(folder, "gcloud", GCLOUD)
    stand_in(folder, "git", f"echo {commit}")
    (folder / "setups").write_text("".join(f"{code}\n" for code in setups))
    (folder / "states").write_text("\n".join([*states, ""]))
    (folder / "codes").write_text("\n".join([*map(str, codes), ""]))
    names = {**NAMES, "MER_JAX_POLL": "0", "MER_JAX_RETRIES": "4", **names}
    done = launch("queued_resource.sh", "run", **names, **first_in_path(folder))
    kinds = ("queued-resources create", "queued-resources delete", "worker.sh setup", "worker.sh run")
    found = [next((k.split()[-1] for k in kinds if k in call), "") for call in calls(folder, "gcloud")]
    return done, list(filter(None, found))


def test_a_queued_run_is_created_set_up_run_and_deleted(tmp_path):
    done, found = until_done(tmp_path, ["NONE", "ACCEPTED", "PROVISIONING", "ACTIVE"], [0])
    assert (done.returncode, found) == (0, ["create", "setup", "run", "delete"])


def test_a_preempted_slice_is_asked_for_again_and_the_run_goes_on_in_its_workdir(tmp_path):
    states = ["NONE", "ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE"]
    done, found = until_done(tmp_path, states, [255, 75, 0])
    expected = ["create", "setup", "run", "delete", "create", "setup", "run", "run", "delete"]
    assert (done.returncode, found) == (0, expected), done.stderr
    runs = {call for call in calls(tmp_path, "gcloud") if "worker.sh run" in call}
    assert len(runs) == 1  # the same words each time
    assert f"MER_JAX_WORKDIR={NAMES['MER_JAX_WORKDIR']}" in runs.pop()


@pytest.mark.parametrize("state", ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "BROKEN"])
def test_a_request_that_waits_keeps_its_place(state, tmp_path):
    """Also where nobody can say: it is not taken for one that is gone."""
    done, found = until_done(tmp_path, [state, state, "ACTIVE"], [127, 0])
    assert (done.returncode, found) == (0, ["run", "setup", "run", "delete"]), done.stderr


def test_a_setup_that_failed_is_done_again_before_anything_runs(tmp_path):
    done, found = until_done(tmp_path, ["NONE", "ACTIVE", "ACTIVE"], [127, 0], setups=[1, 0])
    assert (done.returncode, found) == (0, ["create", "setup", "run", "setup", "run", "delete"]), done.stderr


@pytest.mark.parametrize(
    ("names", "told"),
    [({"MER_JAX_BUCKET": ""}, "MER_JAX_BUCKET is not set"), ({"MER_JAX_WORKDIR": "/home/a"}, "expected a folder below"),
     ({"commit": "abc-dirty"}, "there are uncommitted changes")],
)  # fmt: skip
def test_what_is_missing_is_told_before_anything_is_asked_for(names, told, tmp_path):
    done, found = until_done(tmp_path, ["NONE", "ACTIVE"], [0], **names)
    assert (done.returncode, found) == (2, [])
    assert told in done.stderr


@pytest.mark.parametrize("code", [2, 3])
def test_a_mistake_is_not_tried_again_and_the_slice_is_deleted(code, tmp_path):
    done, found = until_done(tmp_path, ["ACTIVE"], [code, 0])
    assert (done.returncode, found) == (code, ["run", "delete"])


def test_attempts_are_counted(tmp_path):
    done, found = until_done(tmp_path, ["ACTIVE"] * 9, [75] * 9, MER_JAX_KEEP="1")
    assert (done.returncode, found) == (75, ["run"] * 4)


def test_a_slice_without_code_is_set_up(tmp_path):
    done, found = until_done(tmp_path, ["ACTIVE"], [127, 0])
    assert (done.returncode, found) == (0, ["run", "setup", "run", "delete"])


def test_a_request_that_cannot_be_met_fails(tmp_path):
    stand_in(tmp_path, "gcloud", GCLOUD)
    (tmp_path / "states").write_text("ACCEPTED\nFAILED\n")
    done = launch("queued_resource.sh", "wait", **NAMES, MER_JAX_POLL="0", **first_in_path(tmp_path))
    assert done.returncode == 1
    assert "FAILED" in done.stderr


# -- on a worker -------------------------------------------------------------------------------------------------------


def copied(folder):
    """The launch folder as `tpu_vm.sh setup` copies it."""
    (folder / "launch").mkdir(parents=True)
    for name in ("worker.sh", "common.sh"):
        (folder / "launch" / name).write_text((LAUNCH / name).read_text())
    (folder / "COMMIT").write_text("abc\n")
    (folder / "ready").touch()
    stand_in(folder.parent, "mountpoint", "[ -f unmounted ] && exit 1 || exit 0")
    return folder / "launch" / "worker.sh"


def test_a_worker_runs_detached_waits_and_tells_how_it_ended(tmp_path):
    worker, names = copied(tmp_path / "home"), {**NAMES, "MER_JAX_POLL": "0.05", **first_in_path(tmp_path)}
    stand_in(tmp_path, "python", 'echo "commit $MER_JAX_COMMIT" && echo "mer_jax: saved" >&2 && exit 75')
    done = launch(str(worker), "run", **names)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (75, "mer_jax: saved")
    assert calls(tmp_path, "python") == [
        f"-m mer_jax.main --config {NAMES['MER_JAX_CONFIG']} --workdir {NAMES['MER_JAX_WORKDIR']}"
    ]
    stand_in(tmp_path, "python", "exit 0")
    assert launch(str(worker), "run", **names).returncode == 0  # again: goes on, in the same log
    assert (tmp_path / "home" / "run.log").read_text().splitlines() == ["commit abc", "mer_jax: saved"]


def test_a_worker_that_is_not_set_up_or_has_lost_its_mount_runs_nothing(tmp_path):
    worker, names = copied(tmp_path / "home"), {**NAMES, "MER_JAX_POLL": "0.05", **first_in_path(tmp_path)}
    stand_in(tmp_path, "python", "exit 0")
    (tmp_path / "home" / "unmounted").touch()
    assert launch(str(worker), "run", **names).returncode == 127
    (tmp_path / "home" / "unmounted").unlink()
    (tmp_path / "home" / "ready").unlink()
    assert launch(str(worker), "run", **names).returncode == 127
    assert calls(tmp_path, "python") == []


def test_a_lost_connection_leaves_the_run_and_stop_saves_it(tmp_path):
    worker, names = copied(tmp_path / "home"), {**NAMES, "MER_JAX_POLL": "0.05", **first_in_path(tmp_path)}
    stand_in(tmp_path, "python", 'trap "exit 75" TERM; while true; do sleep 0.05; done')
    first = subprocess.Popen(["bash", str(worker), "run"], env=environment(**names), stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not calls(tmp_path, "python") and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()  # the connection is gone
    first.wait()
    second = subprocess.Popen(["bash", str(worker), "run"], env=environment(**names), stdin=subprocess.DEVNULL)
    time.sleep(0.3)
    assert second.poll() is None
    assert launch(str(worker), "stop", **names).returncode == 0
    assert second.wait(30) == 75
    assert len(calls(tmp_path, "python")) == 1  # it was waited for, not started again
    assert launch(str(worker), "stop", **names).returncode == 2
