"""AFEW (EmotiW): expressions in film clips, seven classes, published training and validation partitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source
from tfds_builders.common.video_clips import VideoClip, VideoConfig, video_job

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_ROOTS = {"train": "Train_AFEW", "val": "Val_AFEW"}
_FACES = {"train": ("AlignedFaces_LBPTOP_Points", "Faces"), "val": ("AlignedFaces_LBPTOP_Points_Val", "Faces")}


@dataclasses.dataclass(eq=False, kw_only=True)
class AfewConfig(VideoConfig):
    """One partition, as the distribution's aligned faces or as whole video frames."""

    part: str = "train"
    faces: bool = True


class Builder(ClipBuilder):
    """Builder of `afew/train`, `afew/val` (aligned faces), `afew/train_video`, `afew/val_video`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[AfewConfig]] = [
        AfewConfig(
            name=part if faces else f"{part}_video",
            part=part,
            faces=faces,
            description=f"Partition {part}, {'aligned faces' if faces else 'video frames'}.",
        )
        for faces in (True, False)
        for part in _ROOTS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the organisers of EmotiW (Abhinav Dhall) for a licence, then unpack:
      Train_AFEW/Angry/000046280.avi ...                                          (the folder is the label)
      Train_AFEW/AlignedFaces_LBPTOP_Points/Faces/000046280/000046280-001.jpg ... (afew/train)
      Val_AFEW/Angry/...avi, Val_AFEW/AlignedFaces_LBPTOP_Points_Val/Faces/...    (afew/val)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a video. AFEW does not name its actors: every clip is a person of its own (INFERRED)."""
        config: AfewConfig = self.builder_config
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        root = layout.root_folder(manual_dir, (_ROOTS[config.part],), how)
        faces = layout.find(root, *_FACES[config.part])
        if config.faces and faces is None:
            raise UserError(f"{root}: no folder {'/'.join(_FACES[config.part])!r}. {how}")
        source = Source(f"afew_{config.part}", "afew", float("nan"))
        videos = [
            (emotion, folder / name)
            for emotion in EMOTIONS
            if (folder := layout.find(root, emotion)) is not None
            for name in layout.children(folder)
            if name.lower().endswith(".avi")
        ]
        if not videos:
            raise UserError(f"{root}: no avi file below a folder {', '.join(EMOTIONS)}. {how}")
        report.rows = len(videos)
        for emotion, video in videos:
            kind = "neutral" if emotion == "neutral" else "macro"
            name = video.stem
            if not config.faces:
                yield video_job(VideoClip(source, name, name, video, emotion, kind, size=config.size))
                continue
            assert faces is not None
            folder = layout.find(faces, name)
            if folder is None or not layout.children(folder):
                yield Skipped(name, "the distribution has no aligned faces for it")
                continue
            yield sheet_clips.whole_clip(source, name, name, list_frames(folder), emotion, kind, same_shape=True)
