"""A user's own clips: one CSV, and video files, folders of frames or single images."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.clip_folder.clips import make_clips, stamp
from tfds_builders.clip_folder.table import read_rows
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.jobs import Item, Job
from tfds_builders.common.report import BuildReport

CSV_NAME = "clips.csv"
NUMBERINGS = ("index", "file_number")


@dataclasses.dataclass(eq=False, kw_only=True)
class ClipFolderConfig(ClipConfig):
    """One set of clips; its name is the name of the dataset in the clips.

    Attributes:
      size: the shorter side of a (cropped) frame is scaled to this; None keeps the size and the original bytes.
      positions: what start, end, onset, apex and offset count: `index`, frames from 0, or `file_number`, the numbers in
        the file names of a frame folder.
    """

    size: int | None = dataclasses.field(
        default=None,
        metadata={"type": int, "help": "scale the shorter side of the (cropped) frames to this many pixels"},
    )
    positions: str = dataclasses.field(
        default="index", metadata={"help": "what positions in the CSV count: index (frames from 0) or file_number"}
    )

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"--size {self.size}: at least 1 pixel is expected")
        if self.positions not in NUMBERINGS:
            raise UserError(f"--positions {self.positions!r}: expected one of {', '.join(NUMBERINGS)}")


class Builder(ClipBuilder):
    """Builder of `clip_folder/<name>`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"It is the folder that holds {CSV_NAME}: one row a clip with the columns path (a video file, a folder of "
        "frames or an image), subject, label and optional ones; tfds_builders/clip_folder/README.md describes them."
    )
    custom_config = ClipFolderConfig

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job for each run of rows that share a video or folder, so that it is decoded once."""
        config: ClipFolderConfig = self.builder_config
        rows = read_rows(manual_dir / CSV_NAME, dataset=config.name)
        report.rows = len(rows)
        for _, group in itertools.groupby(rows, key=lambda row: row.path):
            yield Job(make_clips, (tuple(group), config.size, config.positions))

    def source_key(self, manual_dir: Path) -> str:
        """SHA-256 over the CSV and the names, sizes and times of all files that it names."""
        digest = hashlib.sha256()
        rows = read_rows(manual_dir / CSV_NAME, dataset=self.builder_config.name)
        digest.update((manual_dir / CSV_NAME).read_bytes())
        paths = {row.path for row in rows} | {row.landmarks for row in rows if row.landmarks is not None}
        for path in sorted(paths):
            digest.update(repr(stamp(path)).encode())
        return digest.hexdigest()
