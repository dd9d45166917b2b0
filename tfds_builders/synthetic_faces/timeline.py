"""When things happen in a clip: the event's phases, and what else moves or changes while it lasts.

Sources of the numbers: a micro-expression lasts at most half a second, its onset at most 260 ms (Yan, Wu, Liang, Chen &
Fu, J. Nonverbal Behav. 2013); macro-expressions last 0.5 to 4 s (Ekman 2003; Matsumoto & Hwang 2011); blinks close the
eye for 100 to 300 ms (Stern, Walrath & Goldstein 1984); people sit at the camera, so the head drifts slowly by
millimetres. Nuisances are drawn independently of the class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfds_builders.synthetic_faces.action_units import MM


@dataclasses.dataclass(frozen=True)
class Event:
    """Phases of one event, in seconds from the first frame.

    Attributes:
      onset: begin.
      apex: strongest moment; 25 to 75 % of the event.
      hold: how long the apex is held (macro).
      offset: end.
    """

    onset: float
    apex: float
    hold: float
    offset: float

    def intensity(self, time: np.ndarray) -> np.ndarray:
        """Share of the peak intensity at times [n], 0 outside the event; smooth."""
        rise = (time - self.onset) / (self.apex - self.onset)
        fall = (self.offset - time) / (self.offset - self.apex - self.hold)
        return smoothstep(np.minimum(rise, fall))


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One clip in time.

    Attributes:
      fps: frames a second.
      frames: number of frames T.
      event: None in a neutral clip.
      onset: annotated positions (the true ones plus a few ms).
      apex: see onset.
      offset: see onset.
      true_onset: true positions, rounded to frames.
      true_apex: see true_onset.
      true_offset: see true_onset.
      shift: head translation [T, 2] in face units.
      rotation: head rotation [T] in radians.
      scale: head size [T], 1 = unchanged.
      blink: lid closure [T] by blinks, 0..1.
      blinks: number of blinks.
      light: (gain, x slope, y slope) [T, 3] of the illumination.
      noise: standard deviation of the sensor noise in grey levels of 0..255.
      quality: JPEG quality that the frames went through, 0 = none.
    """

    fps: float
    frames: int
    event: Event | None
    onset: int
    apex: int
    offset: int
    true_onset: int
    true_apex: int
    true_offset: int
    shift: np.ndarray
    rotation: np.ndarray
    scale: np.ndarray
    blink: np.ndarray
    blinks: int
    light: np.ndarray
    noise: float
    quality: int


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Ranges that a timeline is drawn from.

    Attributes:
      fps: frame rates, equally likely.
      duration: of the event in seconds.
      margin: before and after the event, in seconds.
      hold: share of the event that the apex is held, at most.
      key_frame_noise: standard deviation of the annotated key frames, seconds.
      drift_mm: standard deviation of the head's translation over the clip.
      drift_degrees: the same for its rotation.
      blink_rate: expected blinks a second.
      flicker: largest change of the illumination within a clip.
      light: mean and standard deviation of the illumination's gain.
      slope: standard deviation of its slopes across the frame.
      noise: sensor noise, standard deviation in grey levels of 0..255.
    """

    fps: tuple[float, ...] = (100.0, 200.0)
    duration: tuple[float, float] = (0.17, 0.49)
    margin: tuple[float, float] = (0.02, 0.10)
    hold: float = 0.0
    key_frame_noise: float = 0.004
    drift_mm: float = 0.9
    drift_degrees: float = 0.25
    blink_rate: float = 0.3
    flicker: float = 0.05
    light: tuple[float, float] = (1.0, 0.08)
    slope: float = 0.08
    noise: tuple[float, float] = (0.8, 2.5)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """3x^2 - 2x^3 on 0..1, constant outside."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _wander(rng: np.random.Generator, time: np.ndarray, deviation: float) -> np.ndarray:
    """A slow random movement [T] that starts at 0: a ramp and two slow waves."""
    span = max(float(time[-1]), 1e-6)
    x = time / span
    ramp, *waves = rng.normal(0, deviation, 3)
    phases = rng.uniform(0, 2 * np.pi, 2)
    path = ramp * x + sum(
        0.5 * w * (np.sin(np.pi * k * x + p) - np.sin(p)) for k, (w, p) in enumerate(zip(waves, phases, strict=True), 1)
    )
    return np.asarray(path)


def draw(rng: np.random.Generator, rhythm: Rhythm, neutral: bool) -> Timeline:
    """A timeline; `neutral` has everything but the event."""
    fps = float(rhythm.fps[int(rng.integers(len(rhythm.fps)))])
    duration = float(np.exp(rng.uniform(*np.log(rhythm.duration))))
    before, after = rng.uniform(*rhythm.margin, 2)
    frames = int(np.ceil((before + duration + after) * fps)) + 1
    time = np.arange(frames) / fps
    hold = float(rng.uniform(0, rhythm.hold)) * duration
    apex = before + float(rng.uniform(0.25, 0.75)) * (duration - hold)
    event = Event(before, apex, hold, before + duration)
    moments = np.array([event.onset, event.apex, event.offset])
    true = np.clip(np.rint(moments * fps), 0, frames - 1).astype(int)
    noisy = np.sort(moments + rng.normal(0, rhythm.key_frame_noise, 3))
    said = np.clip(np.rint(noisy * fps), 0, frames - 1).astype(int)
    said[2] = max(said[2], min(said[0] + 2, frames - 1))
    said[1] = np.clip(said[1], said[0] + 1, said[2])
    blinks = int(rng.poisson(rhythm.blink_rate * time[-1]))
    blink = np.zeros(frames)
    for _ in range(blinks):
        centre, length = rng.uniform(0, time[-1]), rng.uniform(0.1, 0.3)
        blink = np.maximum(blink, smoothstep(1 - np.abs(time - centre) / (length / 2)) * rng.uniform(0.7, 1.0))
    drift = rhythm.drift_mm * MM
    shift = np.stack([_wander(rng, time, drift) + rng.normal(0, 3 * drift) for _ in range(2)], 1)
    lamp = [rng.normal(*rhythm.light), rng.normal(0, rhythm.slope), rng.normal(0, rhythm.slope)]
    light = np.stack([base + _wander(rng, time, rhythm.flicker / 3) for base in lamp], 1)
    return Timeline(
        fps=fps,
        frames=frames,
        event=None if neutral else event,
        onset=int(said[0]),
        apex=int(said[1]),
        offset=int(said[2]),
        true_onset=int(true[0]),
        true_apex=int(true[1]),
        true_offset=int(true[2]),
        shift=shift,
        rotation=_wander(rng, time, np.deg2rad(rhythm.drift_degrees)) + rng.normal(0, np.deg2rad(1.5)),
        scale=1 + _wander(rng, time, 0.002) + rng.normal(0, 0.02),
        blink=blink,
        blinks=blinks,
        light=light,
        noise=float(rng.uniform(*rhythm.noise)),
        quality=0 if rng.random() < 0.5 else int(rng.integers(80, 98)),
    )


def nuisances(timeline: Timeline) -> dict[str, Any]:
    """What a classifier must not be able to use: numbers that are drawn independently of the class."""
    return {
        "duration": (timeline.true_offset - timeline.true_onset) / timeline.fps,
        "fps": timeline.fps,
        "apex_position": (timeline.apex - timeline.onset) / max(timeline.offset - timeline.onset, 1),
        "brightness": float(timeline.light[:, 0].mean()),
        "noise": timeline.noise,
        "compression": timeline.quality,
        "drift": float(np.linalg.norm(timeline.shift[-1] - timeline.shift[0])),
        "blink_count": timeline.blinks,
    }
