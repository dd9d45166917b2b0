"""Finds expressions in long synthetic videos: a run with a neutral class beside a flow-magnitude spotter.

    python -m mer_jax.main --config configs/ststnet.py:labels=synthetic_expression,protocol=kfold \
        --config.data.name=synthetic_faces/spotting --config.data.n_folds=2 --config.ft.epochs=300 --workdir RUN
    python -m tests.benchmarks.bench_predict RUN [--seconds 15] [--people 4] [--gain LOW HIGH] [--videos FOLDER]

A video is one person of the generator without a cut: a head that drifts, blinks, light that changes, and events at
known times, seconds apart. Thresholds and the shortest duration are chosen on videos of persons of the run's own data
(each looked at by the fold that held them out), separately for both methods, by F1; then both are measured on persons
of `micro`, whom nothing has seen, and on videos of them without any event. An interval is found where its overlap (IoU)
with a true one is at least 0.5; AUC is that of single windows. The spotter: mean TV-L1 flow from the first to the
strongest frame of the same windows.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mer_jax.data import motion
from mer_jax.predict import Options, Prediction, Predictor, intervals
from mer_jax.predict.recordings import Recording
from tfds_builders.synthetic_faces import emotions, timeline
from tfds_builders.synthetic_faces.action_units import MM
from tfds_builders.synthetic_faces.faces import person, text_seed
from tfds_builders.synthetic_faces.generate import CONFIGS
from tfds_builders.synthetic_faces.render import Pose, Renderer, expose

FPS = 100.0
KNOT = 0.4  # seconds over which head and light wander by what they do in a clip of the data set
SCORED = "micro"
Spans = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Video:
    """A video in a folder of frames, and when its events are, in seconds."""

    recording: Recording
    events: tuple[tuple[float, float], ...]


def wander(rng: np.random.Generator, seconds: float, deviation: float) -> np.ndarray:
    """A smooth random path [T]: knots that keep 0.9 of the last one's value, so that it does not run away."""
    count = int(seconds / KNOT) + 4
    knots = np.zeros(count)
    for k in range(1, count):
        knots[k] = 0.9 * knots[k - 1] + rng.normal(0, deviation)
    at = np.arange(round(seconds * FPS)) / FPS / KNOT
    low = np.floor(at).astype(int)
    return knots[low] + timeline.smoothstep(at - low) * (knots[low + 1] - knots[low])


def render(
    folder: Path, config: str, subject: str, seconds: float, events: bool, gain: tuple[float, float] | None = None
) -> Video:
    """A video of a person of a config; rendered once, then found in its folder.

    Args:
      folder: of all videos.
      config: whose people, expressions and nuisances.
      subject: the person.
      seconds: its length.
      events: whether there are expressions: 0.7 to 2.2 s from the end of one to the begin of the next.
      gain: intensity of the expressions, 1 = the largest excursion; None for that of the config.
    """
    of = CONFIGS[config]
    of = dataclasses.replace(of, gain=gain or of.gain)
    rng = np.random.default_rng(text_seed("bench_predict", config, subject, str(seconds), str(events)))
    rhythm, who = of.rhythm, person(of.cohort, subject)
    planned: list[tuple[timeline.Event, dict]] = []
    begin = rng.uniform(0.5, 1.5)
    while events:
        duration = float(np.exp(rng.uniform(*np.log(rhythm.duration))))
        if begin + duration + 0.3 > seconds:
            break
        event = timeline.Event(begin, begin + rng.uniform(0.25, 0.75) * duration, 0.0, begin + duration)
        word = str(rng.choice(list(of.shares)))
        planned.append((event, emotions.draw(of.table, word, rng, of.gain)))
        begin += duration + rng.uniform(0.7, 2.2)
    count = round(seconds * FPS)
    moments = np.arange(count) / FPS
    shift = np.stack([wander(rng, seconds, rhythm.drift_mm * MM) for _ in range(2)], 1)
    rotation = wander(rng, seconds, np.deg2rad(rhythm.drift_degrees))
    scale = 1 + wander(rng, seconds, 0.002)
    blink = np.zeros(count)
    for _ in range(rng.poisson(rhythm.blink_rate * seconds)):
        centre, length = rng.uniform(0, seconds), rng.uniform(0.1, 0.3)
        blink = np.maximum(blink, timeline.smoothstep(1 - np.abs(moments - centre) / (length / 2)))
    light = np.stack([base + wander(rng, seconds, rhythm.flicker / 3) for base in (1.0, 0.0, 0.0)], 1)
    noise = float(rng.uniform(*rhythm.noise))
    name = f"{config}_{subject}_{'events' if events else 'none'}_{seconds:g}s"
    name += f"_{gain[0]:g}_{gain[1]:g}" if gain and events else ""
    frames = folder / name
    frames.mkdir(parents=True, exist_ok=True)
    if len(list(frames.glob("*.png"))) < count:
        renderer = Renderer(of.cohort, subject, of.size)
        for t in range(count):
            activation = dict(who.resting)
            for event, peak in planned:
                level = float(event.intensity(np.array(moments[t])))
                for key, value in peak.items() if level else ():
                    activation[key] = activation.get(key, 0.0) + level * value
            place = (float(shift[t, 0]), float(shift[t, 1]))
            pose = Pose(activation, float(blink[t]), place, float(rotation[t]), float(scale[t]))
            image = expose(renderer.clean(pose), light[t], noise, 0, rng)
            cv2.imwrite(str(frames / f"{t:06d}.png"), image[..., ::-1])
    dataset = f"synthetic_faces_{config}" if config != SCORED else ""
    recording = Recording(name, frames, FPS, dataset=dataset, subject=subject if dataset else "")
    return Video(recording, tuple((event.onset, event.offset) for event, _ in planned))


def flow_scores(predictor: Predictor, video: Video) -> tuple[np.ndarray, float]:
    """Mean flow in pixels from the first to the strongest frame of every window [n], and the seconds it took."""
    began = time.monotonic()
    pairs = []
    for window in predictor.cutter.windows(video.recording, predictor.rhythm):
        grey = np.stack([motion.with_channels(frame, 1)[..., 0] for frame in window.frames])
        change = cv2.blur(np.abs(grey.astype(np.float32) - grey[0]).transpose(1, 2, 0), (8, 8)).mean((0, 1))
        pairs.append((grey[0], grey[int(change.argmax())]))
    fields = motion.flow_fields(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
    inner = fields[:, 6:-6, 6:-6]  # skin that comes in at the edge has no flow
    return np.linalg.norm(inner, axis=-1).mean((1, 2)), time.monotonic() - began


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of the windows of one video, and their middles."""

    video: Video
    scores: np.ndarray
    middles: np.ndarray

    def found(self, stride: float, threshold: float, shortest: float) -> Spans:
        """The intervals at a threshold."""
        return [(i.start, i.end) for i in intervals.find(self.scores, self.middles, stride, threshold, shortest)]


def f1(parts: Sequence[Scored], stride: float, threshold: float, shortest: float) -> tuple[float, int, int, int]:
    """F1, and the numbers of intervals that are right, found, and true."""
    right = found = true = 0
    for part in parts:
        spans = part.found(stride, threshold, shortest)
        right += intervals.matches(spans, list(part.video.events))
        found, true = found + len(spans), true + len(part.video.events)
    return 2 * right / max(found + true, 1), right, found, true


def area(parts: Sequence[Scored]) -> float:
    """Area under the ROC curve of windows: those with their middle inside an event against the others."""
    scores, inside = np.concatenate([p.scores for p in parts]), []
    for part in parts:
        spans = part.video.events
        inside += [any(a <= m <= b for a, b in spans) for m in part.middles]
    event, other = scores[inside], scores[~np.array(inside)]
    return float((event[:, None] > other).mean() + 0.5 * (event[:, None] == other).mean())


def choose(parts: Sequence[Scored], stride: float, window: float) -> tuple[float, float]:
    """Threshold and shortest duration with the largest F1."""
    levels = np.quantile(np.concatenate([p.scores for p in parts]), np.linspace(0.2, 0.995, 80))
    options = [(float(t), float(s)) for t in levels for s in (0.25 * window, 0.5 * window, 0.75 * window)]
    return max(options, key=lambda o: f1(parts, stride, *o)[0])


def main() -> None:
    """Renders, looks, chooses, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run with a neutral class on a set of synthetic_faces, not on micro")
    parser.add_argument("--seconds", type=float, default=15.0, help="of every video")
    parser.add_argument("--people", type=int, default=4, help="videos of each kind")
    parser.add_argument("--gain", type=float, nargs=2, help="intensity of the expressions (default: of the data set)")
    parser.add_argument("--videos", type=Path, default=Path("workdir/bench_predict"), help="where they are kept")
    given = parser.parse_args()
    predictor = Predictor(given.run, Options())
    rhythm = predictor.rhythm
    who = [f"p{k + 1:03d}" for k in range(given.people)]

    def rendered(config: str, events: bool) -> list[Video]:
        gain = (given.gain[0], given.gain[1]) if given.gain else None
        return [render(given.videos, config, subject, given.seconds, events, gain) for subject in who]

    kinds = {
        "development": rendered(predictor.ensemble.settings.data.name.split("/")[1], True),
        "scored": rendered(SCORED, True),
        "event-free": rendered(SCORED, False),
    }
    spent = {"run": 0.0, "flow": 0.0}
    frames = sum(round(given.seconds * FPS) for videos in kinds.values() for _ in videos)
    parts: dict[str, dict[str, list[Scored]]] = {"run": {}, "flow": {}}

    def by_run(video: Video) -> tuple[np.ndarray, float]:
        found: Prediction = predictor.predict(video.recording)
        assert found.expression is not None, "the run has no neutral class"
        return found.expression, found.seconds

    def by_flow(video: Video) -> tuple[np.ndarray, float]:
        return flow_scores(predictor, video)

    methods: dict[str, Callable[[Video], tuple[np.ndarray, float]]] = {"run": by_run, "flow": by_flow}
    for method, score in methods.items():
        for kind, videos in kinds.items():
            for video in videos:
                scores, seconds = score(video)
                spent[method] += seconds
                first = np.round(np.arange(len(scores)) * rhythm.stride * FPS)
                middles = (first + (round(rhythm.window * FPS)) / 2) / FPS
                parts[method].setdefault(kind, []).append(Scored(video, scores, middles))
    print(f"windows of {rhythm.window:.3f} s every {rhythm.stride:.3f} s; {os.cpu_count()} cores; videos of "
          f"{given.seconds:g} s at {FPS:g} frames/s, {given.people} of each kind")  # fmt: skip
    print("method  threshold  shortest  F1 dev  F1 scored (right/found/true)  false alarms/min  AUC windows  frames/s")
    for method, found in parts.items():
        threshold, shortest = choose(found["development"], rhythm.stride, rhythm.window)
        development = f1(found["development"], rhythm.stride, threshold, shortest)[0]
        score, right, many, true = f1(found["scored"], rhythm.stride, threshold, shortest)
        alarms = sum(len(p.found(rhythm.stride, threshold, shortest)) for p in found["event-free"])
        minutes = given.seconds * len(found["event-free"]) / 60
        print(
            f"{method:6}  {threshold:9.3f}  {shortest:8.3f}  {development:6.3f}  {score:9.3f} ({right}/{many}/{true})"
            f"{'':12}{alarms / minutes:10.1f}  {area(found['scored']):11.3f}  {frames / spent[method]:10.1f}"
        )


if __name__ == "__main__":
    main()
