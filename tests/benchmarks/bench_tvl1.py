"""TV-L1 flow: milliseconds a field against OpenCV's, on the same images in the same process.

    python tests/benchmarks/bench_tvl1.py [--sizes 64 128] [--batches 1 8 32] [--repeats 5]

Both are given all cores. The figures of a shared machine wander; each repeat times the two one after the other, and
the ratio printed is the median over the repeats, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import time

import cv2
import jax
import numpy as np

from mer_jax.data.tvl1 import DEFAULTS, tvl1_flow


def images(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Textured pairs uint8 [count, size, size] with smooth motion of 0.2 to 2 pixels and sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)

    def smooth(sigma: float) -> np.ndarray:
        plane = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), sigma * size / 128)
        return plane / np.abs(plane).max()

    pairs = []
    for k in range(count):
        texture = 127 + 50 * smooth(3) + 40 * smooth(10) + 30 * smooth(25)
        peak = 0.2 + 1.8 * k / max(count - 1, 1)
        later = cv2.remap(
            texture, x + peak * smooth(15), y + peak * smooth(15), cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE
        )
        noisy = [np.clip(np.rint(i + rng.normal(0, 1.5, i.shape)), 0, 255).astype(np.uint8) for i in (texture, later)]
        pairs.append(noisy)
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])


def main() -> None:
    """Prints one line for each size and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"jax on {jax.default_backend()}, OpenCV with {cv2.getNumThreads()} threads; milliseconds a field")
    print("pixels  batch  compile s    ours  OpenCV  ratio (least .. greatest)  difference in pixels")
    solver = cv2.optflow.DualTVL1OpticalFlow_create()  # type: ignore[attr-defined]
    for size in arguments.sizes:
        for batch in arguments.batches:
            previous, following = images(batch, size)
            on_device = jax.device_put((previous, following))
            begin = time.perf_counter()
            program = tvl1_flow.lower(*on_device, DEFAULTS).compile()
            compiled = time.perf_counter() - begin
            ours, theirs = [], []
            for _ in range(arguments.repeats):
                begin = time.perf_counter()
                found = jax.block_until_ready(program(*on_device))
                ours.append((time.perf_counter() - begin) / batch * 1e3)
                begin = time.perf_counter()
                reference = [solver.calc(a, b, None) for a, b in zip(previous, following, strict=True)]
                theirs.append((time.perf_counter() - begin) / batch * 1e3)
            ratio = np.divide(ours, theirs)
            difference = np.linalg.norm(np.asarray(found) - np.stack(reference), axis=-1).mean()
            print(
                f"{size:6d} {batch:6d} {compiled:10.1f} {np.median(ours):7.1f} {np.median(theirs):7.1f} "
                f"{np.median(ratio):6.2f} ({ratio.min():.2f} .. {ratio.max():.2f})        {difference:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
