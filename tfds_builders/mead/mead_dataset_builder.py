"""MEAD: actors speak with eight emotions in three strengths before seven cameras."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source
from tfds_builders.common.video_clips import VideoClip, VideoConfig, video_job

# Copies differ in `disgusted` and `disgust`.
EMOTIONS = ("angry", "disgusted", "disgust", "contempt", "fear", "happy", "sad", "surprised", "neutral")
VIEWS = ("front", "down", "top", "left_30", "left_60", "right_30", "right_60")


@dataclasses.dataclass(eq=False, kw_only=True)
class MeadConfig(VideoConfig):
    """One camera."""

    view: str = "front"


class Builder(ClipBuilder):
    """Builder of `mead/front` and the six other views."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[MeadConfig]] = [
        MeadConfig(name=view, view=view, description=f"View {view}, at most 256 pixels.") for view in VIEWS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Request MEAD (github.com/uniBruce/Mead), then unpack the actors:
      M003/video/front/angry/level_1/001.mp4 ...    (M003/front/angry/... is understood as well)
      W009/video/front/neutral/level_1/001.mp4 ..."""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a video. Everybody speaks: the mouth moves beside the expression."""
        config: MeadConfig = self.builder_config
        place = layout.find(manual_dir, "MEAD") or manual_dir
        actors = [f for f in layout.folders(place) if re.fullmatch(r"[MW][0-9]{3}", f.name, re.IGNORECASE)]
        if not actors:
            raise UserError(f"{place}: no folder of an actor such as 'M003'. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        source = Source(f"mead_{config.view}", "mead", float("nan"))
        without = []
        for actor in actors:
            root = layout.find(actor, "video", config.view) or layout.find(actor, config.view)
            if root is None:
                without.append(actor.name)
                continue
            yield from _actor(actor.name.upper(), root, source, config.size)
        report.notes["actors_without_this_view"] = without


def _actor(subject: str, root: Path, source: Source, size: int | None) -> Iterable[Item]:
    for folder in layout.folders(root):
        emotion = folder.name.casefold()
        if emotion not in EMOTIONS:
            raise UserError(f"{folder}: unknown label {folder.name!r}; expected one of {', '.join(EMOTIONS)}")
        for level in layout.folders(folder):
            for name in layout.children(level):
                if not name.lower().endswith(".mp4"):
                    continue
                path = level / name
                clip = f"{emotion}_{level.name}_{path.stem}"
                kind = "neutral" if emotion == "neutral" else "macro"
                yield video_job(VideoClip(source, clip, subject, path, emotion, kind, size=size))
