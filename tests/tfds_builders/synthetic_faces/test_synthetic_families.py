"""Families over one motion law: each differs from `base` in one thing, and shows other people."""

import collections
import dataclasses
import hashlib

import numpy as np
import pytest

from mer_jax.data.frames import decode
from tfds_builders.common.validation import check_record
from tfds_builders.synthetic_faces import emotions, generate, timeline
from tfds_builders.synthetic_faces.faces import person
from tfds_builders.synthetic_faces.timeline import Rhythm

FAMILIES = ("base", "twin", "appearance", "motion", "prior")
SHIFTS = {
    "twin": set(),
    "appearance": {"size", "rhythm.light", "rhythm.slope", "rhythm.noise"},
    "motion": {"gain", "rhythm.fps", "rhythm.duration"},
    "prior": {"balance"},
}


def flat(config):
    fields = dataclasses.asdict(config)
    rhythm = fields.pop("rhythm")
    return fields | {f"rhythm.{k}": v for k, v in rhythm.items()}


@pytest.mark.parametrize("family", SHIFTS)
def test_one_thing_differs_from_base(family):
    base, other = flat(generate.CONFIGS["base"]), flat(generate.CONFIGS[family])
    assert {k for k in base if base[k] != other[k]} == SHIFTS[family] | {"name", "cohort"}
    assert generate.CONFIGS[family].table is emotions.MICRO  # the same units move the same way


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_classes(family):
    jobs = generate.clip_jobs(family)
    counts = collections.Counter(job.emotion for job in jobs)
    assert len(jobs) == 72
    assert len({job.subject for job in jobs}) == 12
    rare, frequent = (counts["disgust"] + counts["repression"], counts["surprise"])
    assert (rare, frequent) == ((12, 30) if family == "prior" else (40, 14))


def test_melanin_differs_in_appearance_alone():
    tone = {f: np.mean([person(generate.CONFIGS[f].cohort, f"p{i:03d}").skin.mean() for i in range(1, 41)])
            for f in FAMILIES}  # fmt: skip
    usual = [v for f, v in tone.items() if f != "appearance"]
    assert max(usual) - min(usual) < 0.1
    assert tone["appearance"] < min(usual) - 0.1


def test_timelines_keep_to_their_ranges():
    for family, fps, low, high in (("base", 100, 0.17, 0.49), ("motion", 30, 0.3, 0.5)):
        for job in generate.clip_jobs(family)[::6]:
            t = generate.facts(job).timeline
            assert t.fps == fps
            assert low <= t.event.offset - t.event.onset <= high
    rng = np.random.default_rng(0)
    rhythm = generate.CONFIGS["appearance"].rhythm
    drawn = [timeline.draw(rng, rhythm, True) for _ in range(60)]
    plain = [timeline.draw(rng, Rhythm(), True) for _ in range(60)]
    assert all(2.5 <= t.noise <= 5.0 for t in drawn)
    light, usual = (np.array([t.light.mean(0) for t in clips]) for clips in (drawn, plain))
    assert light[:, 0].mean() < usual[:, 0].mean() - 0.2
    assert light[:, 1:].std() > 2 * usual[:, 1:].std()


def test_families_are_frozen():
    """A changed hash means other data: raise VERSION, build again, measure again, then change the hash here."""
    digest = hashlib.sha256()
    for family in FAMILIES:
        record = generate.render_clip(generate.clip_jobs(family)[7])
        check_record(record)
        assert record.cohort == f"synthetic_{family}"
        for frame in record.frames[:: len(record.frames) // 3]:
            blocks = decode(frame).astype(float).reshape(8, -1, 8, generate.CONFIGS[family].size // 8, 3).mean((1, 3))
            digest.update(np.rint(blocks).astype(np.uint8).tobytes())
        digest.update(repr((record.clip, record.onset, record.apex, record.offset, record.emotion)).encode())
    assert digest.hexdigest()[:16] == "2fe31de2cacea77f"
