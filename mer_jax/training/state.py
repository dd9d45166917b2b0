"""The train state: everything that a step changes and a resume needs."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = dict[str, Any]  # Linen variable collections: "params", "batch_stats", "constants" ...


@flax.struct.dataclass
class TrainState:
    """State of one network in training; a pytree. Under folds every leaf carries a leading fold axis.

    Attributes:
      params: trainable parameters.
      collections: the other variable collections (BatchNorm statistics, constants).
      opt_state: state of the optimizer.
      ema: moving average of the parameters, or None.
    """

    params: Any
    collections: Any
    opt_state: Any
    ema: Any

    @classmethod
    def create(cls, variables: Variables, tx: optax.GradientTransformation, ema: float) -> TrainState:
        """A fresh state around initialised variables."""
        collections = {name: value for name, value in variables.items() if name != "params"}
        params = variables["params"]
        # A copy: two leaves of one donated state must not be the same buffer.
        average = jax.tree.map(jnp.array, params) if ema else None
        return cls(params=params, collections=collections, opt_state=tx.init(params), ema=average)

    @property
    def variables(self) -> Variables:
        """What training applies."""
        return {"params": self.params, **self.collections}

    @property
    def final_variables(self) -> Variables:
        """What evaluation applies and analysis opens: the average where there is one."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def carry_over(fresh: Variables, previous: Variables, names: tuple[str, ...]) -> tuple[Variables, dict[str, list[str]]]:
    """Takes the sub-trees `names` of every collection from the stage before.

    Args:
      fresh: newly initialised variables.
      previous: variables of the stage before.
      names: top-level module names.

    Returns:
      The merged variables and {"loaded": ..., "fresh": ..., "ignored": ...}, lists of "collection/module".

    Raises:
      ValueError: a module is missing on either side, or a leaf has another shape (all are named).
    """
    merged: Variables = {collection: dict(tree) for collection, tree in fresh.items()}
    report: dict[str, list[str]] = {"loaded": [], "fresh": [], "ignored": []}
    for name in names:
        holders = [c for c in fresh if name in fresh[c]]
        if not holders:
            raise ValueError(f"module {name!r} is to be carried over, but the network has no such module")
        for collection in holders:
            if name not in previous.get(collection, {}):
                raise ValueError(f"module {name!r} is missing from {collection!r} of the pre-trained variables")
            new, old = fresh[collection][name], previous[collection][name]
            problems = _mismatches(new, old)
            if problems:
                raise ValueError(f"{collection}/{name} does not fit the pre-trained variables: " + "; ".join(problems))
            merged[collection][name] = old
            report["loaded"].append(f"{collection}/{name}")
    for collection, tree in fresh.items():
        report["fresh"] += [f"{collection}/{n}" for n in tree if n not in names]
    for collection, tree in previous.items():
        report["ignored"] += [f"{collection}/{n}" for n in tree if n not in names]
    return merged, report


def _mismatches(new: Any, old: Any) -> list[str]:
    def leaves(tree: Any) -> dict[str, tuple[int, ...]]:
        return {jax.tree_util.keystr(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tree)}

    ours, theirs = leaves(new), leaves(old)
    problems = [f"{k} missing" for k in ours if k not in theirs] + [f"{k} unknown" for k in theirs if k not in ours]
    problems += [f"{k} {theirs[k]} instead of {ours[k]}" for k in ours if k in theirs and ours[k] != theirs[k]]
    return problems
