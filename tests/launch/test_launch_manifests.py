"""Files of launch/ that other programs read, against the fields that their documentation allows and requires."""

import re

import pytest
import yaml

from tests.launch.launching import LAUNCH, MAIN, NAMES, ROOT, launch

# A small schema language: a dict lists the allowed keys, "!" marks required ones; a list holds one kind of item;
# a type or a set of values ends it.
ANY = object()
CONTAINER = {
    "name!": str, "image!": str, "command": [str], "args": [str], "ports": ANY,
    "env": [{"name!": str, "value": str, "valueFrom": ANY}],
    "resources": {"limits": dict, "requests": dict}, "volumeMounts": [{"name!": str, "mountPath!": str}],
}  # fmt: skip
POD = {
    "restartPolicy": {"Never", "OnFailure"}, "terminationGracePeriodSeconds": int, "serviceAccountName": str,
    "nodeSelector": dict, "containers!": [CONTAINER], "hostNetwork": bool, "dnsPolicy": str,
    "volumes": [{"name!": str, "csi": {"driver!": str, "volumeAttributes": dict}}],
}  # fmt: skip
JOB = {
    "parallelism": int, "completions": int, "completionMode": {"Indexed", "NonIndexed"}, "backoffLimit": int,
    "podFailurePolicy": {"rules!": [{
        "action!": {"FailJob", "Ignore", "Count", "FailIndex"},
        "onExitCodes": {"containerName": str, "operator!": {"In", "NotIn"}, "values!": [int]},
        "onPodConditions": ANY,
    }]},
    "template!": {"metadata": {"annotations": dict, "labels": dict}, "spec!": POD},
}  # fmt: skip
JOBSET = {  # jobset.x-k8s.io/v1alpha2, api/jobset/v1alpha2/jobset_types.go; the Job and Pod parts: batch/v1, v1
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": {"name!": str, "labels": dict, "annotations": dict, "namespace": str},
    "spec!": {
        "replicatedJobs!": [{"name!": str, "replicas": int, "template!": {"metadata": ANY, "spec!": JOB}}],
        "failurePolicy": {
            "maxRestarts": int, "restartStrategy": {"Recreate", "BlockingRecreate"},
            "rules": [{
                "name": str, "targetReplicatedJobs": [str], "onJobFailureReasons": [
                    {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
                     "PodFailurePolicy"}],
                "action!": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
            }],
        },
        "successPolicy": ANY, "network": ANY, "coordinator": ANY, "suspend": bool, "ttlSecondsAfterFinished": int,
    },
}  # fmt: skip
SKYPILOT = {  # docs.skypilot.co, reference "SkyPilot YAML"
    "name": str, "workdir": str, "num_nodes": int,
    "resources": {
        "infra": str, "accelerators": str, "accelerator_args": {"runtime_version": str, "tpu_name": str}, "cpus": ANY,
        "memory": ANY, "instance_type": str, "use_spot": bool, "disk_size": int, "image_id": str, "autostop": ANY,
        "any_of": ANY, "labels": dict,
        "job_recovery": {
            "strategy": {"FAILOVER", "EAGER_NEXT_REGION"}, "max_restarts_on_errors": int,
            "recover_on_exit_codes": [int],
        },
    },
    "envs": dict, "secrets": dict, "file_mounts": dict, "setup": str, "run": str, "config": ANY,
}  # fmt: skip


def problems(value, schema, where=""):
    """What is wrong with a value, as messages that name the place."""
    if schema is ANY:
        return []
    if isinstance(schema, set):
        return [] if value in schema else [f"{where}: {value!r} is not one of {sorted(schema)}"]
    if isinstance(schema, type):
        fits = isinstance(value, schema) and not (schema is int and isinstance(value, bool))
        return [] if fits else [f"{where}: {value!r} is no {schema.__name__}"]
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{where}: expected a list"]
        return [p for i, item in enumerate(value) for p in problems(item, schema[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where}: expected a mapping"]
    allowed = {key.rstrip("!"): part for key, part in schema.items()}
    found = [f"{where}.{key} is unknown" for key in value if key not in allowed]
    found += [f"{where}.{key[:-1]} is missing" for key in schema if key.endswith("!") and key[:-1] not in value]
    return found + [p for k, v in value.items() if k in allowed for p in problems(v, allowed[k], f"{where}.{k}")]


@pytest.fixture(scope="module")
def jobset():
    names = {**NAMES, "MER_JAX_FLAGS": "--config.seeds=(0,1)", "MER_JAX_SLICES": "2"}
    done = launch("gke.sh", "apply", "--dry-run", **names)
    assert done.returncode == 0, done.stderr
    first, manifest = done.stdout.split("\n", 1)
    assert first == "kubectl apply -f -"
    return yaml.safe_load(manifest)


def test_the_jobset_has_the_documented_fields(jobset):
    assert problems(jobset, JOBSET, "JobSet") == []
    assert problems({**jobset, "kind": "Job"}, JOBSET, "JobSet") == ["JobSet.kind: 'Job' is not one of ['JobSet']"]


def test_the_jobset_restarts_what_helps_and_fails_on_mistakes(jobset):
    spec = jobset["spec"]
    (slice_,) = spec["replicatedJobs"]
    job = slice_["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (failing,) = spec["failurePolicy"]["rules"]
    assert (failing["action"], failing["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert (job["backoffLimit"], pod["restartPolicy"], job["completionMode"]) == (0, "Never", "Indexed")
    assert job["parallelism"] == job["completions"] == 4
    assert slice_["replicas"] == 2
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]


def test_the_jobset_runs_the_main_line_with_the_names_given(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [f"exec {MAIN}"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["MER_JAX_CONFIG"] == NAMES["MER_JAX_CONFIG"]
    assert values["MER_JAX_FLAGS"] == "--config.seeds=(0,1)"
    assert values["MER_JAX_WORKDIR"].startswith(container["volumeMounts"][0]["mountPath"])
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == NAMES["MER_JAX_BUCKET"]
    # nothing is left to fill in but the variables of the shell inside
    assert set(re.findall(r"\$\{(\w+)", yaml.safe_dump(jobset))) == {"MER_JAX_FLAGS"}


@pytest.mark.parametrize(("name", "value"), [("MER_JAX_FLAGS", 'a"b'), ("MER_JAX_HOSTS", "four")])
def test_what_a_manifest_cannot_hold_is_refused(name, value):
    done = launch("gke.sh", "apply", "--dry-run", **{**NAMES, name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert name in done.stderr


def test_the_template_itself_is_yaml():
    assert yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["kind"] == "JobSet"


def test_the_skypilot_task_has_the_documented_fields():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert problems(task, SKYPILOT, "task") == []
    assert problems({**task, "resource": {}}, SKYPILOT, "task") == ["task.resource is unknown"]
    assert MAIN in task["run"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 134, 137]
    assert "max_restarts_on_errors" not in task["resources"]["job_recovery"]  # it would repeat mistakes, too
    given = {name for name, value in task["envs"].items() if value is None}  # sky asks for these
    assert given == {"MER_JAX_CONFIG", "MER_JAX_WORKDIR", "MER_JAX_BUCKET", "MER_JAX_COMMIT"}
    (mount,) = task["file_mounts"].values()
    assert mount == {"source": "gs://${MER_JAX_BUCKET}", "mode": "MOUNT"}


def stages(text):
    """Dockerfile -> {stage: (base, [(instruction, rest)])}; continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(s for s in text.splitlines() if not s.lstrip().startswith("#")))
    found, current = {}, None
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, current = rest.split()
            found[current] = (base, [])
        else:
            found[current][1].append((instruction, rest))
    return found


def test_the_training_image_holds_no_tensorflow():
    found = stages((LAUNCH / "Dockerfile").read_text())
    assert list(found) == ["base", "data", "train"]  # the last one is built where no target is named
    assert [found[stage][0] for stage in ("data", "train")] == ["base", "base"]
    for stage in ("base", "train"):
        installs = " ".join(rest for word, rest in found[stage][1] if word == "RUN")
        assert "[data]" not in installs
        assert not re.search(r"pip install[^&]*tensorflow", installs)
    assert any("pip install" in rest and "[data]" in rest for word, rest in found["data"][1] if word == "RUN")
    assert any("find_spec('tensorflow')" in rest for word, rest in found["train"][1] if word == "RUN")
    assert found["train"][1][-1] == ("CMD", f"exec {MAIN}")
    assert ("ENV", "MER_JAX_COMMIT=${COMMIT}") in found["train"][1]
    known = {"ENV", "WORKDIR", "COPY", "RUN", "ARG", "CMD"}
    assert {word for _, lines in found.values() for word, _ in lines} <= known


def test_what_the_images_copy_is_there_and_not_ignored():
    copied = set()
    for _, lines in stages((LAUNCH / "Dockerfile").read_text()).values():
        for word, rest in lines:
            if word == "COPY":
                copied |= set(rest.split()[:-1])
    allowed = {line[1:] for line in (LAUNCH / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
