"""Maps of all tested clips of a run: where its networks look, and how much of that lies where something moves.

Every clip is looked at by the network of the fold that tested it. Each of its maps stands beside what needs no
training: the same map of the same network with fresh random weights, the mean of the map over the clips of other
persons, the difference image |I_apex - I_onset|, and a uniform map. A random network on a difference image may well
beat uniform.

Regions of a clip
  action units   boxes around the landmarks that its action units move (`maps.region`); the standard layout of a face
                 where the landmarks are unknown and faces are cut out alike (INFERRED)
  true motion    the tenth of the frame that its action units truly move most, where `data.truth` knows (INFERRED: a
                 tenth, the same for all clips, so that a uniform map has no preference; it holds nine tenths of the
                 movement). Scored by the mass in the clip's own region minus the same map's mean mass in the regions of
                 clips of other classes, which a map that is the same for all clips cannot win.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import lenses
from mer_jax.analysis.looking import Clips
from mer_jax.analysis.map_scores import (
    COLUMNS,
    DIFFERENCE,
    GRADIENTS,
    MAPS,
    MEAN,
    MOMENTS,
    NONE,
    RANDOM,
    SCORES,
    TRAINED,
    VALUES,
    own_and_other,
    top,
    write_scores,
)  # fmt: skip
from mer_jax.analysis.maps import region, standard_landmarks
from mer_jax.analysis.open_run import Run
from mer_jax.analysis.pictures.base import choose_clips
from mer_jax.data import align, prepared, truth
from mer_jax.errors import UserError
from mer_jax.files import atomic_open
from mer_jax.progress import Progress
from mer_jax.training.checkpoint import finished_state, read_variables

MOVING = 0.1  # of the frame
GRID = 64  # places along a side of a map that are kept: of large frames a map is only this fine
SHOWN = 6


@dataclasses.dataclass
class Found:
    """Maps of n clips, and where they should lie; filled clip by clip.

    Attributes:
      heat: (map, weights) -> [n, S, S] of unit mass, NaN where a map is empty.
      event: (map, weights) -> [n, 2] share of the mass, and of the moments, between true onset and offset.
      gap: [n] what integrated gradients leave out, over the sum of their absolute values.
      shown: name -> panels of the clips that are drawn.
    """

    heat: dict[tuple[str, str], np.ndarray]
    event: dict[tuple[str, str], np.ndarray]
    gap: np.ndarray
    shown: dict[str, list[np.ndarray]]


def write_maps(run: Run, limit: int = 0, data_dir: str = "") -> Path:
    """Computes the maps of the tested clips (first seed) and writes `maps.csv` and the panels of the report.

    Args:
      run: a scored run.
      limit: clips at most, spread over the persons; 0 for all.
      data_dir: where the datasets are built, where it is not where the run found them.

    Returns:
      Path of `maps.csv`.

    Raises:
      UserError: the run is not scored, a fold has no network, or the data are not there.
    """
    if not run.tested_in:
        raise UserError(f"{run.workdir}: found no splits.csv; maps are drawn of the tested clips of a scored run")
    run.check_folds()
    clips = run.clips(data_dir=data_dir)
    names = clips.table["clip"].astype(str)
    tested = np.array([name in run.tested_in for name in names])
    chosen = np.flatnonzero(tested)
    if limit and limit < len(chosen):
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, limit).round().astype(int))]
    shown = [int(chosen[i]) for i in choose_clips(clips.labels[chosen], SHOWN)]
    regions = np.stack([_action_units(clips, int(i)) for i in chosen])
    moving, disturbance = _moving(clips, chosen)
    found = _look(run, clips, chosen, shown, regions, moving)
    rows = _score(run, clips, chosen, found, regions, moving, disturbance)
    write_scores(run.workdir / SCORES, rows)
    with atomic_open(run.workdir / MAPS, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{k: np.stack(v) for k, v in found.shown.items()})
    return run.workdir / SCORES


class _Looker:
    """The programs that look at one clip; compiled once for all folds."""

    def __init__(self, run: Run, clips: Clips, system: Any) -> None:
        self.lens = lenses.of(system)
        self._pretext = _pretext(run) if run.settings.system == "ma2mi" else {}
        self._clips, self._buckets = clips, system.buckets(clips.store)
        self._look = jax.jit(self.lens.heats, static_argnums=3)
        self._fresh = jax.jit(self.lens.fresh)

    def trained(self, variables: Any) -> dict[str, Any]:
        """Variables of a fold with what else its lens reads."""
        return {**variables, **self._pretext}

    def random(self, variables: Any, clip: int, seed: int) -> dict[str, Any]:
        """The same before any training; `variables` as `trained` gives them."""
        batch = self.lens.batch(self._clips.store, jnp.int32(clip), self._length(clip))
        return dict(self._fresh(jax.random.key(seed), batch, variables))

    def look(self, variables: Any, clip: int) -> dict[str, Any]:
        """See `Lens.heats`."""
        found = self._look(variables, self._clips.store, jnp.int32(clip), self._length(clip))
        return dict(jax.device_get(found))

    def _length(self, clip: int) -> int:
        return self._buckets.lengths[self._buckets.of_clip[clip]] if self._buckets else 0


def _look(
    run: Run, clips: Clips, chosen: np.ndarray, shown: Sequence[int], regions: np.ndarray, moving: np.ndarray | None
) -> Found:
    """Runs the networks."""
    names = clips.table["clip"].astype(str)
    found = Found({}, {}, np.full(len(chosen), np.nan), {})
    folds: dict[str, list[int]] = {}
    for k, i in enumerate(chosen):
        folds.setdefault(run.tested_in[names[i]], []).append(k)
    looker: _Looker | None = None
    with Progress("maps", len(chosen), "clips") as progress:
        for number, (fold, mine) in enumerate(folds.items()):
            network = run.network(fold)
            looker = looker or _Looker(run, clips, network.system)
            trained = looker.trained(network.variables)
            random = looker.random(trained, int(chosen[mine[0]]), number)
            for k in mine:
                i = int(chosen[k])
                seen, other = looker.look(trained, i), looker.look(random, i)
                other["heats"] = {n: x for n, x in other["heats"].items() if n not in looker.lens.given}
                _keep(found, k, TRAINED, seen, clips, i, looker.lens.window)
                _keep(found, k, RANDOM, other, clips, i, looker.lens.window)
                if i in shown:
                    true = None if moving is None else moving[k]
                    _panel(found, run, clips, i, seen, looker.lens.window, regions[k], true)
                progress.advance()
    found.heat[DIFFERENCE, NONE] = np.stack(
        [_unit(np.abs(_frame(clips, int(i), 1) - _frame(clips, int(i), 0))) for i in chosen]
    )
    person = clips.table.person[chosen]
    for name in [name for name, weights in found.heat if weights == TRAINED]:
        found.heat[name, MEAN] = np.stack([_mean_of_others(found.heat[name, TRAINED], person, p) for p in person])
    return found


def _keep(
    found: Found, k: int, weights: str, seen: Mapping[str, Any], clips: Clips, i: int, window: tuple[float, float]
) -> None:
    """Files the maps of one clip and one network."""
    n, side = len(found.gap), _side(clips)
    event = [int(clips.table[f"true_{name}"][i]) for name in ("onset", "offset")]
    for name, (heat, at) in seen["heats"].items():
        if heat.shape[1:] != (1, 1):  # else the same all over the face
            whole = found.heat.setdefault((name, weights), np.full((n, side, side), np.nan, np.float32))
            known = heat if not np.isfinite(at).any() else heat[np.isfinite(at)]
            whole[k] = _unit(placed(known.sum(0), window, side))
        if np.isfinite(at).sum() > 1 and event[0] >= 0:
            inside = (at >= event[0]) & (at <= event[1])
            mass = np.where(np.isfinite(at), heat.sum((1, 2)), 0)
            shares = found.event.setdefault((name, weights), np.full((n, 2), np.nan))
            if mass.sum() > 0:
                shares[k] = mass[inside].sum() / mass.sum(), inside.sum() / np.isfinite(at).sum()
    if weights == TRAINED:
        spread = sum(float(h.sum()) for name, (h, _) in seen["heats"].items() if name.startswith(GRADIENTS))
        found.gap[k] = abs(float(seen["gap"])) / max(spread, 1e-30)


def _panel(
    found: Found,
    run: Run,
    clips: Clips,
    i: int,
    seen: Mapping[str, Any],
    window: tuple[float, float],
    region_of_units: np.ndarray,
    moving: np.ndarray | None,
) -> None:
    """What is drawn of a clip: frames at onset, apex and offset, and each map at these moments or for the whole."""
    side = region_of_units.shape[0]
    moments = np.array([_moment(clips, i, k) for k in range(3)], float)
    units = ", ".join(f"AU{k}" for k in np.flatnonzero(clips.table["action_units"][i] == 1)) or "AUs unknown"
    logits = np.asarray(seen["logits"])
    if run.settings.task == "au":
        said = ", ".join(c for c, x in zip(run.classes, logits, strict=True) if x > 0) or "none"
    else:
        said = run.classes[int(logits.argmax())]
    panel: dict[str, Any] = {
        "frames": np.stack([_frame(clips, i, k) for k in range(3)]).astype(np.float32),
        "exact": np.array(bool(clips.table["true_apex"][i] >= 0)),
        "title": np.array(f"{clips.table['emotion'][i]} ({units}), predicted {said}"),
        "units": region_of_units,
        "moving": np.zeros_like(region_of_units) if moving is None else moving,
    }
    for name, (heat, at) in seen["heats"].items():
        if heat.shape[1:] == (1, 1):
            continue
        several = np.isfinite(at).sum() > 1
        maps = heat[lenses.nearest(at, moments)] if several else heat.sum(0, keepdims=True)
        panel[f"map {name}"] = np.stack([placed(m, window, side) for m in maps]).astype(np.float32)
    for name, value in panel.items():
        found.shown.setdefault(name, []).append(value)


def placed(heat: np.ndarray, window: tuple[float, float], side: int) -> np.ndarray:
    """A heat [h, w] over part of a frame as one over the whole frame [side, side], bilinear."""
    low, high = (round(share * side) for share in window)
    whole = np.zeros((side, side), np.float32)
    small = cv2.resize(heat.astype(np.float32), (high - low, high - low), interpolation=cv2.INTER_LINEAR)
    if heat.shape[0] > high - low:
        small = cv2.resize(heat.astype(np.float32), (high - low, high - low), interpolation=cv2.INTER_AREA)
    whole[low:high, low:high] = small
    return whole


def _unit(heat: np.ndarray) -> np.ndarray:
    """A map of unit mass; NaN for an empty one."""
    total = float(heat.sum())
    return heat / total if total > 0 and np.isfinite(total) else np.full_like(heat, np.nan)


def _mean_of_others(heat: np.ndarray, person: np.ndarray, mine: str) -> np.ndarray:
    others = heat[(person != mine) & np.isfinite(heat[:, 0, 0])]
    return others.mean(0) if len(others) else np.full(heat.shape[1:], np.nan)


# --- Moments, frames and regions of a clip ----------------------------------------------------------------------------


def _moment(clips: Clips, i: int, which: int) -> int:
    """Position of onset, apex or offset: the true one where it is known."""
    table = clips.table
    exact = int(table[f"true_{MOMENTS[which]}"][i])
    if exact >= 0:
        return exact
    onset, apex, offset = (int(table[name][i]) for name in MOMENTS)
    return (onset, apex if apex >= 0 else (onset + offset) // 2, offset)[which]


def _side(clips: Clips) -> int:
    """Side S of the maps that are kept."""
    return min(int(clips.store.frames.shape[1]), GRID)


def _on_grid(image: np.ndarray, side: int) -> np.ndarray:
    """An image [H, W] averaged down to [side, side]."""
    return np.asarray(cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA))


def _frame(clips: Clips, i: int, which: int) -> np.ndarray:
    """Grey frame [S, S] in 0..1 at onset, apex or offset."""
    row = int(clips.store.start[i]) + min(_moment(clips, i, which), int(clips.store.length[i]) - 1)
    return _on_grid(np.asarray(clips.store.frames[row], np.float32).mean(-1) / 255, _side(clips))


def _action_units(clips: Clips, i: int) -> np.ndarray:
    """Region of the clip's action units, bool [S, S]; empty where it is unknown."""
    side = int(clips.store.frames.shape[1])
    points = clips.landmarks(i)
    if not np.isfinite(points).all() and clips.settings.data.align != "none":
        points = standard_landmarks(side, clips.settings.data.align_margin)
    return _on_grid(region((side, side), points, clips.table["action_units"][i]), _side(clips)) > 0.5


def _moving(clips: Clips, chosen: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The tenth of the frame that truly moves most [n, S, S], and how much else moves [n]; None where nobody knows."""
    root, settings = prepared.data_dir(clips.settings), clips.settings
    known: dict[str, tuple[np.ndarray, float]] = {}
    for dataset in sorted(set(clips.table["dataset"][chosen].tolist())):
        one = truth.read(root, str(dataset))
        if one is not None:
            known |= {str(n): (m, float(d)) for n, m, d in zip(one.clip, one.motion, one.disturbance, strict=True)}
    names = clips.table["clip"][chosen].astype(str)
    if any(name not in known for name in names):
        if (clips.table["true_apex"][chosen] >= 0).all():
            print("true motion is not written beside the data; for rendered faces this writes it: "
                  "python -m tfds_builders.synthetic_faces.truth CONFIG", flush=True)  # fmt: skip
        return None, np.full(len(chosen), np.nan)
    side = int(clips.store.frames.shape[1])
    how = prepared.alignment(settings)
    masks = []
    for name, i in zip(names, chosen, strict=True):
        motion = known[name][0]
        way = align.crop_of(clips.source, int(clips.rows[i]), side, settings.data.fit, how).way(
            _moment(clips, int(i), 1)
        )
        # the root keeps what hardly moves above 0 in whole numbers: no ties within the tenth
        scaled = (np.sqrt(motion / max(float(motion.max()), 1e-9)) * 65535).astype(np.uint16)
        masks.append(top(_on_grid(way.image(scaled[..., None])[..., 0], _side(clips)), MOVING))
    return np.stack(masks), np.array([known[name][1] for name in names])


# --- Scores ----------------------------------------------------------------------------------------------------------


def _score(
    run: Run,
    clips: Clips,
    chosen: np.ndarray,
    found: Found,
    regions: np.ndarray,
    moving: np.ndarray | None,
    disturbance: np.ndarray,
) -> list[dict[str, Any]]:
    """One row a clip, map and weights."""
    table, emotion = clips.table, clips.table["emotion"][chosen].astype(str)
    labels = emotion if run.settings.task == "au" else clips.labels[chosen]
    half = np.median(disturbance) if moving is not None else np.nan
    rows = []
    for name, weights in sorted({*found.heat, *found.event}):
        heat = found.heat.get((name, weights))
        columns: dict[str, np.ndarray] = {}
        if heat is not None:
            share = np.einsum("nyx,nyx->n", heat, regions)
            columns["au_share"] = np.where(regions.any((1, 2)), share, np.nan)
            columns["au_area"] = np.where(regions.any((1, 2)), regions.mean((1, 2)), np.nan)
            if moving is not None:
                columns["own"], columns["other"] = own_and_other(heat, moving, labels)
        if (name, weights) in found.event:
            columns["event_share"], columns["event_moments"] = found.event[name, weights].T
        if name.startswith(GRADIENTS) and weights == TRAINED:
            columns["gap"] = found.gap
        for k, i in enumerate(chosen):
            clip = str(table["clip"][i])
            facts = (run.settings.seeds[0], run.tested_in[clip], table["dataset"][i], table["subject"][i], clip)
            disturbed = "" if moving is None else int(disturbance[k] > half)
            row = dict(zip(COLUMNS, (*facts, name, weights, disturbed), strict=True))
            rows.append(row | {c: float(columns[c][k]) if c in columns else np.nan for c in VALUES})
    return rows


def _pretext(run: Run) -> dict[str, Any]:
    """Variables of the pretext that reconstructs future frames, as a collection; {} where the run has trained none."""
    pre, seeds = run.settings.pre, run.settings.seeds
    if pre.objective != "reconstruct" or pre.task != "reconstruct":
        return {}
    place = run.workdir / "checkpoints"
    found = finished_state((place if len(seeds) == 1 else place / f"seed_{seeds[0]}") / "pretrain")
    return {} if found is None else {lenses.PRETEXT: read_variables(found)}
