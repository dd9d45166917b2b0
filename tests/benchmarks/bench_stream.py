"""Streams a macro set of DFEW's size: `python -m tests.benchmarks.bench_stream [--clips 16000] [--threads 0,2]`.

Builds that many short clips into a temporary folder (or takes those of `--folder`), reads one epoch of pairs from it
for each number of threads, and prints pairs a second and the memory of the process at each quarter of the epoch: it
stays flat. The batches are the same for all: their digests are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.machine import resident_mib


def epoch(folder: Path, threads: int, batch: int, size: int, cache_mb: float) -> dict[str, Any]:
    """One epoch of pairs: pairs a second, MiB of the process before and at each quarter, digest of the batches."""
    from mer_jax.data.pairs import PairSettings
    from mer_jax.data.source import open_dataset
    from mer_jax.data.stream import PairStream

    source = open_dataset("many_clips", folder)
    settings = PairSettings(threads=threads, cache_mb=cache_mb)
    stream = PairStream(source, np.arange(len(source)), settings, 0, batch, size=size)
    steps = -(-len(source) // batch)
    stream(0)  # opens the files
    memory, digest = [resident_mib()], hashlib.sha256()
    begin = time.perf_counter()
    with stream.iterate(0, steps) as batches:
        for step, made in enumerate(batches, start=1):
            digest.update(made["first"].tobytes() + made["second"].tobytes() + made["example"].tobytes())
            if step * 4 // steps > (step - 1) * 4 // steps:
                memory.append(resident_mib())
    seconds = time.perf_counter() - begin
    return {
        "clips": len(source), "threads": threads, "batch": batch, "size": size, "cache_mib": cache_mb,
        "pairs_per_second": round(steps * batch / seconds, 1), "resident_mib": memory,
        "gave_up": stream.counters["gave_up"], "digest": digest.hexdigest()[:16],
    }  # fmt: skip


def build(folder: Path, clips: int) -> None:
    """Builds the clips in a process of its own: this one must not hold TensorFlow."""
    command = [sys.executable, "-m", "tests.benchmarks.many_clips", str(folder), str(clips)]
    subprocess.run(
        command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16000)
    parser.add_argument("--threads", default="0,2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=48, help="pixels of the delivered frames")
    parser.add_argument("--cache_mb", type=float, default=32.0, help="memory for decoded frames; the default is 512")
    parser.add_argument("--folder", default="", help="where the clips are, or are built and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "many_clips").is_dir():
            begin = time.perf_counter()
            build(folder, options.clips)
            print(f"built {options.clips} clips in {time.perf_counter() - begin:.0f} s", flush=True)
        print("threads  pairs/s  MiB before, and at each quarter of the epoch   digest of all batches")
        for threads in options.threads.split(","):
            found = epoch(folder, int(threads), options.batch, options.size, options.cache_mb)
            memory = " ".join(f"{m:8.0f}" for m in found["resident_mib"])
            print(f"{threads:>7} {found['pairs_per_second']:>8} {memory}   {found['digest']}", flush=True)


if __name__ == "__main__":
    main()
