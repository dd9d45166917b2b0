"""Pairs of near-future frames from one clip, the examples of MA2MI pre-training (host code).

The time between the frames, not their number, is what is drawn, so that clips of 25 and 200 frames a second teach the
same movement. Pairs across a cut, under head rotation, or of a duplicated frame are rejected and redrawn in the clip.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable
from typing import Literal, Protocol

import cv2
import numpy as np

from mer_jax.data import align as align_lib
from mer_jax.data import frames, sampling
from mer_jax.data.clips import ClipTable

REJECTIONS = ("rotation", "scale", "cut", "frozen")
COUNTERS = ("pairs", "tried", *REJECTIONS, "gave_up", "pose_unknown")
STABLE_POINTS = align_lib.STABLE_POINTS


class Source(Protocol):
    """What is read of a `data.source.ClipSource`; safe to call from several threads."""

    @property
    def table(self) -> ClipTable: ...  # noqa: D102
    def frame(self, i: int, t: int) -> np.ndarray: ...  # noqa: D102
    def landmarks(self, i: int) -> np.ndarray: ...  # noqa: D102
    @property
    def shapes(self) -> np.ndarray: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn and rejected. INFERRED throughout: the MA2MI paper does not describe its sampler.

    Attributes:
      dt_ms: shortest and longest time between the frames in milliseconds. A micro-expression lasts at most half a
        second, its rise about 100 to 250 ms.
      extent: part of the clip that pairs come from: `onset_offset`, `onset_apex` or `whole`.
      task: `reconstruct` (two frames) or `forecast` (a third frame, as long before the first as the second is after).
      reverse_p: probability that time runs backwards, which covers apex to offset.
      max_rotation_deg: a pair whose stable landmarks turn further is rejected; infinity switches the test off.
      max_scale: the same for their relative change of size.
      max_change: the same for the mean |difference| over the face, intensities 0..1: a cut or a flash.
      min_change: a pair that changes less is rejected as frozen or duplicated; 0 switches the test off.
      tries: pairs drawn in a clip before it is given up for this time (the example then weighs 0).
      fit: how a frame becomes a square, see `frames.square`.
      align: whether and how faces are cut out instead, see `align.Alignment`.
      threads: threads that prepare batches ahead; 0 prepares them in the caller.
      prefetch: batches kept ready.
      cache_mb: memory for decoded frames in MiB; the least recently used leave first.
    """

    dt_ms: tuple[float, float] = (80.0, 240.0)
    extent: sampling.Extent = "whole"
    task: Literal["reconstruct", "forecast"] = "reconstruct"
    reverse_p: float = 0.5
    max_rotation_deg: float = 5.0
    max_scale: float = 0.05
    max_change: float = 0.12
    min_change: float = 0.004
    tries: int = 8
    fit: str = "crop"
    align: align_lib.Alignment = align_lib.NONE
    threads: int = 2
    prefetch: int = 4
    cache_mb: float = 512.0


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example.

    Attributes:
      positions: positions in the clip, ([before,] first, second).
      frames: the frames there, uint8 [size, size, C] each.
      accepted: False where every try was rejected; the frames are then those of the last try.
      counts: int64 [len(COUNTERS)], what happened on the way.
    """

    positions: tuple[int, ...]
    frames: tuple[np.ndarray, ...]
    accepted: bool
    counts: np.ndarray


class ByteCache:
    """Arrays under a limit of memory; the least recently used leave first. Safe to use from threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: collections.OrderedDict[tuple[int, ...], np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __call__(self, read: Callable[..., np.ndarray], *key: int) -> np.ndarray:
        """What `read(*key)` gives, read-only; a reader is known by its key alone."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        array = read(*key)  # outside the lock: decoding is the slow part
        array.flags.writeable = False
        with self._lock:
            if key not in self._held and array.nbytes <= self._limit:
                self._held[key] = array
                self.bytes += array.nbytes
                while self.bytes > self._limit:
                    self.bytes -= self._held.popitem(last=False)[1].nbytes
        return array


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Least-squares similarity that takes points a to b (closed form over complex numbers).

    Args:
      a: [P, 2] points (x, y).
      b: [P, 2] the same points elsewhere.

    Returns:
      (rotation in degrees, scale); NaN where a point is NaN or all points are one.
    """
    p, q = ((points - points.mean(axis=0)) @ np.array([1, 1j]) for points in (a.astype(float), b.astype(float)))
    size = np.vdot(p, p).real
    if not (size > 0 and np.isfinite(q).all()):
        return math.nan, math.nan
    factor = np.vdot(p, q) / size
    return math.degrees(np.angle(factor)), abs(factor)


class PairSampler:
    """Draws pairs from the clips of a source.

    Args:
      source: the clips.
      settings: see PairSettings.
      size: height and width of the delivered frames.
      channels: 3 (colour) or 1 (grey).
    """

    def __init__(self, source: Source, settings: PairSettings, size: int, channels: int) -> None:
        table = source.table
        low, high = settings.dt_ms
        if not 0 < low <= high:
            raise ValueError(f"dt_ms is (shortest, longest) with 0 < shortest <= longest, found {settings.dt_ms}")
        if settings.tries < 1 or settings.task not in ("reconstruct", "forecast"):
            raise ValueError(f"tries >= 1 and a task of reconstruct, forecast wanted, found {settings}")
        self.source, self.settings, self.size, self.channels = source, settings, size, channels
        self._cache = ByteCache(int(settings.cache_mb * 2**20))
        self._crop = functools.lru_cache(maxsize=64)(self._make_crop)
        columns = (table[name] for name in ("onset", "apex", "offset", "length"))
        self.first, self.last = sampling.extent(settings.extent, *columns)
        fps = np.nan_to_num(table["fps"].astype(float))
        self.steps = 2 if settings.task == "forecast" else 1  # intervals an example spans
        # whole numbers of frames whose time lies inside dt_ms; a tolerance, since 0.08 s * 25 / s is not quite 2
        self.k_min = np.maximum(np.ceil(low * fps / 1000 - 1e-6), 1).astype(int)
        k_max = np.floor(high * fps / 1000 + 1e-6).astype(int)
        self.k_max = np.minimum(k_max, (self.last - self.first) // self.steps)

    def usable(self) -> np.ndarray:
        """Whether a clip is long enough for a pair, and its frames dense enough [n] bool."""
        return self.k_min <= self.k_max

    def sample(self, i: int, rng: np.random.Generator) -> Pair:
        """Draws one example from clip `i`, which must be usable; everything random comes from `rng`."""
        counts = dict.fromkeys(COUNTERS, 0)
        landmarks = self._cache(self._read_landmarks, i)
        counts["pose_unknown"] = int(not np.isfinite(landmarks[:, STABLE_POINTS]).all())
        counts["pairs"] = 1
        backwards = rng.random() < self.settings.reverse_p
        for _ in range(self.settings.tries):
            counts["tried"] += 1
            k = int(self.k_min[i] + rng.random() * (self.k_max[i] - self.k_min[i] + 1))
            starts = int(self.last[i] - self.first[i]) - self.steps * k + 1
            start = int(self.first[i] + rng.random() * starts)
            positions = tuple(start + step * k for step in range(self.steps + 1))
            rejection = self._pose(landmarks, positions)
            rejected_early = rejection is not None
            if not rejected_early:
                images = tuple(self._cache(self._read_frame, i, t) for t in positions)
                rejection = self._change(images, self._face(i, positions[0], landmarks[positions[0]]))
            if rejection is None:
                break
            counts[rejection] += 1
        else:
            counts["gave_up"] = 1
            if rejected_early:
                images = tuple(self._cache(self._read_frame, i, t) for t in positions)
        order = slice(None, None, -1 if backwards else 1)
        tally = np.array([counts[name] for name in COUNTERS], np.int64)
        return Pair(positions[order], images[order], rejection is None, tally)

    def _read_landmarks(self, i: int) -> np.ndarray:
        return np.array(self.source.landmarks(i))

    def _read_frame(self, i: int, t: int) -> np.ndarray:
        way = self._crop(i).way(t)
        return np.array(frames.with_channels(way.image(self.source.frame(i, t)), self.channels))

    def _pose(self, landmarks: np.ndarray, positions: tuple[int, ...]) -> str | None:
        for a, b in itertools.pairwise(positions):
            rotation, scale = similarity(landmarks[a, STABLE_POINTS], landmarks[b, STABLE_POINTS])
            if abs(rotation) > self.settings.max_rotation_deg:
                return "rotation"
            if abs(scale - 1) > self.settings.max_scale:
                return "scale"
        return None  # unknown landmarks give NaN, which exceeds nothing

    def _change(self, images: tuple[np.ndarray, ...], face: tuple[slice, slice]) -> str | None:
        rows, columns = face
        for a, b in itertools.pairwise(images):
            change = cv2.absdiff(a[rows, columns], b[rows, columns]).mean() / 255
            if change > self.settings.max_change:
                return "cut"
            if change < self.settings.min_change:
                return "frozen"
        return None

    def _make_crop(self, i: int) -> align_lib.Crop:
        return align_lib.crop_of(self.source, i, self.size, self.settings.fit, self.settings.align)

    def _face(self, i: int, t: int, landmarks: np.ndarray) -> tuple[slice, slice]:
        """The box around the landmarks in the delivered frame; the whole frame where they are unknown."""
        if not np.isfinite(landmarks).all():
            return slice(None), slice(None)
        size, points = self.size, self._crop(i).way(t).points(landmarks)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        left, top = (int(np.clip(edge, 0, size - 1)) for edge in (left, top))
        right, bottom = (int(np.clip(math.ceil(edge) + 1, 1, size)) for edge in (right, bottom))
        return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))
