"""Heat maps: where in the face a recogniser sees the action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data.clips import AU_SLOTS

# iBUG points around the skin that an action unit moves; which units belong to which box is INFERRED from FACS
_BROWS = (tuple(range(17, 27)), (1, 2, 4))
_EYES = (tuple(range(36, 48)), (5, 6, 7))
_NOSE = (tuple(range(27, 36)), (9,))
_MOUTH = ((*range(48, 68), *range(5, 12)), tuple(range(10, 29)))
REGIONS = {"brows": _BROWS, "eyes": _EYES, "nose": _NOSE, "mouth": _MOUTH}


def grad_cam(classify: Callable[[jax.Array], jax.Array], features: jax.Array, classes: jax.Array) -> jax.Array:
    """Grad-CAM of a feature map (Selvaraju et al., ICCV 2017, equations 1 and 2); traced.

    weight_d = mean over places of d logit_c / d features_d;  map = ReLU(sum over d of weight_d features_d)

    Args:
      classify: features [B, h, w, D] -> logits [B, C]; examples must not influence each other (evaluation mode).
      features: [B, h, w, D].
      classes: int [B], the class c that each map explains.

    Returns:
      float32 [B, h, w], not negative, not normalised.
    """

    def chosen(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(classify(x), classes[:, None], axis=1).sum()

    weights = jax.grad(chosen)(features).mean(axis=(1, 2), keepdims=True)
    return nn.relu((weights * features).sum(axis=-1)).astype(jnp.float32)


def recogniser_maps(
    module: nn.Module, variables: Any, batch: Any, classes: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Heat maps of a two-branch recogniser (`systems.miacnet.Recogniser`); traced.

    Args:
      module: `apply(variables, batch, False)` gives logits, action and position [B, h, w, D] and, where the action
        branch has attention, map_1 .. map_n; `method="classify"` goes on from action and position to the logits.
      variables: of the module.
      batch: examples, [B, ...].
      classes: int [B], what the maps explain; default the predicted classes.

    Returns:
      `gradcam` [B, H, W]: Grad-CAM of the last action map before fusion, at the size of the frames, each in 0..1;
      `attention` [B, h, w]: the last native attention map (absent where the encoder has none); `logits` [B, C].
    """
    outputs: Any = module.apply(variables, batch, False)
    logits = outputs["logits"]
    classes = logits.argmax(axis=-1) if classes is None else classes

    def classify(action: jax.Array) -> jax.Array:
        result: Any = module.apply(variables, action, outputs["position"], method="classify")
        return result

    maps = grad_cam(classify, outputs["action"], classes)
    _, height, width, _ = batch["first"].shape
    result = {"gradcam": stretch(enlarge(maps, height, width)), "logits": logits}
    native = sorted(name for name in outputs if name.startswith("map_"))
    if native:
        result["attention"] = outputs[native[-1]][..., 0]
    return result


def enlarge(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation [B, h, w] -> [B, height, width]."""
    return jax.image.resize(maps, (maps.shape[0], height, width), "linear")


def stretch(maps: jax.Array) -> jax.Array:
    """Each map [B, h, w] to 0..1 by its own least and greatest value; a constant map becomes 0."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return jnp.where(high > low, (maps - low) / jnp.where(high > low, high - low, 1), 0)


def share_in_region(heat: np.ndarray, landmarks: np.ndarray, action_units: np.ndarray, margin: float = 0.15) -> float:
    """How much of a heat map lies where its action units are; by chance as much as their area, `region(...).mean()`.

    Args:
      heat: [H, W], not negative.
      landmarks: [68, 2], (x, y) in pixels of `heat`.
      action_units: [AU_SLOTS], 1 where a unit is present.
      margin: by how much the landmark boxes grow on each side, as a share of the distance of the outer eye corners.

    Returns:
      Share in 0..1; NaN without a known unit, without landmarks, or for a map of zeros.
    """
    inside = region(heat.shape, landmarks, action_units, margin)
    total = float(heat.sum())
    return float(heat[inside].sum()) / total if inside.any() and total > 0 else float("nan")


def region(shape: tuple[int, ...], landmarks: np.ndarray, action_units: np.ndarray, margin: float = 0.15) -> np.ndarray:
    """Mask bool [H, W] of the union of the boxes of the present action units; see `share_in_region`."""
    if action_units.shape != (AU_SLOTS,):
        raise ValueError(f"action units of shape {action_units.shape}; expected ({AU_SLOTS},)")
    mask = np.zeros(shape, bool)
    if not np.isfinite(landmarks).all():
        return mask
    grow = margin * float(np.linalg.norm(landmarks[45] - landmarks[36]))
    for points, units in REGIONS.values():
        if (action_units[list(units)] == 1).any():
            box = landmarks[list(points)]
            left, top = np.floor(box.min(axis=0) - grow).astype(int)
            right, bottom = np.ceil(box.max(axis=0) + grow).astype(int)
            mask[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = True
    return mask
