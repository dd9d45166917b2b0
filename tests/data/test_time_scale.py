"""The time scale of clips in seconds, whatever their frame rates."""

import dataclasses
import json

import numpy as np
import pytest

from mer_jax.data.time_scale import TimeScale
from tests.analysis.conftest import table_of


def test_durations_are_quantiles_over_clips_of_known_rate():
    table = table_of(4, 9)  # 20 frames at 200/s, onset 2, offset 17
    table.columns["fps"][:2] = (100.0, np.nan)
    scale = TimeScale.of_table(table)
    assert scale.fps == (100.0, 200.0)
    assert scale.clip[0] == pytest.approx(0.1)
    assert scale.event[1] == pytest.approx(0.08)
    assert scale.event[2] <= 0.16
    assert TimeScale.of_json(json.loads(json.dumps(dataclasses.asdict(scale)))) == scale


def test_nothing_is_said_without_a_frame_rate():
    table = table_of(2, 3)
    table.columns["fps"][:] = np.nan
    assert TimeScale.of_table(table) is None
