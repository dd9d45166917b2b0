"""AKMNet: adaptive key frames in clips of any length, by LOSO.

    python -m mer_jax.main --config configs/akmnet.py                 the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/akmnet.py:casme2_4_akmnet,paper --config.data.manual_dir=...
    python -m mer_jax.main --config configs/akmnet.py:released        the authors' code, where it differs
    python -m mer_jax.main --config configs/akmnet.py:ablation        steps of the mining, then ablation.csv
    python -m mer_jax.main --config configs/akmnet.py:study           ablations, frames without mining, key frames

Peng et al., arXiv 2009.09179. The meaning of the fields is in mer_jax/systems/akmnet.py.
"""

from ml_collections import ConfigDict

from configs import common

PAPER: dict[str, object] = {
    "data.size": 128,
    "data.fit": "stretch",
    "model.fps": 0.0,
    "model.stride": 32,
    "model.width": 1.0,
    "model.blocks": (2, 2, 2, 2),
    "model.statistics": "clip",
    "model.convolution": "direct",
    "ft.epochs": 40,
    "ft.batch": 8,
    "ft.buckets": 6,
    "ft.optimizer.learning_rate": 1e-3,
    "ft.optimizer.weight_decay": 5e-4,
    "ft.optimizer.final_learning_rate": 1e-8,
}
RELEASED: dict[str, object] = {  # the authors' code; class balance was left to its list of clips
    **PAPER,
    "model.threshold": "at_least",
    "model.gradient": "all",
    "ft.margin_sets": "strict",
    "ft.crop_p": 0.5,
    "ft.optimizer.schedule": "oscillating",
    "ft.optimizer.cycle_epochs": 8,
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "model.width": 0.0625,
    "model.hidden": 4,
    "ft.buckets": 2,
    "ft.batch": 4,
    "ft.epochs": 2,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Tables of several runs: name -> rows; a row is what differs from the full model, which comes first.
STEPS: dict[str, dict[str, object]] = {
    "mined": {},
    "1+2": {"model.steps": "1+2"},
    "1+3": {"model.steps": "1+3"},
    "2+3": {"model.steps": "2+3"},
}
FRAMES: dict[str, dict[str, object]] = {
    "all": {"model.steps": "none"},
    "random": {"model.steps": "none", "model.random_share": 0.5},  # about what mining keeps
    **{f"tim{n}": {"model.steps": "none", "model.frames": n, "model.fps": 0.0} for n in (16, 32, 64, 128)},
}
ROWS: dict[str, dict] = {"ablation": {**STEPS, **FRAMES}}

VARIANTS = {"paper": PAPER, "released": RELEASED, "tiny": TINY, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("akmnet")
    config.data.update({"size": 32, "normalise": "unit", "action_units": ()})
    config.update(
        {
            "model": {
                "extent": "onset_offset",
                "fps": 50.0,
                "frames": 0,
                "random_share": 0.0,
                "steps": "1+2+3",
                "width": 0.125,
                "blocks": (1, 1, 1, 1),
                "stride": 16,
                "hidden": 32,
                "dropout": 0.5,
                "threshold": "above",
                "gradient": "kept",
                "statistics": "batch",
                "convolution": "auto",  # three times as fast on CPU where maps are small
            },
            "ft": {
                "epochs": 10,
                "batch": 16,
                "sampler": "balanced",
                "buckets": 3,
                "zoom": 1.125,
                "crop_p": 1.0,
                "lambda_sparsity": 0.1,
                "lambda_margin": 1.0,
                "margin_sets": "kept",
                "optimizer": {
                    "name": "sgd",
                    "learning_rate": 1e-2,
                    "weight_decay": 5e-4,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "cosine",
                    "cycle_epochs": 0,
                    "final_learning_rate": 0.0,
                    "clip_norm": 0.0,
                    "groups": (),
                    "ema": 0.0,
                },
            },
        }
    )
    aliases = {
        "steps": "model.steps",
        "frames": "model.frames",
        "extent": "model.extent",
        "width": "model.width",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
