"""The benchmark suite measures every part of the smallest system, keeps it, and fails where a measurement fails."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def suite(*words):
    command = [sys.executable, "-m", "tests.benchmarks", "--size", "tiny", "--systems", "ststnet", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_part_is_measured_printed_and_kept(tmp_path):
    few = ("--steps", "1", "--repeats", "1", "--folds", "4", "--devices", "2", "--threads", "0")
    done = suite(*few, "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"cores", "memory_gib", "processor", "jax"} <= set(found["machine"])
    assert found["ceilings"]["fp32"]["flops_per_second"] > 0
    (step,) = found["steps"]
    assert 0 < step["share_of_ceiling"] < 1
    assert min(step[name] for name in ("step_ms", "clips_per_second", "peak_mib", "compile_seconds")) > 0
    assert step["compile_seconds_warm"] > 0
    (line,) = found["protocol"]
    assert (line["devices"], line["folds"]) == (2, 4)
    assert line["ratio"] == 4 * line["one_fold_seconds"] / line["seconds"]
    assert found["pipeline"][0]["pairs_per_second"] > 0
    assert "ststnet  finetune" in done.stdout


def test_a_measurement_that_fails_is_told_and_ends_with_1(tmp_path):
    done = suite("--parts", "protocol", "--devices", "1", "--words", "nothing", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 1
    assert "nothing" in done.stdout
    assert "some measurements failed" in done.stderr
    assert "failed" in json.loads((tmp_path / "found.json").read_text())["protocol"][0]
