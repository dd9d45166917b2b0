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

SCRATCH = {"pre.objective": "none", "ft.optimizer.groups": ()}
PAPER = {
    "data.size": 224,
    "model.width": 1.0,
    "pre.dec_dim": 384,
    "pre.dec_depth": 6,
    "pre.dec_heads": 6,
    "pre.batch": 256,
    "pre.epochs": 800,  # 50 epochs of 16 pairs a clip
    "pre.augment.shift_px": 15,
    "ft.augment.shift_px": 15,
    "ft.epochs": 70,
    "engine.dtype": "bfloat16",
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

VARIANTS = {"scratch": SCRATCH, "paper": PAPER, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "system": "ma2mi",
            "task": "emotion",  # emotion | au
            "seeds": (0,),
            "stages": "all",  # pretrain | finetune | all
            "init_from": "",  # workdir whose pre-training is used instead of our own
            "select": "last",  # last | inner | oracle (not comparable)
            "validation_fraction": 0.2,  # persons held out by select = inner
            "data": {**common.data(), "size": 64, "normalise": "imagenet", "action_units": ()},
            "engine": common.engine(),
            "model": {
                "encoder": "miacnet",
                "variant": "M0",
                "input": "diff",
                "width": 0.25,
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
                "bottleneck": 64,
                "dec_dim": 96,
                "dec_depth": 3,
                "dec_heads": 4,
                "shuffle_actions": False,
                "motion_weight": 0.0,
                "ae_steps": 2000,
                "ae_batch": 32,
                "ae_learning_rate": 1e-3,
                "share": False,  # one pre-training for all seeds
                "holdout": 0.15,  # share of macro persons kept for R, R_shuf, R_null
                "batch": 32,
                "epochs": 60,  # one pair a clip and epoch
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
                    "learning_rate": 1e-3,
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
                "epochs": 15,
                "batch": 32,
                "sampler": "permutation",
                "jitter": 0.0375,
                "augment": AUGMENT,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 8e-4,
                    "weight_decay": 0.6,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "exponential",
                    "decay": 0.987,
                    "decay_epochs": 50,
                    "clip_norm": 0.0,
                    "groups": (("encoder", 0.125),),
                    "ema": 0.0,
                },
            },
            "ablation": "",  # a table of ROWS
            "rows": {},
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
    config.rows = {name: common.nested(fields) for name, fields in ROWS.get(config.ablation, {}).items()}
    return config
