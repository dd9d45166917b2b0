"""Windows of a recording as a trained network wants them: cut out, at its time scale, with apex and motion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mer_jax.data import align, apex, flow_grid, motion, packed, prepared
from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import N_LANDMARKS
from mer_jax.data.magnify import magnify
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.predict.recordings import Buffer, Recording

Landmarker = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, C] -> [68, 2], NaN without a face


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Windows in time.

    Attributes:
      window: seconds.
      stride: seconds from one window to the next.
      shortest: seconds that a recording must have; one shorter than a window is a window by itself.
      rates: frame rates of the training clips, ascending; () keeps that of the recording.
    """

    window: float
    stride: float
    shortest: float
    rates: tuple[float, ...] = ()

    def rate(self, fps: float) -> float:
        """Frames a second of the windows: the training rate nearest to the recording's.

        INFERRED: networks that read flow between neighbours, or every frame, depend on the rate; frames between two
        recorded ones are interpolated linearly (TIM). A rate within 1 % of the recording's leaves its frames as they
        are.
        """
        if not self.rates:
            return fps
        nearest = min(self.rates, key=lambda rate: abs(math.log(rate / fps)))
        return fps if abs(nearest / fps - 1) < 0.01 else nearest


@dataclasses.dataclass(frozen=True)
class Window:
    """One window.

    Attributes:
      number: from 0.
      first: its first frame in the recording.
      last: its last frame in the recording.
      frames: uint8 [L, S, S, C] at the rate of the windows; empty where no face was found.
      keys: onset, apex (-1 where it is to be found) and offset among the L frames.
      rate: frames a second of the L frames.
    """

    number: int
    first: int
    last: int
    frames: np.ndarray
    keys: tuple[int, int, int]
    rate: float

    @property
    def face(self) -> bool:
        """Whether there is something to look at."""
        return len(self.frames) > 0


class Cutter:
    """Makes windows as `settings` made clips.

    Attributes:
      decoded: frames of the last recording whose windows came to their end.

    Args:
      settings: of the run.
      system: of the run.
      alignment: how faces are cut out.
      landmarker: finds landmarks where none are given; None for none.
    """

    def __init__(
        self, settings: Any, system: Any, alignment: align.Alignment, landmarker: Landmarker | None = None
    ) -> None:
        self.settings, self.system, self.alignment = settings, system, alignment
        self._landmarker, self.decoded = landmarker, 0
        self._found: dict[int, np.ndarray] = {}  # landmarks by frame of the recording that is looked at
        self._magnification = prepared.magnification(settings)
        needs = system.needs
        if needs.modality == "flow_strain":
            raise UserError(
                "this run reads pictures of flow and strain (model.input=pictures), which a video does not hold; "
                "use a run that reads frames"
            )

    def windows(self, recording: Recording, rhythm: Rhythm, only: Sequence[int] | None = None) -> Iterator[Window]:
        """The windows of a recording in order; of an event with given key frames a single one.

        Args:
          recording: see Recording.
          rhythm: see Rhythm.
          only: numbers of the windows that are cut out, ascending; the others are passed over.

        Raises:
          UserError: the recording is too short, its frame rate is unknown, or its frames cannot be read.
        """
        fps = recording.fps
        if not fps > 0:
            raise UserError(f"{recording.path}: its frame rate is unknown; give it with --fps")
        plain = self.alignment.kind == "none"
        self._found = {}
        buffer = Buffer(recording, self._plain_square if plain else lambda frame: frame)
        if recording.key_frames is not None:
            yield self._event(recording, rhythm, buffer)
            self.decoded = buffer.decoded
            return
        rate = rhythm.rate(fps)
        count = max(round(rhythm.window * rate), 2)
        span = math.ceil((count - 1) * fps / rate - 1e-6)  # frames of the recording from a window's first to its last
        number = 0
        while only is None or number <= max(only, default=-1):
            first = round(number * rhythm.stride * fps)
            raw = buffer.stretch(first, first + span)
            if raw is None:
                break
            if only is None or number in only:
                at = np.arange(count) * fps / rate
                yield self._window(recording, number, first, raw, at, (0, -1, count - 1), rate)
            number += 1
        if number == 0 and (only is None or 0 in only):
            yield self._short(recording, rhythm, buffer)
        self.decoded = buffer.decoded

    def _event(self, recording: Recording, rhythm: Rhythm, buffer: Buffer) -> Window:
        assert recording.key_frames is not None
        raw = self._all(recording, buffer)
        rate = rhythm.rate(recording.fps)
        onset, apex, offset = recording.key_frames
        if offset >= len(raw):
            raise UserError(
                f"{recording.name}: the offset is frame {offset} of {len(raw)}; give one inside the recording"
            )
        scale = rate / recording.fps
        count = math.floor((len(raw) - 1) * scale + 1e-6) + 1
        keys = tuple(-1 if k < 0 else min(round(k * scale), count - 1) for k in (onset, apex, offset))
        return self._window(recording, 0, 0, raw, np.arange(count) / scale, (keys[0], keys[1], keys[2]), rate)

    def _short(self, recording: Recording, rhythm: Rhythm, buffer: Buffer) -> Window:
        raw = self._all(recording, buffer)
        seconds = len(raw) / recording.fps
        if len(raw) < 2 or seconds < rhythm.shortest:
            raise UserError(
                f"{recording.name}: too short: {len(raw)} frames, {seconds:.3f} s at {recording.fps:g} frames/s; "
                f"expected at least {rhythm.shortest:.3f} s (clips of the training data are that long), "
                "or give --window"
            )
        rate = rhythm.rate(recording.fps)
        count = max(math.floor((len(raw) - 1) * rate / recording.fps + 1e-6) + 1, 2)
        at = np.minimum(np.arange(count) * recording.fps / rate, len(raw) - 1)
        return self._window(recording, 0, 0, raw, at, (0, -1, count - 1), rate)

    def _all(self, recording: Recording, buffer: Buffer) -> list[np.ndarray]:
        while buffer.stretch(0, buffer.decoded) is not None:
            pass
        if not buffer.decoded:
            raise UserError(f"{recording.path}: no frame can be decoded in the given part; expected some")
        found = buffer.stretch(0, buffer.decoded - 1)
        assert found is not None
        return found

    def _window(
        self,
        recording: Recording,
        number: int,
        first: int,
        raw: list[np.ndarray],
        at: np.ndarray,
        keys: tuple[int, int, int],
        rate: float,
    ) -> Window:
        """Cuts a window out of its recorded frames; `at` are the positions of its frames among them."""
        last = first + len(raw) - 1
        squares = self._squares(recording, first, raw)
        if squares is None:
            return Window(number, first, last, np.empty(0, np.uint8), keys, rate)
        if not np.array_equal(at, np.arange(len(raw))):
            t, *shape = squares.shape
            between = flow_grid.frames_at(squares.reshape(t, shape[0], -1), at)
            squares = np.rint(between).astype(np.uint8).reshape(-1, *shape)
        return Window(number, first, last, magnify(squares, self._magnification, rate), keys, rate)

    def _squares(self, recording: Recording, first: int, raw: list[np.ndarray]) -> np.ndarray | None:
        """Recorded frames -> uint8 [n, S, S, C]; None where alignment needs a face and there is none."""
        needs = self.system.needs
        if self.alignment.kind == "none":
            return np.stack(raw)
        points = recording.points(first, first + len(raw) - 1)
        if points is None:
            points = self._find(raw, first)
        wanted = points[:, align.STABLE_POINTS] if self.alignment.kind == "clip" else points
        if not np.isfinite(wanted).all(axis=(1, 2)).any():
            return None
        shape = (raw[0].shape[0], raw[0].shape[1])
        crop = align.crop(points, shape, needs.size, self.settings.data.fit, self.alignment, recording.name)
        return np.stack([crop.way(t).image(frames_lib.with_channels(x, needs.channels)) for t, x in enumerate(raw)])

    def _find(self, raw: list[np.ndarray], first: int) -> np.ndarray:
        """Landmarks [n, 68, 2] by the model; for one way a window the first frame with a face is enough."""
        self._found = {n: points for n, points in self._found.items() if n >= first}  # windows overlap
        if self._landmarker is None:
            raise UserError(
                f"alignment {self.alignment.kind!r} needs landmarks: give --landmarks FILE, or --model "
                "face_landmarker.task; or --align none for frames that are face crops already"
            )
        points = np.full((len(raw), N_LANDMARKS, 2), np.nan, np.float32)
        for t, frame in enumerate(raw):
            if first + t not in self._found:
                self._found[first + t] = self._landmarker(frame)
            points[t] = self._found[first + t]
            if self.alignment.kind == "clip" and np.isfinite(points[t]).all():
                break
        return points

    def _plain_square(self, frame: np.ndarray) -> np.ndarray:
        needs = self.system.needs
        way = frames_lib.square(frame.shape[0], frame.shape[1], needs.size, self.settings.data.fit)
        return way.image(frames_lib.with_channels(frame, needs.channels))

    def store(self, windows: Sequence[Window], size: int) -> ClipStore:
        """A store of `size` clips: windows of one length, the last one again where there are fewer."""
        padded = [*windows, *[windows[-1]] * (size - len(windows))]
        frames = np.stack([w.frames for w in padded])
        keys = np.array([w.keys for w in padded], np.int32)
        system, needs = self.system, self.system.needs
        specs = motion.named(needs.motion)
        fields: dict[str, Any] = {
            "length": np.full(size, frames.shape[1], np.int32),
            "onset": keys[:, 0],
            "offset": keys[:, 2],
            "fps": np.array([w.rate for w in padded], np.float32),
            "landmarks": needs.landmarks,
        }
        blank = packed.blank(packed.target_shapes(specs, needs.size, size))
        store = packed.pack(frames, apex=keys[:, 1], motion=blank, **fields)
        if system.oracle_inputs == "boundaries+apex" and (keys[:, 1] < 0).any():
            spotted = apex.apex_positions("spotted", store)
            keys[:, 1] = np.where(keys[:, 1] < 0, spotted, keys[:, 1])
        targets: dict[str, Any] = blank
        if system.reads_targets and specs:
            clips = [
                motion.DecodedClip(w.frames, int(k[0]), int(k[1]), int(k[2]), w.rate)
                for w, k in zip(windows, keys, strict=False)
            ]
            targets = {name: self._targets(clips, spec, size) for name, spec in specs.items()}
        return packed.pack(frames, apex=keys[:, 1], motion=targets, **fields)

    def _targets(self, clips: list[motion.DecodedClip], spec: motion.MotionSpec, size: int) -> np.ndarray:
        if spec.varies:
            raise NotImplementedError(f"{spec.kind} as an input of a network")  # no system has that
        found = motion.clip_targets(clips, spec)
        return np.stack([*found, *[found[-1]] * (size - len(found))])
