"""AKMNet: adaptive key frames in clips of any length, by LOSO.

    python -m mer_jax.main --config configs/akmnet.py                 the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/akmnet.py:casme2_4_akmnet,paper --config.data.manual_dir=...
    python -m mer_jax.main --config configs/akmnet.py:released        the authors' code, where it differs
    python -m mer_jax.main --config configs/akmnet.py:scratch         without macro-expressions
    python -m mer_jax.main --config configs/akmnet.py:ablation        steps of the mining, then ablation.csv
    python -m mer_jax.main --config configs/akmnet.py:study           ablations, frames without mining, key frames

Peng et al., arXiv 2009.09179. The meaning of the fields is in mer_jax/systems/akmnet.py.
"""

from ml_collections import ConfigDict

from configs import common

SCRATCH: dict[str, object] = {"pre.objective": "none"}
PAPER: dict[str, object] = {
    "data.size": 128,
    "data.fit": "stretch",
    "ft.fps": 0.0,
    "model.stride": 32,
    "model.width": 1.0,
    "model.blocks": (2, 2, 2, 2),
    "model.statistics": "clip",
    "model.convolution": "direct",
    "data.magnify": "phase",  # alpha 15 is the default; the band is not stated
    "pre.augment.shift_px": 8,
    # over the clips there are; the paper's run over clips repeated up to the largest class, about twice the steps on
    # CASME II: ft.steps sets them
    "ft.epochs": 40,
    "ft.batch": 8,
    "ft.buckets": 6,
    "ft.optimizer.learning_rate": 1e-3,
    "ft.optimizer.weight_decay": 5e-4,
    "ft.optimizer.final_learning_rate": 1e-8,
}
RELEASED: dict[str, object] = {  # the authors' code; class balance was left to its list of clips
    **PAPER,
    **SCRATCH,  # weights come from a file: --config.init_from
    "ft.threshold": "at_least",
    "ft.gradient": "all",
    "ft.margin_sets": "strict",
    "ft.crop_p": 0.5,
    "ft.optimizer.schedule": "oscillating",
    "ft.optimizer.cycle_epochs": 8,
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.macro": "synthetic_faces/tiny_macro",
    "pre.batch": 8,
    "pre.epochs": 2,
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
MINING: dict[str, dict[str, object]] = {
    "mined": {},
    "1+2": {"ft.mining": "1+2"},
    "1+3": {"ft.mining": "1+3"},
    "2+3": {"ft.mining": "2+3"},
}
FRAMES: dict[str, dict[str, object]] = {
    "all": {"ft.mining": "none"},
    "random": {"ft.mining": "none", "ft.random_share": 0.6},  # what mining keeps on micro_dev
    **{f"tim{n}": {"ft.mining": "none", "ft.frames": n, "ft.fps": 0.0} for n in (16, 32, 64, 128)},
}
# Do key frames find the event? Whole clips, margins included, against networks that have learned nothing, or nothing of
# micro-expressions: as many steps, so that the statistics of BatchNorm are those of the clips.
WHOLE: dict[str, dict[str, object]] = {
    "whole": {"ft.extent": "whole"},
    "macro_only": {"ft.extent": "whole", "ft.optimizer.learning_rate": 0.0},
    "untrained": {"ft.extent": "whole", **SCRATCH, "ft.optimizer.learning_rate": 0.0},
}
STUDY: dict[str, object] = {"seeds": (0, 1, 2), "pre.share": True}
ROWS: dict[str, dict] = {
    "ablation": {**MINING, **FRAMES, "scratch": SCRATCH},
    "study": {row: {**STUDY, **fields} for row, fields in {**MINING, **WHOLE, "scratch": SCRATCH, **FRAMES}.items()},
}

VARIANTS = {
    "scratch": SCRATCH,
    "paper": PAPER,
    "released": RELEASED,
    "tiny": TINY,
    **{name: {"ablation": name} for name in ROWS},
}


def _optimizer(learning_rate: float) -> dict:
    return {
        "name": "sgd",
        "learning_rate": learning_rate,
        "weight_decay": 5e-4,
        "b1": 0.9,
        "b2": 0.999,
        "schedule": "cosine",
        "cycle_epochs": 0,
        "final_learning_rate": 0.0,
        "clip_norm": 0.0,
        "groups": (),
        "ema": 0.0,
    }


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("akmnet")
    config.data.update({"size": 32, "normalise": "unit", "action_units": ()})
    config.update(
        {
            "model": {
                "width": 0.125,
                "blocks": (1, 1, 1, 1),
                "stride": 16,
                "hidden": 32,
                "dropout": 0.5,
                "statistics": "batch",
                "convolution": "auto",  # twice as fast on CPU where maps are small
            },
            "pre": {
                "objective": "macro_cls",
                "task": "reconstruct",  # the stream gives pairs, of which the second frame is looked at
                "share": False,  # one pre-training for all seeds
                "holdout": 0.0,
                "batch": 32,
                "epochs": 40,
                "augment": {"flip_p": 0.5, "rotate_deg": 5.0, "shift_px": 2, "brightness": 0.1, "contrast": 0.2},
                "pairs": {
                    "dt_ms": (200.0, 2000.0),  # far from the onset is near the apex
                    "extent": "onset_apex",
                    "reverse_p": 0.0,
                    "max_rotation_deg": 10.0,
                    "max_scale": 0.1,
                    "max_change": 0.3,
                    "min_change": 0.0,
                    "tries": 8,
                    "threads": 1,
                    "prefetch": 4,
                    "cache_mb": 512.0,
                },
                "optimizer": _optimizer(3e-2),
            },
            "ft": {
                "extent": "onset_offset",
                "fps": 50.0,
                "frames": 0,
                "random_share": 0.0,
                "mining": "1+2+3",
                "threshold": "above",
                "gradient": "kept",
                "epochs": 10,
                "batch": 16,
                "sampler": "balanced",
                "buckets": 2,
                "zoom": 1.125,
                "crop_p": 1.0,
                "lambda_sparsity": 0.1,
                "lambda_margin": 1.0,
                "margin_sets": "kept",
                "optimizer": _optimizer(1e-2),
            },
        }
    )
    aliases = {
        "mining": "ft.mining",
        "frames": "ft.frames",
        "extent": "ft.extent",
        "width": "model.width",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
