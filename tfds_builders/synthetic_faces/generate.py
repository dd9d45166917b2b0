"""From a config to clips: who, which class, which event; each clip is a pure function of its place in the plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import cv2
import numpy as np

from mer_jax.data.clips import AU_SIDES, AU_SLOTS, ClipRecord
from tfds_builders.synthetic_faces import emotions, timeline
from tfds_builders.synthetic_faces.action_units import Activation
from tfds_builders.synthetic_faces.faces import SIDES, outer_eye_distance, person, text_seed
from tfds_builders.synthetic_faces.render import Pose, Renderer, expose
from tfds_builders.synthetic_faces.timeline import Rhythm, Timeline

VERSION = "1.0.0"
LANDMARK_JITTER = 0.01  # standard deviation of stored landmarks, in distances of the outer eye corners
NON_NEUTRAL = 0.2  # share of clips that start from an expression already on the face


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """A set of clips.

    Attributes:
      name: of the config.
      cohort: of its people; sets with different cohorts share nobody.
      persons: number of people.
      clips: number of clips with an expression.
      neutral_clips: number of clips with distractors only.
      size: height and width in pixels.
      expression_type: micro or macro.
      gain: intensity of the strongest action unit, 1 = its largest excursion.
      rhythm: when things happen.
      balance: (class, relative frequency); empty for that of the expression type.
    """

    name: str
    cohort: str
    persons: int
    clips: int
    neutral_clips: int
    size: int
    expression_type: str
    gain: tuple[float, float]
    rhythm: Rhythm
    balance: tuple[tuple[str, int], ...] = ()

    @property
    def table(self) -> emotions.Table:
        """Class-to-action-unit table."""
        return emotions.MICRO if self.expression_type == "micro" else emotions.MACRO

    @property
    def shares(self) -> dict[str, int]:
        """Relative frequency of the classes."""
        if self.balance:
            return dict(self.balance)
        return emotions.MICRO_SHARES if self.expression_type == "micro" else emotions.MACRO_SHARES


_MICRO = SyntheticConfig("micro", "synthetic_micro", 24, 220, 24, 64, "micro", (0.10, 0.36), Rhythm())
_MACRO_RHYTHM = Rhythm(
    fps=(25.0, 30.0), duration=(0.5, 4.0), margin=(0.1, 0.5), hold=0.3, key_frame_noise=0.01, drift_mm=3.0,
    drift_degrees=1.0,
)  # fmt: skip
_MACRO = SyntheticConfig("macro", "synthetic_macro", 48, 240, 12, 64, "macro", (0.45, 1.0), _MACRO_RHYTHM)
# Families over one motion law: the same units move the same way, and one thing at a time differs from `base`.
_FAMILY_RHYTHM = dataclasses.replace(_MICRO.rhythm, fps=(100.0,))
_BASE = dataclasses.replace(
    _MICRO, name="base", cohort="synthetic_base", persons=12, clips=72, neutral_clips=0, gain=(0.25, 0.6),
    rhythm=_FAMILY_RHYTHM, balance=(("happiness", 18), ("disgust", 26), ("repression", 14), ("surprise", 14)),
)  # fmt: skip
_FAMILIES = (
    _BASE,
    # to choose by, never scored; as large as what trains where one of five databases is held out
    dataclasses.replace(_BASE, name="base_dev", cohort="synthetic_base_dev", persons=48, clips=288),
    dataclasses.replace(_BASE, name="twin", cohort="synthetic_twin"),
    dataclasses.replace(
        _BASE, name="appearance", cohort="synthetic_appearance", size=40,
        rhythm=dataclasses.replace(_FAMILY_RHYTHM, light=(0.7, 0.12), slope=0.25, noise=(2.5, 5.0)),
    ),
    dataclasses.replace(
        _BASE, name="motion", cohort="synthetic_motion", gain=(0.35, 0.8),
        rhythm=dataclasses.replace(_FAMILY_RHYTHM, fps=(30.0,), duration=(0.3, 0.5)),
    ),
    dataclasses.replace(
        _BASE, name="prior", cohort="synthetic_prior",
        balance=(("happiness", 30), ("disgust", 6), ("repression", 6), ("surprise", 30)),
    ),
)  # fmt: skip
CONFIGS = {
    config.name: config
    for config in (
        *_FAMILIES,
        _MICRO,
        _MACRO,
        dataclasses.replace(_MICRO, name="micro_dev", cohort="synthetic_dev"),
        # as many neutral clips as others: what networks that find expressions in videos are trained on
        dataclasses.replace(_MICRO, name="spotting", cohort="synthetic_spotting", neutral_clips=220),
        dataclasses.replace(
            _MICRO, name="tiny_micro", cohort="synthetic_tiny_micro", persons=5, clips=25,
            rhythm=dataclasses.replace(_MICRO.rhythm, fps=(50.0,)), size=32, neutral_clips=2,
        ),
        dataclasses.replace(
            _MACRO, name="tiny_macro", cohort="synthetic_tiny_macro", persons=6, clips=18,
            rhythm=dataclasses.replace(_MACRO_RHYTHM, duration=(0.5, 1.0)), size=32, neutral_clips=2,
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClipJob:
    """One clip of the plan; small and picklable.

    Attributes:
      config: name of the config.
      number: place in the plan.
      subject: whose face.
      emotion: class, or neutral.
    """

    config: str
    number: int
    subject: str
    emotion: str

    @property
    def name(self) -> str:
        """`dataset/subject/clip`."""
        return f"synthetic_faces_{self.config}/{self.subject}/c{self.number:03d}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Ground truth of one clip.

    Attributes:
      job: the clip.
      timeline: when things happen.
      peak: activation at the apex (without rest and without what is on the face already).
      constant: activation all through the clip: the resting face, and in some clips an expression already there.
    """

    job: ClipJob
    timeline: Timeline
    peak: Activation
    constant: Activation

    def pose(self, frame: int) -> Pose:
        """The face in a frame."""
        t = self.timeline
        level = 0.0 if t.event is None else float(t.event.intensity(np.array(frame / t.fps)))
        activation = dict(self.constant)
        for key, value in self.peak.items():
            if level:
                activation[key] = activation.get(key, 0.0) + level * value
        shift = (float(t.shift[frame, 0]), float(t.shift[frame, 1]))
        return Pose(activation, float(t.blink[frame]), shift, float(t.rotation[frame]), float(t.scale[frame]))


def clip_jobs(config_name: str) -> list[ClipJob]:
    """The plan of a config: every clip with its person and class, in a fixed order.

    Classes have fixed counts and are dealt out at random, so that they are independent of the person; clips a person
    vary widely (a Dirichlet share), and everybody has at least one.
    """
    config = CONFIGS[config_name]
    rng = np.random.default_rng(text_seed("synthetic_faces plan", VERSION, config.name))
    share = np.array(list(config.shares.values()), float)
    exact = share / share.sum() * config.clips
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[: config.clips - counts.sum()]] += 1
    labels = np.repeat(list(config.shares), counts)
    rng.shuffle(labels)
    weights = rng.dirichlet(np.full(config.persons, 1.6))
    owners = np.concatenate(
        [np.arange(config.persons), rng.choice(config.persons, config.clips - config.persons, p=weights)]
    )
    neutral = rng.integers(0, config.persons, config.neutral_clips)
    people = np.concatenate([np.sort(owners), neutral])
    words = np.concatenate([labels, np.repeat("neutral", config.neutral_clips)])
    return [
        ClipJob(config_name, i, f"p{p + 1:03d}", str(w)) for i, (p, w) in enumerate(zip(people, words, strict=True))
    ]


@functools.lru_cache(maxsize=4096)
def facts(job: ClipJob) -> Facts:
    """Ground truth of a clip; nothing is rendered."""
    config = CONFIGS[job.config]
    rng = np.random.default_rng(text_seed("synthetic_faces clip", VERSION, job.config, str(job.number)))
    neutral = job.emotion == "neutral"
    # the nuisances come first, from their own stream: they cannot depend on the class
    when = timeline.draw(np.random.default_rng(rng.integers(2**62)), config.rhythm, neutral)
    constant: Activation = dict(person(config.cohort, job.subject).resting)
    if rng.random() < NON_NEUTRAL:
        unit = int(rng.choice([1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 24]))
        level = rng.uniform(0.3, 1.0) * config.gain[0] * 2
        for side in SIDES:
            constant[unit, side] = constant.get((unit, side), 0.0) + level
    peak = {} if neutral else emotions.draw(config.table, job.emotion, rng, config.gain)
    return Facts(job, when, peak, constant)


def render_clip(job: ClipJob, truth: Facts | None = None) -> ClipRecord:
    """Renders one clip: the same bytes in any order, process and machine with the pinned libraries.

    Args:
      job: the clip.
      truth: facts to render instead of the clip's own, for controls (see `head_alone`, `expression_alone`): frames,
        landmarks and action units are theirs; names, class and key frames stay the clip's.
    """
    config, truth = CONFIGS[job.config], truth or facts(job)
    t = truth.timeline
    renderer = Renderer(config.cohort, job.subject, config.size)
    rng = np.random.default_rng(text_seed("synthetic_faces pixels", VERSION, job.config, str(job.number)))
    frames, landmarks = [], []
    for i in range(t.frames):
        pose = truth.pose(i)
        image = expose(renderer.clean(pose), t.light[i], t.noise, t.quality, rng)
        frames.append(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        landmarks.append(renderer.landmarks(pose))
    exact = np.array(landmarks)
    jitter = LANDMARK_JITTER * outer_eye_distance(renderer.who.landmarks) * config.size
    units = np.zeros(AU_SLOTS, np.int8)
    sides = np.zeros(AU_SLOTS, np.int8)
    for unit, side in emotions.units_of(truth.peak).items():
        units[unit] = 1
        sides[unit] = AU_SIDES.index(side) if side != "both" else 0
    neutral = job.emotion == "neutral"
    return ClipRecord(
        clip=job.name,
        dataset=f"synthetic_faces_{job.config}",
        subject=job.subject,
        cohort=config.cohort,
        frames=frames,
        modality="rgb",
        fps=t.fps,
        onset=t.onset,
        apex=t.apex,
        offset=t.offset,
        apex_source="annotated",
        emotion=job.emotion,
        expression_type="neutral" if neutral else config.expression_type,
        action_units=units,
        action_unit_sides=sides,
        action_unit_intensity=np.zeros(AU_SLOTS, np.int8),
        landmarks=(exact + rng.normal(0, jitter, exact.shape)).astype(np.float32),
        true_onset=t.true_onset,
        true_apex=t.true_apex,
        true_offset=t.true_offset,
    )


def head_alone(truth: Facts) -> Facts:
    """A clip without its expression: head, lids, light and sensor noise are what they are, at the same times."""
    return dataclasses.replace(truth, peak={})


def expression_alone(truth: Facts) -> Facts:
    """A clip whose head and light stay as they are in its first frame, without blinks; with its sensor noise."""
    t = truth.timeline
    still = dataclasses.replace(
        t,
        shift=np.broadcast_to(t.shift[:1], t.shift.shape),
        rotation=np.broadcast_to(t.rotation[:1], t.rotation.shape),
        scale=np.broadcast_to(t.scale[:1], t.scale.shape),
        light=np.broadcast_to(t.light[:1], t.light.shape),
        blink=np.zeros_like(t.blink),
        blinks=0,
    )
    return dataclasses.replace(truth, timeline=still)


def generate(config_name: str) -> Iterator[ClipRecord]:
    """All clips of a config, in the order of the plan."""
    return map(render_clip, clip_jobs(config_name))


def exact_flow(job: ClipJob, before: int, after: int) -> np.ndarray:
    """Exact skin motion between two frames of a clip, float32 [size, size, 2] in pixels (see Renderer.flow)."""
    config, truth = CONFIGS[job.config], facts(job)
    return Renderer(config.cohort, job.subject, config.size).flow(truth.pose(before), truth.pose(after))


def peak_motion(job: ClipJob) -> float:
    """Largest movement of the skin by the action units at the apex, in pixels."""
    config, truth = CONFIGS[job.config], facts(job)
    renderer = Renderer(config.cohort, job.subject, config.size)
    still = Pose(truth.constant)
    moved = Pose({k: truth.constant.get(k, 0.0) + truth.peak.get(k, 0.0) for k in {*truth.constant, *truth.peak}})
    return float(np.linalg.norm(renderer.flow(still, moved), axis=-1).max())


def action_unit_energy(job: ClipJob) -> float:
    """Mean squared skin motion between true onset and true apex by the action units alone, pixels^2."""
    before, after = _event_poses(job)
    return _energy(job, before, dataclasses.replace(before, activation=after.activation))


def distractor_energy(job: ClipJob) -> float:
    """Mean squared skin motion between true onset and true apex by the head alone, pixels^2."""
    before, after = _event_poses(job)
    return _energy(job, before, dataclasses.replace(after, activation=before.activation))


def _event_poses(job: ClipJob) -> tuple[Pose, Pose]:
    truth = facts(job)
    return truth.pose(truth.timeline.true_onset), truth.pose(truth.timeline.true_apex)


def _energy(job: ClipJob, before: Pose, after: Pose) -> float:
    config = CONFIGS[job.config]
    flow = Renderer(config.cohort, job.subject, config.size).flow(before, after)
    return float((flow**2).sum(-1).mean())


def action_unit_motion(job: ClipJob) -> np.ndarray:
    """How far the action units alone move the skin between true onset and true apex: float32 [size, size], pixels."""
    before, after = _event_poses(job)
    config = CONFIGS[job.config]
    moved = dataclasses.replace(before, activation=after.activation)
    flow = Renderer(config.cohort, job.subject, config.size).flow(before, moved)
    return np.asarray(np.linalg.norm(flow, axis=-1), np.float32)


def disturbance(job: ClipJob) -> float:
    """Head movement between true onset and true apex as in `distractor_energy`; infinite where a blink falls between.

    A blink counts where the lids are closed by more than a tenth in a frame of that interval.
    """
    t = facts(job).timeline
    blinks = bool((t.blink[t.true_onset : t.true_apex + 1] > 0.1).any())
    return float("inf") if blinks else distractor_energy(job)
