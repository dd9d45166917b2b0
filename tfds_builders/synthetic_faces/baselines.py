"""Scores that a network must be read beside, by LOSO: `python -m tfds_builders.synthetic_faces.baselines`.

majority: the largest class of the training people. difference: apex minus onset frame, a linear classifier. flow: TV-L1
flow from onset to apex, averaged over a grid, a linear SVM. true action units: gradient boosting on the generator's own
action units, the ceiling that overlapping classes leave. onset frame and nuisances: what must NOT work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mer_jax.data.motion import flow_fields
from mer_jax.data.tvl1 import TVL1Settings
from mer_jax.evaluation import metrics
from tfds_builders.synthetic_faces import generate, timeline
from tfds_builders.synthetic_faces.action_units import UNITS
from tfds_builders.synthetic_faces.generate import ClipJob, Facts
from tfds_builders.synthetic_faces.render import Renderer, expose

GRID = 8  # cells a side of the flow histogram


def scored_jobs(config: str) -> list[ClipJob]:
    """The clips with an expression."""
    return [job for job in generate.clip_jobs(config) if job.emotion != "neutral"]


def key_frames(job: ClipJob, size: int | None = None) -> np.ndarray:
    """Annotated onset and apex frame, uint8 [2, S, S, 3]; noise drawn anew."""
    truth, config = generate.facts(job), generate.CONFIGS[job.config]
    t, renderer = truth.timeline, Renderer(config.cohort, job.subject, size or config.size)
    rng = np.random.default_rng(job.number)
    frames = []
    for i in (t.onset, t.apex):
        frames.append(expose(renderer.clean(truth.pose(i)), t.light[i], t.noise, t.quality, rng))
    return np.stack(frames)


def au_features(truth: Facts) -> np.ndarray:
    """Which side of which unit is active, float [2 * units]."""
    return np.array([float((unit, side) in truth.peak) for unit in UNITS for side in ("right", "left")])


def nuisance_features(truth: Facts) -> np.ndarray:
    """Everything that is drawn independently of the class."""
    return np.array([float(v) for v in timeline.nuisances(truth.timeline).values()])


def onset_features(frames: np.ndarray, size: int = 16) -> np.ndarray:
    """The onset frame alone, grey, [size * size]."""
    return cv2.resize(frames[0].mean(-1), (size, size), interpolation=cv2.INTER_AREA).ravel() / 255


def difference_features(frames: np.ndarray, size: int = 16) -> np.ndarray:
    """Apex minus onset frame, grey, [size * size]."""
    change = frames[1].mean(-1) - frames[0].mean(-1)
    return cv2.resize(change, (size, size), interpolation=cv2.INTER_AREA).ravel() / 255


def flow_features(frames: np.ndarray) -> np.ndarray:
    """TV-L1 flow [n, 2, S, S, 3] -> grid means of (u, v) without the frame's median motion, [n, 2 * GRID^2]."""
    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    flow = np.asarray(flow_fields(grey[:, 0], grey[:, 1], TVL1Settings()))
    flow = flow - np.median(flow, axis=(1, 2), keepdims=True)
    n, size = len(flow), flow.shape[1] // GRID
    return flow.reshape(n, GRID, size, GRID, size, 2).mean((2, 4)).reshape(n, -1)


def leave_one_subject_out(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, model: Callable[[], object]
) -> np.ndarray:
    """Predictions [n] of a model trained on all other subjects."""
    predicted = np.empty_like(labels)
    for subject in np.unique(subjects):
        test = subjects == subject
        fitted = model()
        fitted.fit(features[~test], labels[~test])  # type: ignore[attr-defined]
        predicted[test] = fitted.predict(features[test])  # type: ignore[attr-defined]
    return predicted


def linear() -> object:
    """Standardised features, multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


def svm() -> object:
    """Standardised features, linear SVM with balanced classes."""
    return make_pipeline(StandardScaler(), LinearSVC(C=0.003, class_weight="balanced", max_iter=5000))


def boosting() -> object:
    """Gradient boosting."""
    return GradientBoostingClassifier(n_estimators=60, max_depth=3, random_state=0)


def score(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(UF1, UAR) over the classes of the set."""
    classes, truth = np.unique(labels, return_inverse=True)
    matrix = metrics.confusion(truth, np.searchsorted(classes, predicted), len(classes))
    return float(metrics.uf1(matrix)), float(metrics.uar(matrix))


def run(config: str) -> dict[str, tuple[float, float]]:
    """All baselines of a config: name -> (UF1, UAR)."""
    jobs = scored_jobs(config)
    truth = [generate.facts(job) for job in jobs]
    labels, subjects = np.array([j.emotion for j in jobs]), np.array([j.subject for j in jobs])
    frames = np.stack([key_frames(job) for job in jobs])
    words, counts = np.unique(labels, return_counts=True)
    rows: dict[str, np.ndarray] = {"majority": np.full_like(labels, words[counts.argmax()])}
    for name, features, model in (
        ("onset frame only", np.stack([onset_features(f) for f in frames]), linear),
        ("nuisances only", np.stack([nuisance_features(t) for t in truth]), boosting),
        ("onset-apex difference, linear", np.stack([difference_features(f) for f in frames]), linear),
        ("TV-L1 flow grid, linear SVM", flow_features(frames), svm),
        ("true action units, boosting", np.stack([au_features(t) for t in truth]), boosting),
    ):
        rows[name] = leave_one_subject_out(features, labels, subjects, model)
    return {name: score(predicted, labels) for name, predicted in rows.items()}


def main() -> None:
    """Prints the table of a config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="micro", choices=sorted(generate.CONFIGS))
    config = parser.parse_args().config
    print(f"synthetic_faces/{config}, leave one subject out      UF1    UAR")
    for name, (uf1, uar) in run(config).items():
        print(f"{name:<45} {uf1:6.3f} {uar:6.3f}")


if __name__ == "__main__":
    main()
