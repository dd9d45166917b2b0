"""STSTNet: the reference baseline, a shallow network on the flow and strain between onset and apex.

    python -m mer_jax.main --config configs/ststnet.py              the default: synthetic faces, 2 cores, minutes
    python -m mer_jax.main --config configs/ststnet.py:megc2019,paper --config.data.manual_dir=DATASETS
    python -m mer_jax.main --config configs/ststnet.py:released --config.data.manual_dir=PICTURES
    python -m mer_jax.main --config configs/ststnet.py:study        the same with magnified motion, three seeds

`released` trains on pictures of flow and strain as the field exchanges them: PICTURES/clips.csv has one row a picture
(28x28, channels u, v, strain) with the columns path,subject,label,dataset,modality. For the composite of MEGC 2019
dataset is casme2, samm or smic, label negative, positive or surprise, and modality flow_strain.

Liong et al., arXiv 1902.03634. The meaning of the fields is in mer_jax/systems/ststnet.py.
"""

from ml_collections import ConfigDict

from configs import common

# The paper's training is that of the default; what is full size here is what the flow is computed on.
PAPER: dict[str, object] = {"data.size": 128}
RELEASED: dict[str, object] = {
    "data.name": "clip_folder/pictures",
    "data.labels": "megc2019",
    "data.protocol": "cde",
    "data.size": 28,
    "data.fit": "stretch",
    "model.input": "pictures",
}
TINY: dict[str, object] = {  # seconds: to try the machinery, not the method
    "data.name": "synthetic_faces/tiny_micro",
    "data.size": 32,
    "model.side": 10,
    "ft.batch": 8,
    "ft.epochs": 4,
    "engine.chunk_steps": 4,
    "engine.save_every": 4,
    "engine.evaluate_every": 4,
}

# Tables of several runs: name -> rows; a row is what differs from the first one.
QUESTION: dict[str, dict[str, object]] = {
    "ststnet": {},
    "flow_only": {"model.filters": (3, 5), "model.order": ("strain", "v", "u")},
}
ROWS: dict[str, dict] = {}

VARIANTS = {"paper": PAPER, "released": RELEASED, "tiny": TINY, **{name: {"ablation": name} for name in ROWS}}


def get_config(arg: str = "") -> ConfigDict:
    config = common.base("ststnet")
    config.data.update({"size": 64, "normalise": "unit", "action_units": ()})
    config.engine.update({"chunk_steps": 100, "save_every": 800, "evaluate_every": 100})
    config.update(
        {
            "model": {
                "input": "frames",  # frames | pictures
                "side": 28,
                "border": 0.0625,  # of the frame, left out of its flow picture
                "order": ("strain", "v", "u"),
                "filters": (3, 5, 8),
                "dropout": 0.5,
            },
            "ft": {
                "epochs": 800,
                "batch": 256,
                "sampler": "permutation",
                "flip_p": 0.0,
                "optimizer": {
                    "name": "adam",
                    "learning_rate": 5e-5,
                    "weight_decay": 0.0,
                    "b1": 0.9,
                    "b2": 0.999,
                    "schedule": "constant",
                    "warmup_steps": 0,
                    "clip_norm": 0.0,
                    "groups": (),
                    "ema": 0.0,
                },
            },
        }
    )
    aliases = {"input": "model.input", "labels": "data.labels", "protocol": "data.protocol"}
    common.apply(config, arg, VARIANTS, aliases)
    table = ROWS.get(config.ablation, {})
    config.rows, config.row_names = common.rows(table), tuple(table)
    return config
