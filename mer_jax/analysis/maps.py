"""Heat maps: where in the face a recogniser sees the action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data import align
from mer_jax.data.clips import AU_SLOTS

NODES = 16  # of the quadrature of integrated gradients
# iBUG points around the skin that an action unit moves; which units belong to which box is INFERRED from FACS
_BROWS = (tuple(range(17, 27)), (1, 2, 4))
_EYES = (tuple(range(36, 48)), (5, 6, 7))
_NOSE = (tuple(range(27, 36)), (9,))
_MOUTH = ((*range(48, 68), *range(5, 12)), tuple(range(10, 29)))
REGIONS = {"brows": _BROWS, "eyes": _EYES, "nose": _NOSE, "mouth": _MOUTH}


def grad_cam(classify: Callable[[jax.Array], jax.Array], features: jax.Array, classes: jax.Array) -> jax.Array:
    """Grad-CAM of a feature map (Selvaraju et al., ICCV 2017, equations 1 and 2); traced.

    weight_d = mean over places of d logit_c / d features_d;  map = ReLU(sum over d of weight_d features_d)

    Moments are places like those of an image, where a map has them.

    Args:
      classify: features [B, ..., D] -> logits [B, C]; examples must not influence each other (evaluation mode).
      features: [B, h, w, D], or [B, T, h, w, D].
      classes: int [B], the class c that each map explains.

    Returns:
      float32 [B, h, w] or [B, T, h, w], not negative, not normalised.
    """

    def chosen(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(classify(x), classes[:, None], axis=1).sum()

    weights = jax.grad(chosen)(features).mean(axis=tuple(range(1, features.ndim - 1)), keepdims=True)
    return nn.relu((weights * features).sum(axis=-1)).astype(jnp.float32)


def integrated_gradients(
    score: Callable[[Any], jax.Array], inputs: Any, baseline: Any, nodes: int = NODES
) -> tuple[Any, jax.Array, jax.Array]:
    """Integrated gradients along the straight line (Sundararajan, Taly & Yan, ICML 2017, equation 1); traced.

    attribution_i = (x_i - x'_i) times the mean over t in 0..1 of d score / d x_i at x' + t (x - x')

    They add up to score(x) - score(x') (completeness). The mean is a Gauss-Legendre quadrature, exact for polynomials
    of degree 2 nodes - 1 in t; what it leaves out is returned.

    Args:
      score: inputs with a leading axis of examples [K, ...] -> [K]; examples must not influence each other.
      inputs: x, a tree of float arrays [...] of one example.
      baseline: x', of the same structure and shapes.
      nodes: points of the quadrature.

    Returns:
      attributions, a tree of arrays [...]; the difference of the scores; the sum of the attributions minus it.
    """
    places, weights = np.polynomial.legendre.leggauss(nodes)
    share = jnp.asarray([*(places + 1) / 2, 0.0, 1.0], jnp.float32)  # both ends go the same way, with weight 0
    part = jnp.asarray([*weights / 2, 0.0, 0.0], jnp.float32)

    def along(x: jax.Array, start: jax.Array) -> jax.Array:
        return start + share.reshape(-1, *[1] * x.ndim) * (x - start)

    scores, pull = jax.vjp(score, jax.tree.map(along, inputs, baseline))
    (slopes,) = pull(jnp.ones_like(scores))
    found = jax.tree.map(lambda x, start, s: (x - start) * jnp.tensordot(part, s, 1), inputs, baseline, slopes)
    difference = scores[-1] - scores[-2]
    total = jnp.stack([x.sum() for x in jax.tree.leaves(found)]).sum()
    return found, difference, total - difference


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


def standard_landmarks(side: int, margin: float) -> np.ndarray:
    """Landmarks [68, 2] of an average face in an aligned crop, where a clip's own are unknown.

    INFERRED: the stable points and the mouth corners are where `data.align` puts them; brows, lids, lips and jaw follow
    the proportions of the canonical face. Only the boxes of `region` are made of them.

    Args:
      side: of the crop in pixels.
      margin: see `align.Alignment`.
    """
    t = np.linspace(-1, 1, 17)
    jaw = np.stack([0.78 * np.sin(t * np.pi / 2), 1.35 - 1.3 * np.abs(t) ** 2], -1)
    brow = np.stack([np.linspace(-0.62, -0.12, 5), [-0.2, -0.29, -0.32, -0.3, -0.25]], -1)
    bridge = np.stack([np.zeros(4), [-0.07, 0.07, 0.21, 0.35]], -1)
    nose = np.stack([np.linspace(-0.17, 0.17, 5), [0.43, 0.46, 0.48, 0.46, 0.43]], -1)
    eye = np.array([(-0.5, 0), (-0.41, -0.06), (-0.29, -0.06), (-0.21, 0), (-0.29, 0.04), (-0.41, 0.04)])
    turn = np.linspace(np.pi, -np.pi, 13)[:-1]
    outer = np.stack([0.275 * np.cos(turn), 0.78 - 0.11 * np.sin(turn)], -1)
    inner = outer[[0, 2, 3, 4, 6, 8, 9, 10]] * [0.85, 0.2] + [0, 0.8 * 0.78]
    other = np.array([-1.0, 1.0])
    other_eye = eye[[3, 2, 1, 0, 5, 4]] * other
    points = np.concatenate([jaw, brow, brow[::-1] * other, bridge, nose, eye, other_eye, outer, inner])
    low, high = align.standard_box(margin)
    return np.asarray((points - low) / (high - low) * side - 0.5)
