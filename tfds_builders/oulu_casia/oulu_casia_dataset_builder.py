"""Oulu-CASIA: six posed expressions before a visible-light and a near-infrared camera in three illuminations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
CAMERAS, LIGHTS = ("VL", "NI"), ("Strong", "Weak", "Dark")


@dataclasses.dataclass(eq=False, kw_only=True)
class OuluConfig(ClipConfig):
    """One camera in one light, as recorded or as the distribution's face crops."""

    camera: str = "VL"
    light: str = "Strong"
    cropped: bool = False


class Builder(ClipBuilder):
    """Builder of `oulu_casia/vl_strong_cropped` (the usual choice), `oulu_casia/ni_dark`, ..."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[OuluConfig]] = [
        OuluConfig(
            name=f"{camera}_{light}{'_cropped' if cropped else ''}".lower(),
            camera=camera,
            light=light,
            cropped=cropped,
            description=f"Camera {camera}, light {light}{', face crops' if cropped else ''}.",
        )
        for camera in CAMERAS
        for light in LIGHTS
        for cropped in (False, True)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the University of Oulu (Guoying Zhao) for a licence, then unpack:
      OriginalImg/{VL,NI}/{Strong,Weak,Dark}/P001/Anger/000.jpeg ...                      (oulu_casia/vl_strong, ...)
      PreProcess/{VL_Acropped,NI_Acropped}/{Strong,Weak,Dark}/P001/Anger/000.jpeg ...     (..._cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a sequence; it goes from a neutral face to the peak, which is the last frame."""
        config: OuluConfig = self.builder_config
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        base = layout.root_folder(manual_dir, ("PreProcess",) if config.cropped else ("OriginalImg",), how)
        camera = f"{config.camera}_Acropped" if config.cropped else config.camera
        root = layout.find(base, camera, config.light)
        if root is None:
            raise UserError(f"{base}: no folder '{camera}/{config.light}'. {how}")
        source = Source(
            f"oulu_casia_{config.camera}_{config.light}".lower(),
            "oulu_casia",
            25.0,
            "nir" if config.camera == "NI" else "",
        )
        for person in layout.folders(root):
            for folder in layout.folders(person):
                emotion = folder.name.strip().casefold()
                if emotion not in EMOTIONS:
                    raise UserError(f"{folder}: unknown label {folder.name!r}; expected one of {', '.join(EMOTIONS)}")
                frames = list_frames(folder)
                yield sheet_clips.whole_clip(
                    source, person.name, folder.name, frames, emotion, "macro", apex=len(frames) - 1
                )
