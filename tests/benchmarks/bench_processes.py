"""How far a run in two processes of four devices comes from the same run in one process of eight.

    python -m tests.benchmarks.bench_processes [--config configs/ma2mi.py:tiny] [--seeds 0,1,2,3,4] [--json FILE]

The whole job runs (pre-training, all folds, report), by launch/local_multiprocess.sh on forced CPU devices, twice:
  sgd    20 steps of pre-training, about 20 of every fold; printed for each of them: the largest difference of a leaf,
         as a share of the largest entry of that leaf, and how many leaves are within 1e-4. A device computes with one
         thread here: else sums are cut by the cores that a process finds, which rounds otherwise in each layout, and
         where a ReLU or a maximum falls the other way for it a fold goes its own way
  adamw  the config as it is. AdamW turns rounding into differences of the size of its steps, so what must agree are
         distributions: of the losses and scores over seeds, one row a layout; below, the distance between the layouts
         at the same seed beside that between seeds
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

WITHIN = 1e-4
LAYOUTS = {"1 x 8": (1, 8), "2 x 4": (2, 4)}
SGD = (  # plain: momentum and decay (added to the gradient) at these rates would let rounding grow
    *(f"--config.{stage}.optimizer.{field}" for stage in ("pre", "ft") for field in (
        "name=sgd", "schedule=constant", "learning_rate=0.001", "b1=0.0", "weight_decay=0.0",
    )),
    "--config.pre.optimizer.warmup_steps=0", "--config.ft.epochs=7",
)  # fmt: skip


def train(
    workdir: Path, config: str, processes: int, devices: int, flags: tuple[str, ...], threads: bool = True
) -> Path:
    """Runs the job to its end; a device computes with several threads, or one."""
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [f"--cpu_devices={devices}", f"--compilation_cache={workdir.parent / 'cache'}", *flags]
    environment = {
        **os.environ, "PATH": python, "MER_JAX_CONFIG": config, "MER_JAX_WORKDIR": str(workdir),
        "MER_JAX_PROCESSES": str(processes), "MER_JAX_FLAGS": " ".join(words),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={str(threads).lower()}".strip(),
    }  # fmt: skip
    script = ["bash", str(ROOT / "launch" / "local_multiprocess.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{workdir.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return workdir


def leaves(workdir: Path, seed: int | None) -> dict[str, np.ndarray]:
    """Every array of the pre-trained and of all folds' variables."""
    from mer_jax.training import checkpoint

    root = workdir / "checkpoints" / (f"seed_{seed}" if seed is not None else "")
    pretrained = checkpoint.finished_state(root / "pretrain")
    trees = {"pretrain": checkpoint.read_variables(pretrained)} if pretrained else {}
    for fold in sorted((root / "finetune" / "folds").iterdir()):
        trees[fold.name] = checkpoint.read_arrays(fold)
    return checkpoint.flatten(trees)


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """By stage or fold: the largest |difference| of a leaf over that leaf's largest entry, and how many are within."""
    assert ours.keys() == theirs.keys()
    found: dict[str, dict[str, Any]] = {}
    for name, x in theirs.items():
        if x.size:
            share = float(np.abs(ours[name] - x).max() / max(np.abs(x).max(), 1e-30))
            part, _, leaf = name.partition(".")
            one = found.setdefault(part, {"largest": -1.0, "leaf": "", "within": 0, "leaves": 0})
            one["leaves"] += 1
            one["within"] += share <= WITHIN
            if share > one["largest"]:
                one |= {"largest": share, "leaf": leaf}
    return found


def distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """|a - b| / |b| over all parameters together."""
    names = [k for k in ours if ".params." in k]
    apart = sum(float(np.square(ours[k] - theirs[k]).sum()) for k in names)
    return float(np.sqrt(apart / sum(float(np.square(theirs[k]).sum()) for k in names)))


def outcomes(workdir: Path, seeds: tuple[int, ...]) -> dict[str, list[float]]:
    """What a run says, by seed: last losses of both stages, and on tested people UF1 and -log p(truth)."""
    from mer_jax.evaluation.results import read_predictions

    looks = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    scores = json.loads((workdir / "metrics.json").read_text())["per_seed"]
    predictions = read_predictions(workdir / "predictions.csv")
    found: dict[str, list[float]] = {"pre-training loss": [], "fine-tuning loss": [], "-log p": [], "UF1": []}
    for seed in seeds:
        for stage, name in (("pretrain", "pre-training loss"), ("finetune", "fine-tuning loss")):
            own = [look for look in looks if look["stage"] == stage and look["seed"] == seed]
            last = max((look["step"] for look in own), default=0)
            found[name].append(float(np.mean([look["loss"] for look in own if look["step"] == last] or [np.nan])))
        mine = predictions.seed == seed
        truth = predictions.probability[mine][np.arange(mine.sum()), predictions.truth[mine]]
        found["-log p"].append(float(-np.log(np.maximum(truth, 1e-12)).mean()))
        found["UF1"].append(float(scores[str(seed)]["uf1"]))
    return found


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/ma2mi.py:tiny")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the runs with AdamW")
    parser.add_argument("--json", default="", help="file that keeps everything")
    options = parser.parse_args()
    seeds = tuple(int(word) for word in options.seeds.split(","))
    facts: dict[str, Any] = {"config": options.config, "seeds": seeds}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)

        def both(name: str, *flags: str, threads: bool = True) -> list[Path]:
            return [
                train(place / f"{name}-{processes}x{devices}", options.config, processes, devices, flags, threads)
                for processes, devices in LAYOUTS.values()
            ]

        one, two = (leaves(workdir, None) for workdir in both("sgd", *SGD, threads=False))
        facts["sgd"] = differences(two, one)
        for part, said in facts["sgd"].items():
            print(
                f"sgd, {part}: largest difference {said['largest']:.1e} ({said['leaf']}), {said['within']} of "
                f"{said['leaves']} leaves within {WITHIN:.0e}",
                flush=True,
            )

        runs = both("adamw", f"--config.seeds={seeds}".replace(" ", ""))
        facts["adamw"] = {layout: outcomes(run, seeds) for layout, run in zip(LAYOUTS, runs, strict=True)}
        for layout, found in facts["adamw"].items():
            print(f"adamw {layout}: " + "  ".join(f"{name} {spread(values)}" for name, values in found.items()))
        one, two = ({seed: leaves(run, seed) for seed in seeds} for run in runs)
        same = [distance(two[seed], one[seed]) for seed in seeds]
        other = [distance(one[a], one[b]) for a, b in itertools.combinations(seeds, 2)]
        facts["distance"] = {"layouts, same seed": same, "seeds, same layout": other}
        print(f"distance of all parameters: layouts {spread(same)}, seeds {spread(other)}")
        gaps = {
            name: [b - a for a, b in zip(*(facts["adamw"][layout][name] for layout in LAYOUTS), strict=True)]
            for name in facts["adamw"]["1 x 8"]
        }
        print("adamw, 2 x 4 minus 1 x 8: " + "  ".join(f"{name} {spread(values)}" for name, values in gaps.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
