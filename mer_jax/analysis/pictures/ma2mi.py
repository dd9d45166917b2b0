"""MA2MI in the report: reconstructed future frames, and where the recogniser looks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import figures
from mer_jax.analysis.maps import recogniser_maps, region, share_in_region
from mer_jax.analysis.pictures.base import Picture, Tested
from mer_jax.data.clips import ClipTable
from mer_jax.systems import ma2mi

PAIRS = 6
DIMENSIONS = {
    "recon_first": 4,  # [n, H, W, C] in 0..1, the input frame
    "recon_second": 4,  # the near-future frame
    "recon_predicted": 4,  # its reconstruction
    "recon_delta": 3,  # [n, h, w], |predicted change of the latent|
    "heat_onset": 4,  # [m, H, W, C] in 0..1
    "heat_apex": 4,
    "heat_gradcam": 3,  # [m, H, W] in 0..1
    "heat_attention": 3,  # [m, h, w] in 0..1
    "heat_title": 1,  # [m] text: label and action units
    "region_share": 1,  # [n] share of the Grad-CAM mass in the region of the clip's action units
    "region_area": 1,  # [n] share of the frame that the region covers
}
GROUPS = ("recon", "heat", "region")  # arrays of one group have the same length


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base."""
    found: dict[str, np.ndarray] = {}
    if tested.pretraining is not None and tested.settings.pre.objective == "reconstruct":
        found |= reconstruction(tested.settings, *tested.pretraining)
    if tested.settings.task == "emotion":
        found |= heat_maps(
            tested.system, tested.store, tested.table, tested.classes, tested.folds, tested.shown, tested.landmarks
        )
    return found


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    found = []
    if "recon_first" in panels:
        picture = figures.reconstruction(
            panels["recon_first"], panels["recon_second"], panels["recon_predicted"], panels.get("recon_delta")
        )
        caption = (
            f"Input, near-future target, and the input plus the decoded change that was predicted; differences "
            f"amplified ×{figures.AMPLIFY} (red brighter, blue darker); |ẑ − z| where the decoder moved the face. "
            "Pixel R is 1 minus the error of the prediction over the error of copying the input; a latent that leaves "
            "out detail and noise keeps even a perfect prediction below 1"
        )
        found.append(Picture("reconstruction", "Reconstructed future frames", picture, caption, wide=True))
    if "heat_apex" in panels:
        titles = [str(title) for title in panels["heat_title"]] if "heat_title" in panels else None
        picture = figures.heat_maps(
            panels["heat_onset"], panels["heat_apex"], panels["heat_gradcam"], panels.get("heat_attention"), titles
        )
        caption = (
            "Onset, apex, Grad-CAM of the last action map over the apex (bright: speaks for the predicted class), "
            "and the native attention map of the action branch"
        )
        text = ""
        if "region_share" in panels:
            text = (
                f"Over the {len(panels['region_share'])} test clips with known action units and landmarks, "
                f"{panels['region_share'].mean():.0%} of the Grad-CAM mass lies in the part of the face that the "
                f"clip's own action units move; by area alone it would be {panels['region_area'].mean():.0%}."
            )
        found.append(Picture("heat_maps", "Where the network looks", picture, caption, text=text))
    return found


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
