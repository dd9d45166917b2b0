"""MOL: joint recognition, optical flow and landmarks from raw frames, by LOSO.

    python -m mer_jax.main --config configs/mol.py                    the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/mol.py:casme2_5,paper --config.data.manual_dir=...
    python -m mer_jax.main --config configs/mol.py:released           the authors' code, where it differs
    python -m mer_jax.main --config configs/mol.py:ablation           parts of the network and of the loss
    python -m mer_jax.main --config configs/mol.py:study              with and without the auxiliary tasks, 3 seeds
    python -m mer_jax.convert mol released.pth OUT                    released weights, for --config.init_from=OUT

Shao et al., TPAMI 2025. The meaning of the fields is in mer_jax/systems/mol.py.
"""

from ml_collections import ConfigDict

from configs import common

PAPER: dict[str, object] = {
    "data.size": 144,
    "data.crop": 128,
    "data.align": "released",
    "model.frames": 8,
    "model.width": 1.0,
    "model.flow_width": 1.0,
    "model.flow_depth": 3,
    "model.share_f5c": False,
    "model.flow_basis": "pair",
    "model.flow_zero": False,
    "model.sequences": 8,  # of the up to length / 8 phases that the authors draw from: flow targets cost memory
    "ft.steps": 1000,
    "ft.batch": 32,
    "ft.flow_weight": 10.0,
    "ft.landmark_weight": 0.1,
    "ft.augment.shift_px": 8,
    "ft.optimizer.learning_rate": 1e-4,
    "ft.optimizer.weight_decay": 1e-3,
    "ft.optimizer.schedule": "constant",
    "ft.optimizer.warmup_steps": 0,
    "ft.optimizer.clip_norm": 0.0,
}
RELEASED: dict[str, object] = {
    **PAPER,
    "model.normalise": "max",
    "model.fcc_kernel": "crop",
    "model.fcc_spread": 1.0,
    "model.fcc_ffn": "unused",
    "model.ccc": "released",
    "model.landmark_base": "zero",
    "ft.flow_loss": "released",
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.size": 32,
    "data.crop": 24,
    "model.frames": 4,
    "model.sequences": 1,
    "model.width": 0.0625,
    "model.flow_width": 0.0625,
    "model.flow_depth": 1,
    "ft.augment.shift_px": 4,
    "ft.batch": 8,
    "ft.epochs": 2,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Tables of several runs: name -> rows; a row is what differs from the full model, which comes first.
TASKS: dict[str, dict[str, object]] = {
    "mol": {},
    "mer_only": {"model.flow": False, "model.landmarks": False},
    "without_flow": {"model.flow": False},
    "without_landmarks": {"model.landmarks": False},
}
PARTS: dict[str, dict[str, object]] = {
    "without_fcc": {"model.fcc": "none"},
    "conv_for_fcc": {"model.fcc": "conv"},
    "without_ccc": {"model.ccc": "none"},
    "released_ccc": {"model.ccc": "released"},
    "without_f5c": {"model.fcc": "none", "model.ccc": "none"},
    "separate_f5c": {"model.share_f5c": False, "model.flow_basis": "pair"},
    "pair_basis": {"model.flow_basis": "pair"},
    **{f"k{k}": {"model.k": k} for k in (2, 6, 8)},
    **{f"frames{t}": {"model.frames": t} for t in (8, 16)},
    **{f"lambda_f{w:g}": {"ft.flow_weight": w} for w in (30.0, 3000.0)},
    **{f"lambda_m{name}": {"ft.landmark_weight": w} for name, w in (("01", 0.1), ("10", 10.0))},
}
ROWS: dict[str, dict] = {
    "ablation": {**TASKS, **PARTS},
    "study": {name: {"seeds": (0, 1, 2), **fields} for name, fields in TASKS.items()},
}

VARIANTS = {"paper": PAPER, "released": RELEASED, "tiny": TINY, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("mol")
    config.data.update({"size": 64, "crop": 56, "normalise": "unit", "action_units": ()})
    config.update(
        {
            "model": {
                "normalise": "std",
                "frames": 4,  # 8 in the paper: half as many pairs, with twice the motion
                "extent": "whole",
                "sequences": 2,
                "width": 0.25,
                "stem": "none",
                "fcc": "circular",
                "fcc_kernel": "size",
                "fcc_meta": 32,
                "fcc_positions": True,
                "fcc_spread": 0.02,
                "fcc_ffn": "none",
                "ccc": "channel",
                "k": 4,
                "ccc_itself": False,
                "share_f5c": True,
                "dropout": 0.5,
                "flow": True,
                "landmarks": True,
                "flow_width": 0.125,
                "flow_depth": 1,
                "flow_search": 20,
                "flow_dilation": 2,
                "flow_basis": "difference",
                "flow_zero": True,
                "landmark_base": "mean",
                "moving_px": 0.1,
            },
            "ft": {
                "epochs": 9,
                "batch": 8,
                "sampler": "permutation",
                "flow_weight": 300.0,
                "landmark_weight": 1.0,
                "flow_loss": "mean",
                "flow_pairs": 0,
                "carry_classifier": False,
                "augment": {"flip_p": 0.0, "rotate_deg": 0.0, "shift_px": 2, "brightness": 0.0, "contrast": 0.0},
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 2e-3,
                    "weight_decay": 1e-3,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "cosine",
                    "warmup_steps": 20,
                    "final_learning_rate": 0.0,
                    "clip_norm": 1.0,
                    "groups": (),
                    "ema": 0.0,
                },
            },
        }
    )
    aliases = {
        "width": "model.width",
        "frames": "model.frames",
        "extent": "model.extent",
        "ccc": "model.ccc",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
