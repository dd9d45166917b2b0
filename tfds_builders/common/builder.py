"""The base of all dataset builders: a subclass says where its clips come from, the rest is here."""

from __future__ import annotations

import abc
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mer_jax import files
from mer_jax.data import frames as frames_lib
from mer_jax.data import index as index_lib
from mer_jax.data.clips import ClipTable
from mer_jax.data.source import open_records
from mer_jax.errors import UserError
from mer_jax.progress import Progress
from tfds_builders.common import jobs
from tfds_builders.common.features import clip_features, from_features
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped

_TFDS_FIELDS = {f.name for f in dataclasses.fields(tfds.core.BuilderConfig)}


@dataclasses.dataclass(eq=False, kw_only=True)
class ClipConfig(tfds.core.BuilderConfig):
    """Base of a builder's configs. The fields that a subclass adds decide the content of the dataset."""

    def content(self) -> dict[str, Any]:
        """The fields that decide the content; two builds with different ones are different builds."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _TFDS_FIELDS}


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder that yields the clip contract.

    A subclass stands in `tfds_builders/<name>/<name>_dataset_builder.py` under the name `Builder`, sets VERSION and
    MANUAL_DOWNLOAD_INSTRUCTIONS (how to obtain the data and which layout is expected; None where nothing is needed),
    and implements `clips`. Every record is checked, counted and written in the order of `clips`.

    Attributes:
      custom_config: a ClipConfig class where users name configs of their own, each field an option of the command
        line; None where BUILDER_CONFIGS lists all there are.
    """

    custom_config: ClassVar[type[ClipConfig] | None] = None
    processes: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

    @abc.abstractmethod
    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """The clips of the set, in a fixed order.

        Args:
          manual_dir: the folder with the data as distributed (its existence is checked).
          report: for corrections, skipped rows, the number of rows of the sheet.

        Yields:
          ClipRecord; Job, a function that makes one in a pool of processes; or Skipped, a row that gives no clip.
        """

    def source_key(self, manual_dir: Path) -> Any:
        """What identifies the data in `manual_dir` (JSON); a finished build of other data is redone.

        None where data that is distributed once is taken to be the same always.
        """
        return None

    def build_key(self) -> dict[str, Any]:
        """What identifies a build of this code: name, version, config (JSON)."""
        config = self.builder_config.content() if isinstance(self.builder_config, ClipConfig) else {}
        return {
            "dataset": self.name,
            "config": self.builder_config.name if self.builder_config else None,
            "version": str(self.version),
            "content": json.loads(json.dumps(config, default=repr, sort_keys=True)),
        }

    def _info(self) -> tfds.core.DatasetInfo:
        # The order of the clips is the builder's: reading needs no shuffled files, and the index follows the records.
        return self.dataset_info_from_configs(features=clip_features(), disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        self._manual_dir = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else Path()
        return {index_lib.SPLIT: self._generate_examples(self._manual_dir)}

    def _generate_examples(self, manual_dir: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        report = BuildReport()
        label = self.name + (f"/{self.builder_config.name}" if self.builder_config else "")
        seen: set[str] = set()
        with Progress(f"building {label}", None, "clips") as progress:
            for result in jobs.run(self.clips(manual_dir, report), self.processes):
                if isinstance(result, Skipped):
                    report.skip(result.row, result.reason)
                    continue
                if result.clip in seen:
                    raise UserError(f"clip {result.clip!r} appears twice; names of clips must be unique")
                seen.add(result.clip)
                yield report.clips, {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
                report.clips += 1
                progress.advance()
        if not report.clips:
            raise UserError(f"{label}: no clip found in {manual_dir} ({len(report.skipped)} rows skipped)")
        files.write_json(Path(self.data_path) / index_lib.REPORT, {**self.build_key(), **report.to_json()})

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the records, then the index and the marker beside them; see TFDS for the arguments."""
        super().download_and_prepare(**kwargs)
        directory = Path(self.data_path)
        if self.info.file_format is not None and self.info.file_format.value != "array_record":
            return  # other formats have no random access: nothing of mer_jax reads them
        if index_lib.read_marker(directory) is not None:
            return
        index = _index_of_records(directory)
        given = files.read_json(directory / index_lib.REPORT)["notes"].get("objective_classes")
        if given:
            column = np.array([given.get(clip, "") for clip in index.table["clip"].tolist()], dtype=str)
            table = ClipTable({**index.table.columns, "objective_class": column})
            index = dataclasses.replace(index, table=table)
        index_lib.write_index(directory, index)
        source = self.source_key(self._manual_dir) if getattr(self, "_manual_dir", None) is not None else None
        index_lib.write_marker(
            directory,
            {"build": self.build_key(), "source": source, "clips": len(index.table), "fingerprint": index.fingerprint},
        )


def _index_of_records(directory: Path) -> index_lib.Index:
    """Reads all records back, so that the index describes what is on disk."""
    records, facts, fingerprints, shapes = open_records(directory), [], [], []
    with Progress(f"indexing {directory.parent.name}", len(records), "clips") as progress:
        for i in range(len(records)):
            record = from_features(records[i])
            fingerprints.append(index_lib.clip_fingerprint(record))
            shapes.append(frames_lib.decode(record.frames[0]).shape)
            facts.append(ClipTable.from_records([record]))
            progress.advance()
    return index_lib.Index(
        ClipTable.concatenate(facts), np.array(fingerprints, dtype=str), np.array(shapes, np.int32).reshape(-1, 3)
    )
