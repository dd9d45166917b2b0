"""Where the time goes on this machine: `python -m tests.benchmarks [--systems ...] [--parts ...] [--size tiny]`.

Parts, each measurement in a process of its own:
  step      a training step of every stage of every system on one device: time, clips a second, FLOP/s as the compiler
            counts them, also as a share of the best matrix product of the same machine and type, memory, the share of
            the time that it waits for its data, seconds to compile with an empty and a filled cache
  protocol  all folds over 1, 2, 4 and 8 devices (on CPU; else the devices there are) against folds times one fold
  pipeline  pairs a second of the input pipeline alone, by threads

Everything is printed, and kept in --json (benchmarks.json) with a description of the machine. Data are noise: nothing
has to be built. More on single parts: bench_engine (fold modes), bench_stream (16,000 clips from disk), bench_mol,
bench_akmnet, bench_atnet, bench_ststnet, bench_tvl1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SYSTEMS = ("ststnet", "atnet", "akmnet", "fdp", "ma2mi", "mol")  # the cheap ones first
PRETRAINED = ("akmnet", "atnet", "ma2mi")
TYPES = {"fp32": "float32", "bf16": "bfloat16"}


def measure(part: str, devices: int = 0, **options: Any) -> dict[str, Any]:
    """Runs one part of `tests.benchmarks.measure`; {"failed": ...} where it ends with an error."""
    environment = dict(os.environ)
    if devices:
        forced = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = forced.strip()
    command = [sys.executable, "-m", "tests.benchmarks.measure", part, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Suite:
    """Runs the chosen parts, prints them, and keeps what they found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.found: dict[str, Any] = {"machine": measure("machine"), "size": options.size, "ceilings": {}}

    def words(self, dtype: str) -> str:
        return ",".join(filter(None, (self.options.size, self.options.words, f"engine.dtype={TYPES[dtype]}")))

    def steps(self) -> Iterable[str]:
        options = self.options
        for dtype in options.dtype:
            best = self.found["ceilings"][dtype] = measure("ceiling", dtype=TYPES[dtype])
            if "failed" in best:
                yield f"matrix product, {dtype}: {best['failed']}"
                continue
            yield f"best matrix product, {dtype}: {best['flops_per_second'] / 1e9:.1f} GFLOP/s ({best['side']} square)"
        yield (
            f"{'system':<9}{'stage':<10}{'type':<6}{'batch':>6}{'ms a step':>11}{'clips/s':>10}{'GFLOP/s':>9}"
            f"{'of best':>9}{'peak MiB':>10}{'temp MiB':>10}{'waiting':>9}{'cold s':>8}{'warm s':>8}"
        )
        self.found["steps"] = []
        for system in options.systems:
            for stage in ("pretrain", "finetune") if system in PRETRAINED else ("finetune",):
                for dtype in options.dtype:
                    yield self.one_step(system, stage, dtype)

    def one_step(self, system: str, stage: str, dtype: str) -> str:
        options = self.options
        asked = {"system": system, "stage": stage, "words": self.words(dtype), "steps": options.steps}
        with tempfile.TemporaryDirectory() as cache:
            line = measure("step", devices=1, repeats=options.repeats, cache=cache, **asked)
            warm = measure("compile", devices=1, cache=cache, **asked)
        line = {"system": system, "stage": stage, "dtype": dtype, **line}
        self.found["steps"].append(line)
        name = f"{system:<9}{stage:<10}{dtype:<6}"
        if "failed" in line:
            return f"{name} {line['failed']}"
        line["compile_seconds_warm"] = warm.get("compile_seconds")
        best = self.found["ceilings"][dtype].get("flops_per_second")
        line["share_of_ceiling"] = line["flops_per_second"] / best if best else None
        share, waiting, again = (line.get(k) for k in ("share_of_ceiling", "waiting_for_data", "compile_seconds_warm"))
        return (
            f"{name}{line['batch']:>6}{line['step_ms']:>11.1f}{line['clips_per_second']:>10.1f}"
            f"{line['flops_per_second'] / 1e9:>9.1f}{known(share, '.0%'):>9}{line['peak_mib']:>10.0f}"
            f"{line['temporary_mib']:>10.1f}{known(waiting, '.1%'):>9}{line['compile_seconds']:>8.1f}"
            f"{known(again, '.1f'):>8}"
        )

    def protocol(self) -> Iterable[str]:
        options = self.options
        on_cpu = self.found["machine"].get("platform") == "cpu"
        folds, self.found["protocol"] = options.folds, []
        yield f"{'system':<9}{'devices':>8}{'folds':>7}{'seconds':>9}{f'{folds} x one fold / this':>25}"
        for system in options.systems:
            asked = {"system": system, "words": self.words(options.dtype[0]), "steps": options.steps}
            with tempfile.TemporaryDirectory() as cache:
                one = measure("protocol", devices=1, folds=folds, cache=cache, only=1, **asked)
                for devices in options.devices if on_cpu else (0,):
                    line = {"system": system, "folds": folds, "one_fold_seconds": one.get("seconds")}
                    line |= measure("protocol", devices=devices, folds=folds, cache=cache, **asked)
                    self.found["protocol"].append(line)
                    if failed := line.get("failed") or one.get("failed"):
                        yield f"{system:<9}{devices:>8} {failed}"
                        continue
                    line["ratio"] = folds * one["seconds"] / line["seconds"]
                    yield f"{system:<9}{line['devices']:>8}{folds:>7}{line['seconds']:>9.2f}{line['ratio']:>25.2f}"

    def pipeline(self) -> Iterable[str]:
        self.found["pipeline"] = []
        for threads in self.options.threads:
            words = ",".join(filter(None, (self.options.size, self.options.words)))
            line = measure("pipeline", system="ma2mi", words=words, threads=threads, steps=4 * self.options.steps)
            self.found["pipeline"].append(line)
            rate = line.get("failed") or f"{line['pairs_per_second']:.0f} pairs/s of {line['size']} pixels"
            yield f"pipeline, {threads} threads: {rate}"


def known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def arguments() -> argparse.Namespace:
    def words(known: Iterable[str]) -> Any:
        def parse(text: str) -> tuple[str, ...]:
            chosen = tuple(text.split(","))
            if unknown := [word for word in chosen if word not in known]:
                raise argparse.ArgumentTypeError(f"found {unknown[0]!r}; expected some of {', '.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=words(SYSTEMS), default=SYSTEMS, help=",".join(SYSTEMS))
    parts = ("step", "protocol", "pipeline")
    parser.add_argument("--parts", type=words(parts), default=parts, help=",".join(parts))
    parser.add_argument("--dtype", type=words(TYPES), default=("fp32",), help=",".join(TYPES))
    parser.add_argument("--size", default="", help="word of the configs: tiny, paper, or the default size")
    parser.add_argument("--words", default="", help="further words, e.g. ft.batch=64")
    parser.add_argument("--steps", type=int, default=5, help="steps timed at once")
    parser.add_argument("--repeats", type=int, default=3, help="how often; the median counts")
    parser.add_argument("--folds", type=int, default=8, help="folds of `protocol`")
    parser.add_argument("--devices", type=numbers, default=(1, 2, 4, 8), help="devices of `protocol` on CPU")
    parser.add_argument("--threads", type=numbers, default=(0, 1, 2), help="threads of `pipeline`")
    parser.add_argument("--json", default="benchmarks.json", help="file that keeps everything")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    suite = Suite(options)
    print("  ".join(f"{k} {v}" for k, v in suite.found["machine"].items()), flush=True)
    for part in options.parts:
        for line in {"step": suite.steps, "protocol": suite.protocol, "pipeline": suite.pipeline}[part]():
            print(line, flush=True)
        # after each part: what is measured is kept, whatever comes next
        Path(options.json).write_text(json.dumps(suite.found, indent=1) + "\n")
    measured = [line for lines in suite.found.values() if isinstance(lines, list) for line in lines]
    if any("failed" in line for line in [*measured, *suite.found["ceilings"].values()]):
        sys.exit("some measurements failed; the reasons are above")


if __name__ == "__main__":
    main()
