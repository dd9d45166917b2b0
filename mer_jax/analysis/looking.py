"""What the networks of a run say of clips: logits, probabilities and features. Reads built data; trains nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import layers
from mer_jax.analysis.networks import Network
from mer_jax.data import prepared, sampling
from mer_jax.data import source as sources
from mer_jax.data.clips import ClipTable
from mer_jax.errors import UserError
from mer_jax.evaluation import labels as label_sets
from mer_jax.settings import Settings

CHUNK = 16  # clips that are looked at in one call


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of a run's datasets as its system sees them.

    Attributes:
      settings: of the run.
      source: all clips of the datasets.
      rows: int [n], the clips of the store in the source.
      table: facts of these n clips, positions as stored.
      labels: int [n] class of each, -1 where it has none; 0 throughout where action units are recognised.
      store: on the default device.
    """

    settings: Settings
    source: sources.ClipSource
    rows: np.ndarray
    table: ClipTable
    labels: np.ndarray
    store: Any

    def place(self, clips: Sequence[str]) -> np.ndarray:
        """Positions of clips in the store, by name.

        Raises:
          UserError: a name that is not among them.
        """
        names = {str(name): i for i, name in enumerate(self.table["clip"])}
        unknown = [clip for clip in clips if clip not in names]
        if unknown:
            raise UserError(f"found no clip {unknown[0]!r} in {self.settings.data.name}; clips are called like "
                            f"{next(iter(names))!r}")  # fmt: skip
        return np.array([names[clip] for clip in clips], np.int64)

    def landmarks(self, i: int) -> np.ndarray:
        """Landmarks [68, 2] of clip `i` of the store at its apex, in pixels of the store; NaN where unknown."""
        row, facts = int(self.rows[i]), self.source.table
        apex = sampling.known_apex(*(facts[name][row : row + 1] for name in ("onset", "apex", "offset")))[0]
        return prepared.landmarks_at(self.settings, self.source, row, int(apex))


@dataclasses.dataclass(frozen=True)
class Seen:
    """What networks say of n clips, each looked at in V views.

    Attributes:
      clip: names [n].
      fold: whose network looked [n]; "" for imported weights.
      logits: float32 [n, V, C].
      features: float32 [n, V, D], what the last linear layer reads.
      probability: float32 [n, C], as `predictions.csv` has them.
    """

    clip: np.ndarray
    fold: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    probability: np.ndarray


def open_clips(
    settings: Settings, system: Any, extra: Sequence[str] = (), data_dir: str = "", fingerprint: str | None = None
) -> Clips:
    """The clips that a run scores, and others of its datasets.

    Args:
      settings: of the run.
      system: its system.
      extra: names of clips that the run does not score (without a label, say).
      data_dir: where the datasets are built, where it is not where the run found them.
      fingerprint: of the data of the run; None to take any.

    Raises:
      UserError: the datasets are not built there, are others than those of the run, or lack a clip of `extra`.
    """
    if data_dir:
        settings = settings.replace(data=settings.data.replace(dir=str(data_dir)))
    source = sources.open_datasets(settings.data.name.split("+"), prepared.data_dir(settings))
    if fingerprint is not None and source.fingerprint != fingerprint:
        raise UserError(
            f"data.name {settings.data.name!r} in {prepared.data_dir(settings)}: found other clips than those of the "
            f"run (fingerprint {source.fingerprint[:12]}, expected {fingerprint[:12]}); name the folder with the run's"
        )
    labelled = label_sets.apply(settings.data.labels, source.table)
    names = source.table["clip"].tolist()
    unknown = [clip for clip in extra if clip not in set(names)]
    if unknown:
        raise UserError(f"found no clip {unknown[0]!r} in {settings.data.name}; clips are called like {names[0]!r}")
    rows = np.flatnonzero(labelled.used | np.isin(source.table["clip"], np.array(extra, str)))
    labels = labelled.labels[rows] if labelled.task == "emotion" else np.zeros(len(rows), np.int32)
    store, table = prepared.clip_store(settings, system, source, rows, labels)
    return Clips(settings, source, rows, table, labels, jax.device_put(store))


def look(network: Network, clips: Clips, chosen: np.ndarray, fold: str = "") -> Seen:
    """Logits, probabilities and features of clips.

    Args:
      network: whose.
      clips: the clips.
      chosen: int [n], positions in the store.
      fold: name of the network.
    """
    buckets = network.system.buckets(clips.store)
    of_clip = np.zeros(len(clips.table), int) if buckets is None else buckets.of_clip
    program = _program(network.settings, network.system)
    parts: list[tuple[np.ndarray, Any]] = []
    for bucket in np.unique(of_clip[chosen]):
        places = np.flatnonzero(of_clip[chosen] == bucket)
        length = 0 if buckets is None else buckets.lengths[bucket]
        for part in np.array_split(places, range(CHUNK, len(places), CHUNK)):
            padded = np.resize(chosen[part], CHUNK).astype(np.int32)
            found = program(network.variables, clips.store, jnp.asarray(padded), length)
            parts.append((part, [np.asarray(x) for x in found]))
    order = np.argsort(np.concatenate([part for part, _ in parts]))
    logits, features, probability = (
        np.concatenate([np.moveaxis(found[k], -2, 0)[: len(part)] for part, found in parts])[order] for k in range(3)
    )
    names = clips.table["clip"][chosen].astype(str)
    return Seen(names, np.full(len(names), fold), logits, features, probability)


def join(parts: Sequence[Seen], names: Sequence[str]) -> Seen:
    """What several networks say, in the order of `names`."""
    at = {str(name): i for i, name in enumerate(np.concatenate([part.clip for part in parts]))}
    order = [at[name] for name in names]
    fields = (field.name for field in dataclasses.fields(Seen))
    return Seen(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in fields})


@functools.lru_cache(maxsize=8)
def _program(settings: Settings, system: Any) -> Any:
    """`(variables, store, clips [B], length) -> (logits [V, B, C], features [V, B, D], probabilities [B, C])`."""
    classifier = layers.CLASSIFIER[settings.system]

    def program(variables: Any, store: Any, clips: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        view = functools.partial(system.view, length=length) if length else system.view

        def one(number: int) -> tuple[jax.Array, jax.Array]:
            batch = jax.vmap(lambda i: view(store, i, jnp.int32(number), False))(clips)
            outputs, (features,) = layers.apply(system.finetune.module, variables, batch, (classifier,))
            return outputs["logits"].astype(jnp.float32), features.astype(jnp.float32)

        views = [one(number) for number in range(system.n_views)]
        logits, features = (jnp.stack(x) for x in zip(*views, strict=True))
        return logits, features, system.combine(logits)

    return jax.jit(program, static_argnums=3)
