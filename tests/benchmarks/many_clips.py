"""Builds a set of many short clips that no face is in: `python -m tests.benchmarks.many_clips FOLDER CLIPS`.

For what depends on the number of clips and not on what they show. Needs TensorFlow, as every build; the frames come
from a small pool, since drawing and encoding them is not what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from mer_jax.data import frames
from mer_jax.data.clips import AU_SLOTS, ClipRecord

LENGTH, FPS, SUBJECTS, POOL = 8, 25.0, 100, 64


def records(clips: int, side: int = 48) -> Iterator[ClipRecord]:
    """Clips whose frames (of `side` pixels, rounded up to 8) differ a little: pairs are neither cuts nor frozen."""
    rng = np.random.default_rng(0)
    base = rng.integers(30, 220, (-(-side // 8), -(-side // 8), 3)).repeat(8, 0).repeat(8, 1)
    pool = [frames.encode_png((base + rng.integers(-12, 13, base.shape)).astype(np.uint8)) for _ in range(POOL)]
    unknown = np.full(AU_SLOTS, -1, np.int8)
    for number in range(clips):
        first = int(rng.integers(POOL))
        yield ClipRecord(
            clip=f"many_clips/s{number % SUBJECTS:03d}/c{number:06d}",
            dataset="many_clips",
            subject=f"s{number % SUBJECTS:03d}",
            cohort="many_clips",
            frames=[pool[(first + t) % POOL] for t in range(LENGTH)],
            modality="rgb",
            fps=FPS,
            onset=0,
            apex=LENGTH // 2,
            offset=LENGTH - 1,
            apex_source="annotated",
            emotion="happiness",
            expression_type="macro",
            action_units=unknown,
            action_unit_sides=np.zeros_like(unknown),
            action_unit_intensity=np.zeros_like(unknown),
            landmarks=np.full((LENGTH, 68, 2), np.nan, np.float32),
        )


def build(folder: Path, clips: int) -> None:
    """Builds the set as ArrayRecord below `folder`, under the name `many_clips`."""
    import tensorflow_datasets as tfds

    from tfds_builders.common.builder import ClipBuilder
    from tfds_builders.common.features import clip_features

    class ManyClips(ClipBuilder):
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = None
        processes = 1

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=clip_features(), disable_shuffling=True)

        def clips(self, manual_dir: Path, report: Any) -> Iterator[ClipRecord]:
            return records(clips)

    tfds.disable_progress_bar()
    ManyClips(data_dir=str(folder), file_format="array_record").download_and_prepare()


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]))
