"""Settings for tests: the documented defaults, at a size that compiles quickly."""

from __future__ import annotations

from typing import Any

from mer_jax.settings import Settings

AUGMENT = {"flip_p": 0.5, "rotate_deg": 3.0, "shift_px": 4, "brightness": 0.1, "contrast": 0.1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "engine": {"dtype": "float32"},
    "data": {"size": 64, "normalise": "imagenet", "action_units": ()},
    "model": {
        "encoder": "miacnet", "variant": "M0", "input": "diff", "width": 0.0625, "head": "flatten",
        "head_dropout": 0.5, "position_depth": 2, "position_mlp": 4.0, "position_drop_path": 0.0, "fusion_depth": 1,
    },
    "pre": {
        "objective": "reconstruct", "task": "reconstruct", "latent": "dct", "cond": "token", "bottleneck": 8,
        "dec_dim": 32, "dec_depth": 2, "dec_heads": 4, "shuffle_actions": False, "motion_weight": 0.0,
        "ae_steps": 4, "ae_batch": 4, "ae_learning_rate": 1e-3, "augment": AUGMENT,
        "optimizer": {"learning_rate": 3e-4, "weight_decay": 0.05, "b2": 0.95, "clip_norm": 1.0},
    },
    "ft": {
        "jitter": 0.0375, "augment": AUGMENT,
        "optimizer": {"learning_rate": 8e-4, "weight_decay": 0.05, "groups": (("encoder", 0.125),)},
    },
}  # fmt: skip


def make(**changes: Any) -> Settings:
    """Settings with changes like model={"width": 1.0} or task="au"."""
    fields: dict[str, Any] = {"system": "ma2mi", "task": "emotion", **DEFAULTS}
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    return Settings(fields)
