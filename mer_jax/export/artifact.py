"""Writes the files of an export: the network, its facts, its card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from mer_jax import __version__
from mer_jax.analysis.networks import Network
from mer_jax.analysis.open_run import without_paths
from mer_jax.data import motion
from mer_jax.errors import UserError
from mer_jax.evaluation.results import read_metrics
from mer_jax.export import card, network
from mer_jax.export.loading import CARD, FACTS, NETWORK
from mer_jax.files import atomic_open, read_facts, write_json
from mer_jax.predict import time_scale
from mer_jax.predict.ensemble import Ensemble
from mer_jax.systems.base import Needs


def write(run: Path, out: Path, fold: str | None = None, seed: int | None = None) -> list[Path]:
    """Writes the export of a run into a new folder.

    Args:
      run: its workdir, or the OUT of `mer_jax.convert`.
      out: folder; must not hold anything but an earlier export.
      fold: the one fold that is exported; None for the mean of all.
      seed: one of the run's seeds; None for the first.

    Raises:
      UserError: see `mer_jax.export.export`.
    """
    ensemble = Ensemble(run, seed, fold)
    ours = {NETWORK, FACTS, CARD}
    if out.exists() and (not out.is_dir() or any(p.name not in ours for p in out.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder")
    networks = [ensemble.open(name) for name in ensemble.names]
    exported, inputs = network.export(networks)
    folds = [name or "imported" for name in ensemble.names]
    facts = {
        "mer_jax": __version__,
        "jax": jax.__version__,
        "system": networks[0].settings.system,
        "task": networks[0].settings.task,
        "classes": list(networks[0].classes),
        "folds": folds,
        "seed": networks[0].settings.seeds[0] if seed is None else seed,
        "platforms": list(exported.platforms),
        "inputs": inputs,
        "output": "float32 [b, classes]: "
        + ("probability of each action unit" if networks[0].settings.task == "au" else "probabilities, adding up to 1"),
        "preprocessing": preprocessing(run, networks[0]),
    }
    metrics = read_metrics(run / "metrics.json") if (run / "metrics.json").is_file() else None
    manifest = read_facts(run / "manifest.json")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_open(out / NETWORK, "wb") as file:
        file.write(exported.serialize())
    write_json(out / FACTS, facts)
    with atomic_open(out / CARD) as file:
        file.write(card.text(facts, networks[0].settings, metrics, without_paths(manifest)))
    return [out / NETWORK, out / FACTS, out / CARD]


def preprocessing(run: Path, first: Network) -> dict[str, Any]:
    """How frames become the inputs: all that the run's settings say of it."""
    data, needs = first.settings.data, first.system.needs
    found: dict[str, Any] = {
        "size": needs.size,
        "channels": needs.channels,
        "colour": _colour(needs),
        "range": "0..255; scaling and normalisation are inside the network",
        "normalise": data.normalise,
        "fit": data.fit,
        "align": data.align,
        "align_margin": data.align_margin,
        "extent": data.extent,
        "oracle_inputs": first.system.oracle_inputs,
    }
    magnified = data.magnify != "none"
    found |= {k: v for k, v in data.items() if k.startswith("magnify") and (magnified or k == "magnify")}
    scale = time_scale(run, first.settings)
    if scale is not None:
        found["time_scale_seconds"] = dataclasses.asdict(scale)
    if first.system.reads_targets:
        specs = motion.named(needs.motion)
        found["motion"] = {name: dataclasses.asdict(spec) for name, spec in specs.items()}
    return found


def _colour(needs: Needs) -> str:
    if needs.modality == "flow_strain":
        return "none: channels are flow u, flow v and strain"
    return "RGB" if needs.channels == 3 else "grey (BT.601 luma)"
