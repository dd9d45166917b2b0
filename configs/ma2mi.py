"""MA2MI: MIACNet, pre-trained on macro-expressions by near-future frame reconstruction, fine-tuned by LOSO.

    python -m mer_jax.main --config configs/ma2mi.py                  the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/ma2mi.py:scratch          without pre-training
    python -m mer_jax.main --config configs/ma2mi.py:encoder=resnet18 another encoder of frame pairs
    python -m mer_jax.main --config configs/ma2mi.py:paper            the 224-pixel network at full width
    python -m mer_jax.main --config configs/ma2mi.py:ablation         every row of ABLATION, then ablation.csv

Li, Niu & Zhao, arXiv 2405.16451. The meaning of the fields is in mer_jax/systems/ma2mi.py.
"""

from ml_collections import ConfigDict

from configs import common

AUGMENT = {"flip_p": 0.5, "rotate_deg": 3.0, "shift_px": 2, "brightness": 0.1, "contrast": 0.1}

SCRATCH: dict[str, object] = {"pre.objective": "none"}
PAPER: dict[str, object] = {
    "data.size": 224,
    "model.width": 1.0,
    "pre.bottleneck": 64,
    "pre.dec_dim": 384,
    "pre.dec_depth": 6,
    "pre.dec_heads": 6,
    "pre.batch": 256,
    "pre.epochs": 800,  # 50 epochs of 16 pairs a clip
    "pre.optimizer.learning_rate": 3e-4,
    "pre.augment.shift_px": 15,
    "ft.augment.shift_px": 15,
    "ft.epochs": 70,
    "ft.batch": 32,
    "ft.optimizer.learning_rate": 8e-4,
    "ft.optimizer.groups": (("encoder", 0.125),),
    "engine.dtype": "bfloat16",
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.macro": "synthetic_faces/tiny_macro",
    "data.size": 32,
    "model.width": 0.0625,
    "model.position_depth": 1,
    "pre.dec_dim": 16,
    "pre.dec_depth": 1,
    "pre.dec_heads": 2,
    "pre.bottleneck": 8,
    "pre.batch": 8,
    "pre.epochs": 10,
    "ft.batch": 8,
    "ft.epochs": 4,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Tables of several runs: name -> rows; a row is what differs from the full model, which comes first.
ROWS: dict[str, dict] = {}
ROWS["ablation"] = {
    "ma2mi": {},
    "scratch": SCRATCH,
    "macro_cls": {"pre.objective": "macro_cls"},
    "pixel": {"pre.latent": "pixel"},
    "shuffled": {"pre.shuffle_actions": True},
    "action_only": {"model.variant": "action_only"},
    "position_only": {"model.variant": "position_only"},
    "concat": {"model.variant": "concat"},
}

# The question of the paper: does the pretext help, and is it the pretext? `:grid` runs every row with every learning
# rate on micro_dev (4-fold by subject), the only set on which anything is chosen; `:study` runs the chosen ones once on
# micro (6-fold by subject, three seeds on one pre-training). `scratch_long` has the FLOPs of the whole MA2MI row, its
# pre-training and all six folds: (1546 + 1529) / 1529 GFLOP, twice the epochs. `macro_cls` learns from the pretext's
# pairs (near frames, time reversed in half of them), which is not the onset and apex that it might prefer.
QUESTION: dict[str, dict[str, object]] = {
    "ma2mi": {},
    "scratch": SCRATCH,
    "macro_cls": {"pre.objective": "macro_cls"},
    "scratch_long": {**SCRATCH, "ft.epochs": 40},
    "shuffled": {"pre.shuffle_actions": True},
    "pixel": {"pre.latent": "pixel"},
}
GRID = {"lr1e-3": 1e-3, "lr2e-3": 2e-3}
CHOSEN = dict.fromkeys(QUESTION, "lr2e-3")  # by UF1 on micro_dev, one seed
LONGER: dict[str, object] = {"pre.epochs": 60, "ft.epochs": 20}  # than the default, which ends in minutes
ROWS["grid"] = {
    f"{row}_{trial}": {
        **LONGER,
        **fields,
        "data.name": "synthetic_faces/micro_dev",
        "data.protocol": "kfold",
        "data.n_folds": 4,
        "ft.optimizer.learning_rate": rate,
    }
    for row, fields in QUESTION.items()
    for trial, rate in GRID.items()
}
ROWS["study"] = {
    row: {
        **LONGER,
        **fields,
        "seeds": (0, 1, 2),
        "pre.share": True,
        "data.protocol": "kfold",
        "data.n_folds": 6,
        "ft.optimizer.learning_rate": GRID[CHOSEN[row]],
    }
    for row, fields in QUESTION.items()
}

VARIANTS = {"scratch": SCRATCH, "paper": PAPER, "tiny": TINY, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("ma2mi")
    config.data.update({"size": 64, "normalise": "imagenet", "action_units": ()})
    config.update(
        {
            "model": {
                "encoder": "miacnet",
                "variant": "M0",
                "input": "diff",
                "width": 0.125,
                "head": "flatten",
                "head_dropout": 0.5,
                "position_depth": 2,
                "position_mlp": 4.0,
                "position_drop_path": 0.0,
                "fusion_depth": 1,
            },
            "pre": {
                "objective": "reconstruct",
                "task": "reconstruct",
                "latent": "dct",
                "cond": "token",
                "bottleneck": 8,  # 64 at full width
                "dec_dim": 96,
                "dec_depth": 2,
                "dec_heads": 4,
                "shuffle_actions": False,
                "motion_weight": 0.0,
                "ae_steps": 2000,
                "ae_batch": 32,
                "ae_learning_rate": 1e-3,
                "share": False,  # one pre-training for all seeds
                "holdout": 0.15,  # share of macro persons kept for R, R_shuf, R_null
                "batch": 32,
                "epochs": 40,  # one pair a clip and epoch
                "augment": AUGMENT,
                "pairs": {
                    "dt_ms": (80.0, 240.0),
                    "extent": "whole",
                    "reverse_p": 0.5,
                    "max_rotation_deg": 5.0,
                    "max_scale": 0.05,
                    "max_change": 0.12,
                    "min_change": 0.004,
                    "tries": 8,
                    "threads": 1,
                    "prefetch": 4,
                    "cache_mb": 512.0,
                },
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 3e-3,
                    "weight_decay": 0.05,
                    "b1": 0.9,
                    "b2": 0.95,
                    "schedule": "cosine",
                    "warmup_steps": 40,
                    "final_learning_rate": 1e-6,
                    "clip_norm": 1.0,
                    "ema": 0.0,
                },
            },
            "ft": {
                "epochs": 14,
                "batch": 16,
                "sampler": "permutation",
                "jitter": 0.0375,
                "augment": AUGMENT,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 2e-3,
                    "weight_decay": 0.6,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "exponential",
                    "decay": 0.987,
                    "decay_epochs": 50,
                    "clip_norm": 0.0,
                    "groups": (),
                    "ema": 0.0,
                },
            },
        }
    )
    aliases = {
        "encoder": "model.encoder",
        "variant": "model.variant",
        "width": "model.width",
        "latent": "pre.latent",
        "objective": "pre.objective",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
