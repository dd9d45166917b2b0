"""DFEW: expressions in film clips, seven classes, five official folds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips, sheets
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("dfew", "dfew", float("nan"))
EMOTIONS = {1: "happy", 2: "sad", 3: "neutral", 4: "angry", 5: "surprise", 6: "disgust", 7: "fear"}
_COLUMNS: sheets.Columns = {"clip": ("video_name", "video", "clip"), "label": ("label", "annotation")}
_FOLDS = range(1, 6)


class Builder(ClipBuilder):
    """Builder of `dfew/single`: the 11,697 clips with one label."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="single", description="The clips with one label, as face frames.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the owners (dfew-dataset.github.io) for a licence, then unpack:
      Clip/jpg_256/00001/00001_00001.jpg ...
      EmoLabel_DataSplit/train(single-labeled)/set_1.csv ... set_5.csv, test(single-labeled)/set_1.csv ...
      or the older release:
      data_affine/single_label/data/00001/00001_00001.jpg ...
      data_affine/single_label/label/single_trainset_1.csv ..., single_testset_1.csv ..."""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a labelled clip. DFEW does not name its actors: every clip is a person of its own (INFERRED)."""
        root, splits = _release(manual_dir, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        labels: dict[str, int] = {}
        folds: dict[str, int] = {}
        for fold in _FOLDS:
            for part in ("train", "test"):
                path = splits[part, fold]
                if path is None:
                    continue
                for where, clip, label in _rows(path):
                    if labels.setdefault(clip, label) != label:
                        raise UserError(
                            f"{where}: clip {clip} has label {label} here and {labels[clip]} in another split"
                        )
                    if part == "test":
                        folds[clip] = fold
        if not labels:
            raise UserError(f"{root}: no split file. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        report.rows = len(labels)
        report.notes["official_folds"] = {f"dfew/{c}/{c}": f for c, f in sorted(folds.items())}
        for clip, label in sorted(labels.items()):
            folder = layout.find(root, (clip, clip.lstrip("0")))
            if folder is None:
                yield Skipped(clip, f"no folder {clip} in {root}")
                continue
            emotion = EMOTIONS[label]
            kind = "neutral" if emotion == "neutral" else "macro"
            yield sheet_clips.whole_clip(_SOURCE, clip, clip, list_frames(folder), emotion, kind, same_shape=True)


def _release(manual_dir: Path, how: str) -> tuple[Path, dict[tuple[str, int], Path | None]]:
    """The folder of the frames, and the split files, of the newer or the older release."""
    places = (manual_dir, *layout.folders(manual_dir))
    newer = next((f for p in places if (f := layout.find(p, "Clip", "jpg_256")) is not None), None)
    table = next((f for p in places if (f := layout.find(p, "EmoLabel_DataSplit")) is not None), None)
    if newer is not None and table is not None:
        return newer, {
            (p, k): layout.find(table, f"{p}(single-labeled)", f"set_{k}.csv")
            for p in ("train", "test")
            for k in _FOLDS
        }
    older = next((f for p in places if (f := layout.find(p, "data_affine", "single_label")) is not None), None)
    if older is None:
        older = layout.root_folder(manual_dir, ("single_label",), f"Found neither release. {how}")
    return older / "data", {
        (p, k): layout.find(older, "label", f"single_{p}set_{k}.csv") for p in ("train", "test") for k in _FOLDS
    }


def _rows(path: Path) -> Iterable[tuple[str, str, int]]:
    _, _, rows = sheets.read_table(sheets.read_workbook(path), _COLUMNS, ("clip", "label"))
    for row in rows:
        number, label = row.frame("clip"), row.frame("label")
        if number is None or label not in EMOTIONS:
            raise UserError(
                f"{row.where}, row {row.number}: found clip {row.text('clip')!r} with label {row.text('label')!r};"
                f" expected a number and a label from 1 to {len(EMOTIONS)}"
            )
        yield f"{row.where}, row {row.number}", f"{number:05d}", label
