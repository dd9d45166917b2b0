"""FDP: frames ranked in time, their dynamic representation shared by recognition and the dynamic image; LOSO.

    python -m mer_jax.main --config configs/fdp.py                 the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/fdp.py:paper           the described network at full width
    python -m mer_jax.main --config configs/fdp.py:released        the released network, as the authors train it
    python -m mer_jax.main --config configs/fdp.py:casme2_5        another benchmark, see configs/common.py
    python -m mer_jax.main --config configs/fdp.py:ablation        every row of ABLATION, then ablation.csv

The small form was chosen on micro_dev by how well it constructs dynamic images and how far its ranking loss falls:
scores say little there.
Shao et al., arXiv 2509.06015. The meaning of the fields is in mer_jax/systems/fdp.py.
"""

from ml_collections import ConfigDict

from configs import common

AUGMENT = {"flip_p": 0.5, "rotate_deg": 0.0, "shift_px": 2, "brightness": 0.1, "contrast": 0.1}
NO_AUGMENT = {"flip_p": 0.0, "rotate_deg": 0.0, "shift_px": 0, "brightness": 0.0, "contrast": 0.0}

FULL: dict[str, object] = {  # the sizes of the released code
    "data.size": 64,
    "data.align": "released",
    "model.depths": (3, 4, 10, 3),
    "model.widths": (96, 192, 384, 768),
    "model.stem": 64,
    "model.patch": 4,
    "model.head_dim": 8,
    "model.drop_path": 0.1,
    "model.init": "truncated",
    "model.map_size": 64,
    "model.head": "mean",
    "model.hidden": 256,
    "model.reference": "none",
    "model.gain": 1.0,
    "model.segnet": (64, 128, 256, 512, 512),
    "model.segnet_convolutions": (2, 2, 3, 3, 3),
    "ft.batch": 36,
    "ft.optimizer.name": "adam",
    "ft.optimizer.learning_rate": 1e-4,
    "ft.optimizer.weight_decay": 1e-3,
    "ft.optimizer.schedule": "constant",
    "ft.optimizer.warmup_steps": 0,
    "ft.optimizer.groups": (),
    "ft.steps": 500,
    "ft.augment": NO_AUGMENT,  # the released code has none
}
PAPER: dict[str, object] = {**FULL, "model.attention": True, "model.local": "grouped", "model.scorer_hidden": 256}
RELEASED: dict[str, object] = {
    **FULL,
    "data.phase": "first",
    "model.patch": 0,
    "model.attention": False,
    "model.local": "dense",
    "model.pool": "conv3d_mixed",
    "model.norm_pooled": False,
    "model.segnet_bias": True,
    "model.standardise": True,
    "model.scale": "minmax",
    "ft.rank_weight": 0.0,
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.size": 32,
    "data.frames": 4,
    "data.order_frames": 6,
    "model.depths": (1,),
    "model.widths": (24,),
    "model.stem": 4,
    "model.patch": 4,
    "model.map_size": 16,
    "model.segnet": (4,),
    "model.segnet_convolutions": (1,),
    "model.hidden": 8,
    "ft.batch": 8,
    "ft.epochs": 4,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Tables of several runs: name -> rows; a row is what differs from the full model, which comes first.
ROWS: dict[str, dict] = {}
QUESTION: dict[str, dict[str, object]] = {
    "fdp": {},
    "no_rank_loss": {"ft.rank_weight": 0.0},
    "no_dynamic_image": {"ft.dynamic_weight": 0.0},
    "no_attention": {"model.attention": False},
    "frames": {"model.reference": "none"},
    "shuffled_order": {"ft.shuffle_order": True},
    "arp": {"model.pool": "arp", "ft.rank_weight": 0.0},
}
ROWS["ablation"] = {
    **QUESTION,
    "recognition_only": {"ft.rank_weight": 0.0, "ft.dynamic_weight": 0.0},
    "conv3d": {"model.pool": "conv3d", "ft.rank_weight": 0.0},
    "conv3d_mixed": {"model.pool": "conv3d_mixed", "ft.rank_weight": 0.0},
    "dense": {"model.local": "dense"},
    "minmax": {"model.scale": "minmax"},
}
ROWS["study"] = {row: {**fields, "seeds": (0, 1, 2)} for row, fields in QUESTION.items()}

VARIANTS = {"paper": PAPER, "released": RELEASED, "tiny": TINY, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("fdp")
    config.data.update(
        {
            "size": 32,
            "normalise": "signed",
            "action_units": (),
            "frames": 8,
            "part": "whole",  # whole | onset_offset | onset_apex
            "phase": "all",  # first | all
            "views": 1,
            "order_frames": 16,
        }
    )
    config.update(
        {
            "model": {
                "depths": (1,),
                "widths": (24,),
                "stem": 24,
                "patch": 4,
                "attention": True,
                "local": "grouped",
                "head_dim": 8,
                "drop_path": 0.0,
                "init": "fan_in",
                "map_size": 32,
                "head": "places",
                "pool": "rank_score",
                "scorer_hidden": 0,
                "norm_pooled": True,
                "maps": 8,
                "hidden": 32,
                "segnet": (16, 32),
                "segnet_convolutions": (1, 1),
                "segnet_bias": False,
                "standardise": False,
                "reference": "first",  # faces differ by more than expressions do
                "gain": 4.0,
                "scale": "fixed",
                "deviations": 4.0,
                "form": "auto",
            },
            "ft": {
                "epochs": 27,
                "batch": 8,
                "sampler": "permutation",
                "dynamic_weight": 100.0,
                "rank_weight": 1.0,
                "margin": 1.0,
                "shuffle_order": False,
                "augment": AUGMENT,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 2e-2,
                    "weight_decay": 0.05,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "cosine",
                    "warmup_steps": 10,
                    "final_learning_rate": 1e-5,
                    "clip_norm": 0.0,
                    # at the rate that dynamic images need, all units of the recognition head die
                    "groups": (("hidden", 0.05), ("classifier", 0.05)),
                    "ema": 0.0,
                },
            },
        }
    )
    aliases = {
        "pool": "model.pool",
        "scale": "model.scale",
        "attention": "model.attention",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
