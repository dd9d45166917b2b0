"""ATNet: the apex frame beside the flow around it, inside and across databases.

    python -m mer_jax.main --config configs/atnet.py                     the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/atnet.py:temporal            one stream alone (or spatial)
    python -m mer_jax.main --config configs/atnet.py:families_cde        pooled LOSO over five synthetic databases
    python -m mer_jax.main --config configs/atnet.py:families_hde        each of them held out
    python -m mer_jax.main --config configs/atnet.py:study               streams x protocols, then ablation.csv
    python -m mer_jax.main --config configs/atnet.py:ablation            every switch, held-out databases
    python -m mer_jax.main --config configs/atnet.py:megc2019,paper --config.data.manual_dir=...

What crossing costs, from a finished study: python -m mer_jax.analysis.cross_database WORKDIR

Peng et al., ACII 2019. The meaning of the fields is in mer_jax/systems/atnet.py.
"""

from ml_collections import ConfigDict

from configs import common

TEMPORAL: dict[str, object] = {"model.streams": "temporal", "pre.objective": "none"}  # nothing of it is pre-trained
CAFFE = {"name": "sgd", "learning_rate": 1e-2, "decay": 0.1}
PAPER: dict[str, object] = {
    "data.size": 224,
    "model.width": 1.0,
    "model.fraction": 0.999,
    "model.side": 32,
    **{f"{stage}.optimizer.{field}": value for stage in ("pre", "ft") for field, value in CAFFE.items()},
    "pre.batch": 50,  # the recipe of Micro-Attention (Neurocomputing 410, 2020), which the paper follows
    "pre.epochs": 100,
    "pre.augment.rotate_deg": 10.0,
    "pre.augment.brightness": 20 / 255,
    "ft.batch": 16,
    "ft.epochs": 50,  # over the clips there are; the paper's run over clips repeated up to the largest class
}
RELEASED: dict[str, object] = {  # the authors' code, where it differs
    **PAPER,
    "model.padding": "right_aligned",
    "ft.augment_p": 0.0,
    "ft.epochs": 90,  # 2,500 iterations on the 442 clips of the composite
}
TINY: dict[str, object] = {  # seconds instead of minutes: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.macro": "synthetic_faces/tiny_macro",
    "data.size": 32,
    "model.width": 0.0625,
    "model.side": 3,
    "model.cells": 4,
    "pre.batch": 8,
    "pre.epochs": 2,
    "ft.batch": 8,
    "ft.epochs": 2,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Every protocol trains for about the same number of steps, as the released code does (2,500 in all of them): epochs
# differ, since an epoch is 3 steps inside one database, 9 with one of five held out, 12 with all but one person.
# The quick ones come first.
PROTOCOLS: dict[str, dict[str, object]] = {
    "hde": {"data.protocol": "cross_dataset", "ft.epochs": 11},
    "from_base": {"data.protocol": "hde_from_base", "ft.epochs": 32},
    "within": {"data.protocol": "loso_within", "ft.epochs": 32},
    "cde": {"data.protocol": "cde", "ft.epochs": 8},
}
FAMILIES: dict[str, object] = {
    "data.name": common.BENCHMARKS["families_cde"]["name"],
    "data.labels": common.BENCHMARKS["families_cde"]["labels"],
    "seeds": (0, 1, 2),
    "pre.share": True,
}
STREAMS: dict[str, dict[str, object]] = {
    "fusion": {},
    "temporal": TEMPORAL,
    "spatial": {"model.streams": "spatial"},
}
SECONDS: dict[str, object] = {"model.window": "seconds"}
SWITCHES: dict[str, dict[str, object]] = {
    "fusion": {},
    "scratch": {"pre.objective": "none"},
    "seconds": SECONDS,
    "circular": {"model.angle": "circular"},
    "right_aligned": {"model.padding": "right_aligned"},
    "masked": {"model.padding": "masked", "model.pooling": "valid"},
    "pool_valid": {"model.pooling": "valid"},
    "any_length": {"model.unit_length": False},
    "unbalanced": {"ft.sampler": "permutation"},
    "not_augmented": {"ft.augment_p": 0.0},
}
# Tables of several runs: name -> rows; a row is what differs from the first.
ROWS: dict[str, dict] = {
    "study": {
        f"{stream}_{protocol}": {**FAMILIES, **fields, **where}
        for protocol, where in PROTOCOLS.items()
        for stream, fields in (STREAMS | {"temporal_seconds": {**TEMPORAL, **SECONDS}}).items()
    },
    "ablation": {row: {**FAMILIES, **PROTOCOLS["hde"], **fields} for row, fields in SWITCHES.items()},
    "ablation_cde": {row: {**FAMILIES, **PROTOCOLS["cde"], **fields} for row, fields in SWITCHES.items()},
}

# Settings are chosen on micro_dev and base_dev alone, whose people are never scored.
DEV: dict[str, object] = {
    "data.name": "synthetic_faces/base_dev",
    "data.labels": "synthetic_families",
    "data.protocol": "kfold",
    "data.n_folds": 4,
    "ft.epochs": 14,  # 7 steps each
}
VARIANTS = {
    "families_dev": DEV,
    **{stream: fields for stream, fields in STREAMS.items() if fields},
    "paper": PAPER,
    "released": RELEASED,
    "tiny": TINY,
    **{name: {"ablation": name} for name in ROWS},
}


def _augment(rotate_deg: float, brightness: float) -> dict[str, float]:
    return {"flip_p": 0.0, "rotate_deg": rotate_deg, "shift_px": 0, "brightness": brightness, "contrast": 0.0}


def _optimizer(learning_rate: float) -> dict[str, object]:
    return {
        "name": "adam",  # sgd in the paper; a hundred steps want more than that
        "learning_rate": learning_rate,
        "weight_decay": 5e-6,
        "b1": 0.9,
        "schedule": "step",
        "decay": 0.5,
        "parts": 5,
        "clip_norm": 0.0,
        "groups": (),
        "ema": 0.0,
    }


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("atnet")
    config.data.update({"size": 48, "normalise": "unit", "action_units": ()})
    config.update(
        {
            "model": {
                "streams": "fusion",
                "width": 0.125,
                "fraction": 0.95,
                "window": "frames",
                "side": 12,
                "step_ms": 20.0,
                "cells": 8,
                "angle": "plain",
                "padding": "centred",
                "pooling": "all",
                "unit_length": True,
                "epsilon": 1e-10,
                "dropout": 0.5,
            },
            "pre": {
                "objective": "macro_cls",
                "task": "reconstruct",  # the stream gives pairs, of which the second frame is looked at
                "share": False,  # one pre-training for all seeds
                "holdout": 0.0,
                "batch": 32,
                "epochs": 20,
                "augment": _augment(10.0, 20 / 255),
                "augment_p": 0.5,
                "bias_rate": 2.0,
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
                "optimizer": _optimizer(3e-3),
            },
            "ft": {
                "epochs": 14,
                "batch": 32,
                "sampler": "balanced",
                "augment": _augment(5.0, 10 / 255),
                "augment_p": 0.5,
                "bias_rate": 2.0,
                "optimizer": _optimizer(2e-2),
            },
        }
    )
    aliases = {
        "streams": "model.streams",
        "window": "model.window",
        "padding": "model.padding",
        "width": "model.width",
        "objective": "pre.objective",
        "labels": "data.labels",
        "protocol": "data.protocol",
    }
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
