"""synthetic_faces: procedurally rendered faces with full ground truth; see README.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.jobs import Item, Job
from tfds_builders.common.report import BuildReport
from tfds_builders.synthetic_faces import generate


class Builder(ClipBuilder):
    """Micro- and macro-expressions of people who do not exist."""

    VERSION = tfds.core.Version(generate.VERSION)
    BUILDER_CONFIGS = [ClipConfig(name=name) for name in generate.CONFIGS]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a clip."""
        del manual_dir
        plan = generate.clip_jobs(self.builder_config.name)
        report.rows = len(plan)
        return [Job(generate.render_clip, (job,)) for job in plan]
