"""The arrays behind the report's pictures: reconstructed future frames and heat maps, from a run's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis.maps import recogniser_maps, region, share_in_region
from mer_jax.analysis.open_run import PANELS
from mer_jax.data.clips import ClipTable
from mer_jax.files import atomic_open
from mer_jax.systems import ma2mi

PAIRS, CLIPS = 6, 8


def reconstruction(settings: Any, variables: Any, batch: Any) -> dict[str, np.ndarray]:
    """Near-future frames as the pretext sees them, for the pairs of `batch` that were accepted.

    The prediction lives in the latent space, which drops detail on purpose; it is shown as the first frame plus the
    decoded *change* of the latent, so that detail does not hide motion.

    Args:
      settings: of the run.
      variables: of the pre-training stage.
      batch: held-out pairs as the network sees them.

    Returns:
      recon_first, recon_second, recon_predicted [n, H, W, C] in 0..1 and recon_delta [n, h, w]; n at most PAIRS.
    """
    kept = np.flatnonzero(np.asarray(batch["weight"]) > 0)[:PAIRS]
    module = ma2mi.build_pretext(settings)

    @jax.jit
    def predict(batch: Any) -> Any:
        outputs: Any = module.apply(variables, batch, False)
        latent = {"constants": variables["constants"]["latent"]}

        def decode(z: jax.Array) -> Any:
            return ma2mi.build_latent(settings).apply(latent, z, method="decode")

        change = decode(outputs["prediction"]) - decode(outputs["latent"])
        moved = jnp.abs(outputs["prediction"] - outputs["latent"]).sum(-1)
        return jnp.clip(batch["first"] + change, 0, 1), moved

    predicted, delta = predict(batch)
    arrays = {
        "recon_first": batch["first"], "recon_second": batch["second"],
        "recon_predicted": predicted, "recon_delta": delta,
    }  # fmt: skip
    return {name: np.asarray(value, np.float32)[kept] for name, value in arrays.items()}


def heat_maps(
    system: Any,
    store: Any,
    table: ClipTable,
    classes: Sequence[str],
    tested: Iterable[tuple[Any, np.ndarray]],
    shown: Collection[int],
    landmarks: Callable[[int], np.ndarray],
) -> dict[str, np.ndarray]:
    """Grad-CAM and native attention of clips, each seen by the network of the fold that tested it.

    Args:
      system: the system.
      store: clip store.
      table: facts of the clips of the store.
      classes: names of the classes.
      tested: (variables of a fold, rows of the store that it tested).
      shown: rows of the clips whose pictures are kept.
      landmarks: row -> [68, 2] at the apex, in pixels of the frames that the system sees; NaN where unknown.

    Returns:
      Of the shown clips heat_onset, heat_apex [m, H, W, C] in 0..1, heat_gradcam [m, H, W], heat_attention [m, h, w]
      where the encoder has attention, heat_title [m]. Of all tested clips with known action units and landmarks
      region_share [n], the share of the Grad-CAM mass in the region of the clip's action units, and region_area [n],
      the share of the frame that this region covers.
    """
    module = system.finetune.module

    @jax.jit
    def look(variables: Any, clip: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: x[None], system.view(store, clip, jnp.int32(0), False))
        return batch, recogniser_maps(module, variables, batch)

    found: dict[str, list[Any]] = {}
    for variables, clips in tested:
        for clip in (int(c) for c in clips):
            batch, maps = look(variables, jnp.int32(clip))
            heat, present = np.asarray(maps["gradcam"][0]), table["action_units"][clip]
            points = landmarks(clip)
            share = share_in_region(heat, points, present)
            row: dict[str, Any] = {}
            if np.isfinite(share):
                row = {"region_share": share, "region_area": region(heat.shape, points, present).mean()}
            if clip in shown:
                units = ", ".join(f"AU{k}" for k in np.flatnonzero(present == 1))
                said = classes[int(np.asarray(maps["logits"]).argmax())]
                row |= {
                    "heat_onset": batch["first"][0], "heat_apex": batch["second"][0], "heat_gradcam": heat,
                    "heat_title": f"{table['emotion'][clip]} ({units or 'AUs unknown'}), predicted {said}",
                }  # fmt: skip
                if "attention" in maps:
                    row["heat_attention"] = maps["attention"][0]
            for name, value in row.items():
                found.setdefault(name, []).append(np.asarray(value))
    return {name: np.stack(values) for name, values in found.items()}


def choose_clips(labels: np.ndarray, count: int = CLIPS) -> list[int]:
    """Rows of the store to show: clips of every class in turn, spread over the store."""
    per_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    turns = [(len(rows) * k // -(-count // len(per_class)), rows) for k in range(count) for rows in per_class]
    chosen = [int(rows[place]) for place, rows in turns if place < len(rows)]
    return list(dict.fromkeys(chosen))[:count]


def write(workdir: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays where the report looks for them."""
    with atomic_open(workdir / PANELS, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
