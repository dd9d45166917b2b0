"""Streams a macro set of DFEW's size: `python -m tests.benchmarks.bench_stream [--clips 16000] [--threads 0,2,4]`.

Builds that many short clips as ArrayRecord into a temporary folder (or takes those of `--folder`), reads one epoch of
pairs from it, and prints pairs a second and the memory of the process before and at each eighth of the epoch: it stays
flat. Every number of threads, and every number of processes that share the batches, reads in processes of its own. The
digest is over all pairs of the epoch by their number: the same for all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.machine import resident_mib

ROOT = Path(__file__).parents[2]
LOOKS = 8


def epoch(
    folder: str, threads: int, process: int, processes: int, batch: int, size: int, cache_mb: float, digests: str
) -> dict[str, Any]:
    """One epoch of a process's pairs; their digests go to a file, one row an example: number, hash."""
    from mer_jax.data.pairs import PairSettings
    from mer_jax.data.source import open_dataset
    from mer_jax.data.stream import PairStream

    source = open_dataset("many_clips", folder)
    settings = PairSettings(threads=threads, cache_mb=cache_mb)
    stream = PairStream(source, np.arange(len(source)), settings, 0, batch, process, processes, size=size)
    steps = -(-len(source) // batch)
    stream(0)  # opens the files
    memory, seen = [resident_mib()], []
    begin = time.perf_counter()
    with stream.iterate(0, steps) as batches:
        for step, made in enumerate(batches, start=1):
            for number, first, second in zip(made["example"], made["first"], made["second"], strict=True):
                hashed = hashlib.blake2b(first.tobytes() + second.tobytes(), digest_size=8).digest()
                seen.append((int(number), int.from_bytes(hashed, "little")))
            if step * LOOKS // steps > (step - 1) * LOOKS // steps:
                memory.append(resident_mib())
    seconds = time.perf_counter() - begin
    np.save(digests, np.array(seen, np.uint64))
    return {
        "clips": len(source), "threads": threads, "process": process, "processes": processes, "batch": batch,
        "size": size, "cache_mib": cache_mb, "pairs_per_second": round(len(seen) / seconds, 1),
        "resident_mib": [round(m, 1) for m in memory], "gave_up": stream.counters["gave_up"],
    }  # fmt: skip


def together(folder: Path, threads: int, processes: int, options: argparse.Namespace) -> tuple[list[Any], str]:
    """One epoch by `processes` processes at once: what each says, and the digest of all pairs by their number."""
    with tempfile.TemporaryDirectory() as place:
        started = []
        for process in range(processes):
            asked = {
                "folder": str(folder), "threads": threads, "process": process, "processes": processes,
                "batch": options.batch, "size": options.size, "cache_mb": options.cache_mb,
                "digests": f"{place}/{process}.npy",
            }  # fmt: skip
            command = [sys.executable, "-m", "tests.benchmarks.bench_stream", "--part", json.dumps(asked)]
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        said = [json.loads(child.communicate()[0].splitlines()[-1]) for child in started]
        pairs = np.concatenate([np.load(f"{place}/{process}.npy") for process in range(processes)])
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    assert np.array_equal(ordered[:, 0], np.arange(len(ordered)))  # each pair once, by one process
    return said, hashlib.sha256(ordered.tobytes()).hexdigest()[:16]


def build(folder: Path, clips: int) -> None:
    """Builds the clips in a process of its own: this one must not hold TensorFlow."""
    command = [sys.executable, "-m", "tests.benchmarks.many_clips", str(folder), str(clips)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16000)
    parser.add_argument("--threads", default="0,2,4")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=48, help="pixels of the delivered frames")
    parser.add_argument("--cache_mb", type=float, default=32.0, help="memory for decoded frames; the default is 512")
    parser.add_argument("--folder", default="", help="where the clips are, or are built and kept")
    parser.add_argument("--json", default="", help="file that keeps everything")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(epoch(**json.loads(options.part))), flush=True)
        return
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "many_clips").is_dir():
            begin = time.perf_counter()
            build(folder, options.clips)
            print(f"built {options.clips} clips in {time.perf_counter() - begin:.0f} s", flush=True)
        print("processes  threads  pairs/s  MiB before, and at each eighth of the epoch   digest of all pairs")
        for processes in map(int, options.processes.split(",")):
            for threads in map(int, options.threads.split(",")):
                said, digest = together(folder, threads, processes, options)
                for one in said:
                    memory = " ".join(f"{m:5.0f}" for m in one["resident_mib"])
                    name = f"{one['process'] + 1} of {processes}"
                    print(f"{name:>9} {threads:>8} {one['pairs_per_second']:>8} {memory}   {digest}", flush=True)
                found += [{**one, "digest": digest} for one in said]
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
