"""Features of tested clips in one picture, though every fold has a network and so a feature space of its own.

A clip is seen by the network of the fold that held its person out. Two networks may span the same plane along different
axes; plotting their raw features together would show folds, not classes. So the spaces are brought together first, by
clips that are in the training sets of all folds but their own person's (anchors): each space is reduced to its main
components over the anchors, centred, scaled to unit size, and turned onto the common mean (generalised Procrustes
analysis: Gower, Psychometrika 1975). No tested clip and no label has a say in it. What a picture shows is therefore
the part of the features on which the networks agree; how large that part is, is said beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.analysis.feature_figures import NEIGHBOURS
from mer_jax.analysis.looking import look
from mer_jax.analysis.map_scores import paired
from mer_jax.analysis.open_run import FEATURES, Run
from mer_jax.errors import UserError
from mer_jax.files import atomic_open
from mer_jax.progress import Progress

ANCHORS = 48  # clips
COMPONENTS = 16
FEWEST = 12  # anchors of a fold, below which it is not turned
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True)
class Aligned:
    """Spaces of several folds as one.

    Attributes:
      tested: fold -> [n, K] its tested clips in the common space.
      agreement: share of the anchors' variance (in the K components of each space) that the common mean explains.
      chance: the same where each fold takes the anchors for others: turning alone makes spaces alike.
    """

    tested: Mapping[str, np.ndarray]
    agreement: float
    chance: float


def align(tested: Mapping[str, np.ndarray], anchors: Mapping[str, np.ndarray], components: int = COMPONENTS) -> Aligned:
    """Generalised Procrustes alignment of feature spaces.

    Args:
      tested: fold -> [n, D] features of its tested clips.
      anchors: fold -> [A, D] features of the same clips in every fold; rows of NaN where a clip does not train there.
      components: K at most.

    Raises:
      UserError: a fold has too few anchors.
    """
    known = {fold: np.isfinite(x[:, 0]) for fold, x in anchors.items()}
    fewest = min(int(mask.sum()) for mask in known.values())
    if fewest < FEWEST:
        raise UserError(f"folds share only {fewest} training clips; expected at least {FEWEST} to align their features")
    size = min(components, fewest // 2, min(x.shape[1] for x in tested.values()))
    reduced, moved = {}, {}
    for fold, x in anchors.items():
        mine = x[known[fold]].astype(np.float64)
        centre = mine.mean(0)
        _, _, axes = np.linalg.svd(mine - centre, full_matrices=False)
        axes = axes[:size]
        scale = max(float(np.linalg.norm((mine - centre) @ axes.T)) / np.sqrt(len(mine)), 1e-12)
        reduced[fold] = np.where(known[fold][:, None], (np.nan_to_num(x) - centre) @ axes.T / scale, 0.0)
        moved[fold] = (tested[fold].astype(np.float64) - centre) @ axes.T / scale
    turns, agreement = _turn(reduced, known)
    rng = np.random.default_rng(0)
    shuffled = {fold: x.copy() for fold, x in reduced.items()}
    for fold, x in shuffled.items():
        x[known[fold]] = rng.permutation(x[known[fold]])
    _, chance = _turn(shuffled, known)
    return Aligned({fold: moved[fold] @ turns[fold] for fold in moved}, agreement, chance)


def _turn(spaces: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """Rotations (and mirrorings) of spaces [A, K] onto their common mean, and the share of variance it explains."""
    count = np.maximum(sum(mask.astype(float) for mask in known.values()), 1)[:, None]
    turns: dict[str, np.ndarray] = {}
    mean = next(iter(spaces.values()))
    for _ in range(10):
        for fold, x in spaces.items():
            u, _, v = np.linalg.svd(x[known[fold]].T @ mean[known[fold]])
            turns[fold] = u @ v
        mean = np.sum([spaces[fold] @ turns[fold] for fold in spaces], axis=0) / count
    left = sum(float(((spaces[f] @ turns[f] - mean)[known[f]] ** 2).sum()) for f in spaces)
    whole = sum(float((spaces[f][known[f]] ** 2).sum()) for f in spaces)
    return turns, 1 - left / max(whole, 1e-30)


def neighbours(features: np.ndarray, labels: np.ndarray, person: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """Share of the nearest clips of other persons that have a clip's class, and what chance gives: [n, 2].

    Args:
      features: [n, K].
      labels: [n].
      person: [n].
      count: nearest clips that are looked at.
    """
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    others = person[:, None] != person[None]
    distance = np.where(others, distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :count]
    same = labels[:, None] == labels[None]
    hit = np.take_along_axis(same & others, nearest, 1).mean(1)
    return np.stack([hit, (same & others).sum(1) / np.maximum(others.sum(1), 1)], axis=1)


def same_person(features: np.ndarray, person: np.ndarray, count: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of the nearest clips, whoever shows in them, that are of the same person, and what chance gives.

    Args:
      features: [n, K].
      person: [n].
      count: nearest clips that are looked at.
    """
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :count]
    same = person[:, None] == person[None]
    return float(np.take_along_axis(same, nearest, 1).mean()), float((same.sum(1) - 1).mean() / (len(person) - 1))


def principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components [n, 2] and their shares of the variance [2]; signs are fixed."""
    centred = features - features.mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(v[np.arange(len(v)), np.abs(v).argmax(1)])
    return (u * s * sign)[:, :2], (s**2 / max(float((s**2).sum()), 1e-30))[:2]


def tsne(features: np.ndarray) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008, scikit-learn) from the principal components: [n, 2], repeatable."""
    from sklearn.manifold import TSNE  # a second of import, paid by those who ask for it

    perplexity = min(PERPLEXITY, max((len(features) - 1) / 3, 1))
    made = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0).fit_transform(features)
    return np.asarray(made, np.float64)


def write_features(run: Run, data_dir: str = "") -> Path:
    """Looks at the tested clips (first seed) with their folds' networks and writes what the report draws.

    Args:
      run: a scored run.
      data_dir: where the datasets are built, where it is not where the run found them.

    Raises:
      UserError: the run is not scored, a fold has no network, the data are not there, or the folds share too few
        training clips.
    """
    if not run.tested_in or run.settings.task != "emotion":
        raise UserError(f"{run.workdir}: features are drawn of the tested clips of a scored run with task = emotion")
    run.check_folds()
    clips = run.clips(data_dir=data_dir)
    names = clips.table["clip"].astype(str)
    folds = [fold for fold in run.splits if run.splits[fold]["test"]]
    shared = _anchors(run, names)
    tested, anchors, said = {}, {}, {}
    with Progress("features", len(folds), "folds") as progress:
        for fold in folds:
            network = run.network(fold)
            mine = clips.place(run.splits[fold]["test"])
            training = np.isin(names[shared], run.splits[fold]["train"])
            seen = look(network, clips, np.concatenate([mine, shared[training]]), fold)
            flat = seen.features.reshape(len(seen.features), -1)
            tested[fold], said[fold] = flat[: len(mine)], seen.probability[: len(mine)].argmax(1)
            anchors[fold] = np.full((len(shared), flat.shape[1]), np.nan, np.float32)
            anchors[fold][training] = flat[len(mine) :]
            progress.advance()
    aligned = align(tested, anchors)
    order = np.concatenate([clips.place(run.splits[fold]["test"]) for fold in folds])
    features = np.concatenate([aligned.tested[fold] for fold in folds])
    points, share = principal(features)
    labels, person = clips.labels[order], clips.table.person[order]
    near = neighbours(features, labels, person)
    found = paired(near[:, 0], near[:, 1], person)
    arrays: dict[str, Any] = {
        "pca": points, "pca_share": share, "tsne": tsne(features), "label": labels,
        "predicted": np.concatenate([said[fold] for fold in folds]), "clip": names[order], "person": person,
        "agreement": np.array([aligned.agreement, aligned.chance]),
        "anchors": np.int64(len(shared)), "folds": np.int64(len(folds)),
        "same_person": np.array(same_person(features, person)), "near": near.mean(0),
        "near_difference": np.array([found[k] for k in ("mean", "low", "high", "p")]),
    }  # fmt: skip
    with atomic_open(run.workdir / FEATURES, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return run.workdir / FEATURES


def _anchors(run: Run, names: np.ndarray) -> np.ndarray:
    """Clips that train in most folds, spread over the store: int [A]."""
    count = {str(name): 0 for name in names}
    for roles in run.splits.values():
        for clip in roles["train"]:
            count[clip] = count.get(clip, 0) + 1
    times = np.array([count[str(name)] for name in names])
    often = np.flatnonzero(times == times.max())
    return often[np.unique(np.linspace(0, len(often) - 1, min(ANCHORS, len(often))).round().astype(int))]
