"""Which folds of a run may look at a person, and what they say together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.analysis.networks import Network, check_folds, fold_names, open_network, read_settings
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.evaluation.protocols import read_splits
from mer_jax.training.checkpoint import finished_state, pretraining_directory, read_meta
from mer_jax.training.step import make_predict

UNKNOWN = "imported weights: the persons that they were trained on are unknown"


class Ensemble:
    """The networks of a run.

    Args:
      run: its workdir, or the OUT of `mer_jax.convert`.
      seed: one of the run's seeds; None for the first.
      fold: the one fold that is used; None for all that may be.

    Raises:
      UserError: no run, no such seed or fold, no finished fold.
    """

    def __init__(self, run: Path, seed: int | None = None, fold: str | None = None) -> None:
        self.run, self._seed = run, seed
        self.settings = read_settings(run)
        self.names: list[str | None] = list(fold_names(run, seed))
        splits = run / "splits.csv"
        self._splits = read_splits(splits) if splits.is_file() else {}
        if fold is not None:
            self.names = [fold]
        elif self.names or self._splits:
            check_folds(run, self._splits, seed)
        else:
            self.names = [None]
        self.open = functools.lru_cache(maxsize=None)(self._read)  # fold -> network
        self.first = self.open(self.names[0])
        predict = make_predict(self.first.system, self.first.system.finetune)
        self._predict: Any = jax.jit(
            lambda variables, store, clips, length: predict(variables, store, clips, length)["probabilities"],
            static_argnums=3,
        )

    def _read(self, name: str | None) -> Network:
        return open_network(self.run, name, self._seed)

    def allowed(self, dataset: str, subject: str) -> tuple[list[str | None], list[str]]:
        """The folds that may look at a person, and what is to be said about it.

        Where the run knows the person only the folds that did not learn from them are allowed.

        Args:
          dataset: of the person; "" where there is but one.
          subject: the person; "" where unknown.

        Raises:
          UserError: the run has several datasets and none is named.
        """
        if self.names == [None]:
            return self.names, [UNKNOWN]
        if not subject:
            return self.names, [
                "no subject is named: where this person is in the run's data, what is said of them is too good to be "
                "true; name them with --subject"
            ]
        datasets = sorted({clip.split("/")[0] for roles in self._splits.values() for c in roles.values() for clip in c})
        if not dataset:
            if len(datasets) > 1:
                raise UserError(f"--subject {subject}: the run has {', '.join(datasets)}; say which with --dataset")
            dataset = datasets[0] if datasets else ""
        notes = self._pretraining(dataset, subject)
        person = f"{dataset}/{subject}/"
        seen = {
            name
            for name, roles in self._splits.items()
            if any(clip.startswith(person) for role in ("train", "val") for clip in roles[role])
        }
        if not seen and not any(c.startswith(person) for roles in self._splits.values() for c in roles["test"]):
            return self.names, [*notes, f"{person[:-1]} is not among the persons of the run: all folds are used"]
        allowed = [name for name in self.names if name not in seen]
        if not allowed:
            which = self.names[0] if len(self.names) == 1 else "every fold"
            notes.append(f"{person[:-1]} was learnt from in {which}: what is said of them is too good to be true")
            return self.names, notes
        return allowed, [*notes, f"{person[:-1]} is in the run's data: only folds that did not learn of them are used"]

    def _pretraining(self, dataset: str, subject: str) -> list[str]:
        """A warning where the person was pre-trained on."""
        chosen = self.settings.seeds[0] if self._seed is None else self._seed
        checkpoint = finished_state(pretraining_directory(self.settings, self.run, chosen))
        persons = read_meta(checkpoint).get("persons") if checkpoint else ()
        if persons is None:
            return [UNKNOWN]
        if f"{dataset}/{subject}" in persons:
            return [f"{dataset}/{subject} was pre-trained on: what is said of them may be too good to be true"]
        return []

    def probabilities(self, store: ClipStore, folds: Sequence[str | None]) -> np.ndarray:
        """Mean over folds of the probabilities of all clips of a store, float32 [n, C]."""
        buckets = self.first.system.buckets(store)
        length = buckets.lengths[-1] if buckets else 0
        clips = np.arange(len(store.start), dtype=np.int32)
        total: Any = 0.0
        for name in folds:
            total = total + np.asarray(self._predict(self.open(name).variables, store, clips, length), np.float64)
        return np.asarray(total / len(folds), np.float32)
