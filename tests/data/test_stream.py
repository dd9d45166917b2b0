import collections
import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_jax.data import frames, pairs, source
from mer_jax.data.clips import AU_SLOTS, ClipRecord
from mer_jax.data.pairs import PairSettings
from mer_jax.data.stream import PairStream
from mer_jax.errors import UserError

SIZE = 12
LENIENT = PairSettings(min_change=0.0, max_change=1.0, threads=0)
FACE = np.random.default_rng(0).uniform(3, 13, (68, 2)).astype(np.float32)


def record(number: int, images: np.ndarray, fps: float = 100.0, landmarks: np.ndarray | None = None) -> ClipRecord:
    length = len(images)
    return ClipRecord(
        clip=f"toy/{number:02d}/a",
        dataset="toy",
        subject=f"{number:02d}",
        cohort="toy",
        frames=[frames.encode_png(image) for image in images],
        modality="rgb",
        fps=fps,
        onset=length // 4,
        apex=length // 2,
        offset=3 * length // 4,
        apex_source="annotated",
        emotion="happiness",
        expression_type="macro",
        action_units=np.full(AU_SLOTS, -1, np.int8),
        action_unit_sides=np.zeros(AU_SLOTS, np.int8),
        action_unit_intensity=np.zeros(AU_SLOTS, np.int8),
        landmarks=np.full((length, 68, 2), np.nan, np.float32) if landmarks is None else landmarks,
    )


def ticking(number: int, length: int, fps: float) -> ClipRecord:
    """A clip whose pixels say which clip (red) and which frame (green) they are."""
    images = np.zeros((length, 16, 16, 3), np.uint8)
    images[..., 0] = number
    images[..., 1] = np.arange(length)[:, None, None]
    return record(number, images, fps)


@pytest.fixture(scope="module")
def ticks() -> source.ClipSource:
    rates = (25.0, 30.0, 100.0, 200.0, 29.97)
    return source.memory_source([ticking(i, 60 + 5 * i, rates[i % 5]) for i in range(11)])


def stream(clips: pairs.Source, options: PairSettings = LENIENT, **changes: object) -> PairStream:
    given_ = {"rows": np.arange(len(clips.table)), "seed": 3, "batch": 8, "size": SIZE} | changes
    return PairStream(clips, settings=options, **given_)


def times(batch: dict[str, np.ndarray], name: str) -> np.ndarray:
    return batch[name][:, 0, 0, 1].astype(int)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def test_pairs_keep_their_time_and_their_clip(ticks: source.ClipSource):
    made = stream(ticks)
    apart = collections.defaultdict(set)
    for step in range(40):
        batch = made(step)
        assert batch["first"].shape == (8, SIZE, SIZE, 3)
        assert batch["first"].dtype == np.uint8
        for slot in range(8):
            epoch, row = made.clip_of(int(batch["example"][slot]))
            assert epoch == batch["epoch"][slot]
            assert row == batch["first"][slot, 0, 0, 0] == batch["second"][slot, 5, 5, 0]
            k = times(batch, "second")[slot] - times(batch, "first")[slot]
            fps = float(ticks.table["fps"][row])
            assert 80 - 1e-3 <= abs(k) * 1000 / fps <= 240 + 1e-3
            apart[fps].add(int(k))
    assert apart[25.0] == {-6, -5, -4, -3, -2, 2, 3, 4, 5, 6}
    assert min(apart[200.0]) < -40
    assert max(apart[200.0]) > 40


def test_every_epoch_visits_every_allowed_clip_once(ticks: source.ClipSource):
    allowed = np.array([0, 2, 3, 5, 7, 8, 9])
    made = stream(ticks, rows=allowed)
    visits = [made.clip_of(example) for example in range(7 * 6)]
    orders = [[row for epoch, row in visits if epoch == wanted] for wanted in range(6)]
    assert all(sorted(order) == allowed.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    by_mask = stream(ticks, rows=np.isin(np.arange(11), allowed))
    assert_same(made(5), by_mask(5))


@pytest.mark.parametrize("threads", [0, 2, 4])
def test_batches_depend_on_seed_and_step_only(ticks: source.ClipSource, threads: int):
    expected = [stream(ticks)(step) for step in range(9)]
    options = dataclasses.replace(LENIENT, threads=threads, prefetch=3)
    with stream(ticks, options).iterate() as batches:
        for step in range(9):
            assert_same(next(batches), expected[step])
    with stream(ticks, options).iterate(start=6, stop=8) as batches:
        resumed = list(batches)
    assert len(resumed) == 2
    assert_same(resumed[0], expected[6])
    assert_same(resumed[1], expected[7])
    other = stream(ticks, seed=4)(0)
    assert not np.array_equal(other["first"], expected[0]["first"])


def test_an_example_does_not_depend_on_the_batch_it_is_in(ticks: source.ClipSource):
    whole = stream(ticks, batch=12)(0)
    thirds = [stream(ticks, batch=4)(step) for step in range(3)]
    assert_same({name: np.concatenate([part[name] for part in thirds]) for name in whole}, whole)


def test_two_processes_hold_the_halves_of_the_global_batch(ticks: source.ClipSource):
    whole = [stream(ticks)(step) for step in range(4)]
    options = dataclasses.replace(LENIENT, threads=2)
    halves = [stream(ticks, options, process_index=p, process_count=2).iterate() for p in range(2)]
    for step in range(4):
        a, b = (next(half) for half in halves)
        assert_same({name: np.concatenate([a[name], b[name]]) for name in a}, whole[step])
    for half in halves:
        half.close()


class Watched:
    """A source that notes what is read."""

    def __init__(self, clips: source.ClipSource) -> None:
        self.clips, self.table, self.shapes = clips, clips.table, clips.shapes
        self.read: set[int] = set()
        self.decoded = 0

    def frame(self, i: int, t: int) -> np.ndarray:
        self.read.add(i)
        self.decoded += 1
        return self.clips.frame(i, t)

    def landmarks(self, i: int) -> np.ndarray:
        self.read.add(i)
        return self.clips.landmarks(i)


def test_a_process_reads_its_slice_only(ticks: source.ClipSource):
    watched = Watched(ticks)
    made = stream(watched, process_index=1, process_count=2, batch=10)
    batch = made(0)
    assert watched.read == {made.clip_of(example)[1] for example in range(5, 10)}
    assert watched.decoded == 10
    assert batch["example"].tolist() == [5, 6, 7, 8, 9]


@settings(max_examples=15, deadline=None)
@given(persons=st.lists(st.integers(0, 4), min_size=6, max_size=12), tested=st.sets(st.integers(0, 4), max_size=4))
def test_clips_that_are_not_allowed_are_never_read(persons: list[int], tested: set[int]):
    clips = Watched(source.memory_source([ticking(i, 30, 25.0) for i in range(len(persons))]))
    allowed = ~np.isin(persons, list(tested))
    if not allowed.any():
        with pytest.raises(UserError, match="found none in 0 clips"):
            stream(clips, rows=allowed)
        return
    made = stream(clips, rows=allowed)
    for step in (0, 1, 2, 1000):
        red = made(step)["first"][:, 0, 0, 0]
        assert not {persons[i] for i in red} & tested
    assert clips.read <= set(np.flatnonzero(allowed))


def test_forecast_adds_the_frame_as_long_before(ticks: source.ClipSource):
    made = stream(ticks, dataclasses.replace(LENIENT, task="forecast"))
    steps = []
    for step in range(10):
        batch = made(step)
        k = times(batch, "second") - times(batch, "first")
        assert np.array_equal(k, times(batch, "first") - times(batch, "before"))
        steps.extend(k)
    assert min(steps) < 0 < max(steps)


@pytest.mark.parametrize(("reverse_p", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_share_of_pairs_that_run_backwards(ticks: source.ClipSource, reverse_p: float, share: float):
    made = stream(ticks, dataclasses.replace(LENIENT, reverse_p=reverse_p), batch=500)
    batch = made(0)
    backwards = (times(batch, "second") < times(batch, "first")).mean()
    assert abs(backwards - share) < 0.07  # 3 standard deviations


def test_pairs_stay_within_the_extent(ticks: source.ClipSource):
    made = stream(ticks, dataclasses.replace(LENIENT, extent="onset_offset"), batch=200)
    batch = made(0)
    seen = np.stack([times(batch, "first"), times(batch, "second")])
    rows = batch["first"][:, 0, 0, 0]
    assert (seen >= ticks.table["onset"][rows]).all()
    assert (seen <= ticks.table["offset"][rows]).all()
    assert (seen.min(axis=0) == ticks.table["onset"][rows]).any()
    assert (seen.max(axis=0) == ticks.table["offset"][rows]).any()


def noise(length: int, seed: int = 0) -> np.ndarray:
    """A texture that changes a little in every frame."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(60, 120, (1, 16, 16, 3))
    return (texture + rng.integers(-6, 7, (length, 16, 16, 3))).astype(np.uint8)


def test_pairs_across_a_cut_are_rejected_and_counted():
    images = noise(60)
    images[30:] += 100
    made = stream(source.memory_source([record(0, images)]), PairSettings(tries=30, threads=0), batch=100)
    batch = made(0)
    assert batch["weight"].all()
    bright = [batch[name].mean(axis=(1, 2, 3)) > 140 for name in ("first", "second")]
    assert np.array_equal(*bright)
    assert 0 < bright[0].sum() < 100
    counts = made.counters
    assert counts["pairs"] == 100
    assert counts["cut"] > 10
    assert counts["tried"] == 100 + sum(counts[reason] for reason in pairs.REJECTIONS)
    assert counts["gave_up"] == 0


def test_a_frozen_clip_is_given_up_with_weight_zero():
    still = np.repeat(noise(1), 60, axis=0)
    clips = source.memory_source([record(0, still), record(1, noise(60, 1))])
    made = stream(clips, PairSettings(tries=5, threads=0), batch=20)
    batch = made(0)
    rows = np.array([made.clip_of(int(example))[1] for example in batch["example"]])
    assert np.array_equal(batch["weight"], (rows == 1).astype(np.float32))
    assert made.counters["frozen"] == 5 * 10
    assert made.counters["gave_up"] == 10
    assert made.counters["pose_unknown"] == 20


def turned(degrees: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The face turned and scaled about (8, 8), one entry a frame: [T, 68, 2]."""
    angle = np.deg2rad(degrees)
    matrix = scale[:, None, None] * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).T
    return ((FACE - 8) @ matrix + 8).astype(np.float32)


@pytest.mark.parametrize(("reason", "jump"), [("rotation", (6.0, 1.0)), ("scale", (0.0, 1.06))])
def test_pairs_across_head_movement_are_rejected(reason: str, jump: tuple[float, float]):
    after = np.arange(60) >= 30
    landmarks = turned(np.where(after, jump[0], 0.0), np.where(after, jump[1], 1.0))
    images = noise(60)
    images[..., 1] = np.arange(60)[:, None, None]
    clips = source.memory_source([record(0, images, landmarks=landmarks)])
    made = stream(clips, PairSettings(tries=30, max_change=1.0, threads=0), batch=60)
    batch = made(0)
    assert np.array_equal(times(batch, "first") >= 30, times(batch, "second") >= 30)
    assert made.counters[reason] > 5
    assert sum(made.counters[other] for other in pairs.REJECTIONS) == made.counters[reason]
    lenient = stream(clips, dataclasses.replace(LENIENT, max_rotation_deg=7.0, max_scale=0.07), batch=60)
    lenient(0)
    assert lenient.counters["tried"] == 60


def test_similarity_in_closed_form():
    points = FACE[:8]
    rotation, scale = pairs.similarity(points, turned(np.array([11.0]), np.array([1.3]))[0, :8])
    assert abs(abs(rotation) - 11.0) < 1e-3
    assert abs(scale - 1.3) < 1e-5
    assert np.isnan(pairs.similarity(points, points * np.nan)).all()


def test_change_is_measured_over_the_face():
    # the background flickers, the face does not: such a pair is frozen, with landmarks to say where the face is
    images = np.repeat(noise(1), 60, axis=0)
    images[::2, :3] = 0
    landmarks = np.broadcast_to(FACE.clip(6, 10), (60, 68, 2))
    for known, accepted in ((landmarks, False), (None, True)):
        made = stream(
            source.memory_source([record(0, images, landmarks=known)]),
            PairSettings(dt_ms=(90.0, 90.0), threads=0, max_change=0.5),
            batch=2,
        )
        assert made(0)["weight"].all() == accepted


def test_cache_is_bounded_and_changes_nothing(ticks: source.ClipSource):
    watched = Watched(ticks)
    wide = stream(watched)
    small = stream(ticks, dataclasses.replace(LENIENT, cache_mb=0.01))  # 24 frames of 432 bytes
    none = stream(ticks, dataclasses.replace(LENIENT, cache_mb=0.0))
    for step in range(30):
        expected = wide(step)
        assert_same(small(step), expected)
        assert_same(none(step), expected)
        assert small.sampler._cache.bytes <= 0.01 * 2**20
    assert small.sampler._cache.bytes > 0
    assert none.sampler._cache.bytes == 0
    assert watched.decoded < 30 * 16
    assert watched.decoded <= int(ticks.table["length"].sum())


def test_labels_travel_with_their_clips(ticks: source.ClipSource):
    labels = np.arange(11) * 10
    batch = stream(ticks, labels=labels)(0)
    assert np.array_equal(batch["label"], labels[batch["first"][:, 0, 0, 0]])
    assert (stream(ticks)(0)["label"] == -1).all()


def test_grey_frames_of_another_size(ticks: source.ClipSource):
    assert stream(ticks, size=20, channels=1)(0)["second"].shape == (8, 20, 20, 1)


def test_only_delivered_batches_are_counted(ticks: source.ClipSource):
    made = stream(ticks, dataclasses.replace(LENIENT, threads=2, prefetch=6))
    with made.iterate() as batches:
        next(batches)
        next(batches)
        time.sleep(0.2)
    assert made.counters["pairs"] == 16


def test_close_ends_the_threads_and_the_iterator(ticks: source.ClipSource):
    before = threading.active_count()
    batches = stream(ticks, dataclasses.replace(LENIENT, threads=3)).iterate()
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_while_reading_reaches_the_caller(threads: int):
    broken = ticking(0, 30, 25.0)
    broken = dataclasses.replace(broken, frames=[broken.frames[0]] + [b""] * 29)
    batches = stream(source.memory_source([broken]), dataclasses.replace(LENIENT, threads=threads)).iterate()
    with pytest.raises(UserError, match="toy/00/a, frame"):
        next(batches)
    batches.close()


def test_clips_without_a_pair_are_named():
    clips = source.memory_source([ticking(0, 2, 25.0), ticking(1, 30, 25.0), ticking(2, 30, 3.0)])
    made = stream(clips)
    assert made.skipped == ("toy/00/a", "toy/02/a")
    assert made.rows.tolist() == [1]


def test_mistakes_are_refused_with_one_message(ticks: source.ClipSource):
    unknown = source.memory_source([ticking(0, 30, 25.0), ticking(1, 30, float("nan"))])
    with pytest.raises(UserError, match=r"clip 'toy/01/a' .*has no known frame rate"):
        stream(unknown)
    stream(unknown, rows=np.array([0]))
    flow = source.memory_source([dataclasses.replace(ticking(0, 30, 25.0), modality="flow_strain")])
    with pytest.raises(UserError, match="'toy/00/a' holds flow_strain frames; expected images"):
        stream(flow)
    with pytest.raises(UserError, match="found 7 pairs for 2 processes"):
        stream(ticks, batch=7, process_count=2)
    with pytest.raises(UserError, match="found none in 1 clips that are 80 to 240 ms apart within whole"):
        stream(source.memory_source([ticking(0, 2, 25.0)]))
    with pytest.raises(ValueError, match="0 < shortest <= longest"):
        stream(ticks, dataclasses.replace(LENIENT, dt_ms=(240.0, 80.0)))


def test_grain_and_tensorflow_are_imported_when_needed_only():
    code = "import sys, mer_jax.data.stream; print([m for m in ('grain', 'tensorflow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
