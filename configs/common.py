"""What all configs share: the word after the colon of `--config configs/x.py:word,key=value`, and the benchmarks.

Pure data: imports nothing of mer_jax.
"""

import ast
import difflib

from ml_collections import ConfigDict

# benchmark -> the data that are recognised; `+` joins datasets; `task` is emotion where not said.
BENCHMARKS = {
    "synthetic": {"name": "synthetic_faces/micro", "labels": "synthetic_5", "protocol": "loso"},
    "synthetic_dev": {"name": "synthetic_faces/micro_dev", "labels": "synthetic_5", "protocol": "loso"},
    "synthetic_dev_3": {"name": "synthetic_faces/micro_dev", "labels": "synthetic_3", "protocol": "loso"},
    "synthetic_au": {"name": "synthetic_faces/micro", "labels": "synthetic_au", "protocol": "au_loso", "task": "au"},
    "synthetic_tiny": {"name": "synthetic_faces/tiny_micro", "labels": "synthetic_5", "protocol": "loso"},
}
# Synthetic databases over one motion law, each but `base` with one shift: pooled, held out, inside each, from base.
_FAMILIES = "+".join(f"synthetic_faces/{family}" for family in ("base", "twin", "appearance", "motion", "prior"))
BENCHMARKS |= {
    word: {"name": _FAMILIES, "labels": "synthetic_families", "protocol": protocol}
    for word, protocol in {
        "families_cde": "cde", "families_hde": "cross_dataset", "families_within": "loso_within",
        "families_from_base": "hde_from_base",
    }.items()
}  # fmt: skip
# One database by LOSO: the benchmark is called as its label set. Face crops where the distribution has them.
_LOSO = {
    "casme/cropped": ("casme_3", "casme_4", "casme_4_akmnet", "casme_8"),
    "casme2/cropped": (
        "casme2_3_megc2019", "casme2_3_mmnet", "casme2_4", "casme2_4_akmnet", "casme2_5", "casme2_7",
    ),
    "samm/cropped": ("samm_3_megc2019", "samm_4_akmnet", "samm_5", "samm_7"),
    "smic/hs_cropped": ("smic_3",),
    "smic/vis_cropped": ("smic_vis_3",),
    "smic/nir_cropped": ("smic_nir_3",),
    "smic/e": ("smic_e_3",),
    "casme_squared/micro_cropped": ("casme_squared_3", "casme_squared_4"),
    "casme3/a": ("casme3_3", "casme3_4", "casme3_7"),
    "casme3/c": ("casme3_c_3", "casme3_c_4"),
    "mmew/micro": ("mmew_3", "mmew_4_mmnet", "mmew_4_valence", "mmew_6", "mmew_7"),
    "fourdme/grey_cropped": ("fourdme_3", "fourdme_5"),
    "dfme/train": ("dfme_7",),
}  # fmt: skip
BENCHMARKS |= {
    labels: {"name": name, "labels": labels, "protocol": "loso"} for name, sets in _LOSO.items() for labels in sets
}
BENCHMARKS |= {  # several databases, each in a folder of its own below one manual_dir
    "megc2019": {"name": "casme2/cropped+samm/cropped+smic/hs_cropped", "labels": "megc2019", "protocol": "cde"},
    "megc2018": {"name": "casme2/cropped+samm/cropped", "labels": "megc2018", "protocol": "hde_megc2018"},
    "hde_atnet": {"name": "casme2/cropped+samm/cropped+smic/hs_cropped", "labels": "megc2019", "protocol": "hde_atnet"},
}
# Action units of one database by LOSO (those with at least 10 positive clips), and across six of them.
_AU = {
    "casme": "casme/cropped", "casme2": "casme2/cropped", "samm": "samm/cropped", "fourdme": "fourdme/grey_cropped",
    "mmew": "mmew/micro", "casme3": "casme3/a",
}  # fmt: skip
BENCHMARKS |= {
    f"{dataset}_au": {"name": name, "labels": f"{dataset}_au", "protocol": "au_loso", "task": "au"}
    for dataset, name in _AU.items()
}
BENCHMARKS["cd6me"] = {"name": "+".join(_AU.values()), "labels": "cd6me", "protocol": "cd6me", "task": "au"}


def data() -> ConfigDict:
    """Where clips come from and what is scored."""
    return ConfigDict(
        {
            "name": "synthetic_faces/micro",  # what is recognised and scored; `+` joins datasets
            "macro": "synthetic_faces/macro",  # what is pre-trained on
            "labels": "synthetic_5",  # label set, see python -m mer_jax.evaluation splits --help
            "protocol": "loso",
            "n_folds": 10,  # kfold only
            "dir": "",  # where datasets are built and found; "" = $MER_JAX_DATA or ~/.cache/mer_jax/data
            "manual_dir": "",  # the licensed folder as distributed, for datasets that need one
            "macro_manual_dir": "",
            "fit": "crop",  # how a frame becomes a square: crop | pad | stretch
            "align": "none",  # none (crops as distributed, rendered faces) | clip (by landmarks) | released (MOL, FDP)
            "macro_align": "none",  # the same for what is pre-trained on
            "align_margin": 2.5,  # side of an aligned crop over the larger side of the box of eyes, nose and mouth
            "extent": "whole",  # what the store keeps of a clip: whole | onset_offset
            "magnify": "none",  # none | phase | eulerian: small movements made larger, see mer_jax/data/magnify.py
            "magnify_alpha": 15.0,  # a movement d becomes (1 + alpha) d
            "magnify_band": (0.0, 10.0),  # frequencies of the changes that are magnified
            "magnify_unit": "hz",  # hz | cycles (a frame; for clips of unknown frame rate)
            "magnify_cutoff": 16.0,  # eulerian: wavelength in pixels below which alpha is lowered
            "magnify_blur": 2.0,  # phase: blur of the phase in pixels
        }
    )


def engine() -> ConfigDict:
    """How steps and folds are run; changes speed and memory, not results (beyond rounding; dtype excepted)."""
    return ConfigDict(
        {
            "dtype": "float32",  # float32 | bfloat16 (compute; parameters stay float32)
            "fold_mode": "auto",  # loop | vmap | auto (timed)
            "chunk_mode": "auto",  # scan | dispatch | auto (dispatch on CPU)
            "folds_per_device": 0,  # 0 = from the device's memory; 1 on CPU
            "shard_params": False,  # pre-training: parameters and moments are divided over the devices
            "remat": "none",  # none | products: keeps only products and convolutions for the backward pass
            "chunk_steps": 50,  # steps between two looks of the host
            "save_every": 200,  # steps between two saves
            "evaluate_every": 50,  # steps between two scorings, for select = inner | oracle
        }
    )


def base(system: str) -> ConfigDict:
    """The fields that every config has; its own are added or replaced.

    Args:
      system: name in `mer_jax.systems`.
    """
    return ConfigDict(
        {
            "system": system,
            "task": "emotion",  # emotion | au
            "seeds": (0,),
            "stages": "all",  # pretrain | finetune | all
            "init_from": "",  # workdir whose pre-training (or imported weights) is used instead of our own
            "select": "last",  # last | inner | oracle (not comparable)
            "validation_fraction": 0.2,  # persons held out by select = inner
            "data": data(),
            "engine": engine(),
            "pre": {"objective": "none", "share": False},  # no pre-training
            "ft": {"steps": 0},  # of every fold, where a recipe counts steps; 0: ft.epochs over the largest fold
            "eval": {"apex": "annotated"},  # scores a finished run again: annotated | middle | spotted | jitter:<ms>
            "ablation": "",  # a table of rows: name -> what differs from the first row
            "rows": {},
            "row_names": (),  # their order: a ConfigDict sorts its keys
        }
    )


def apply(config: ConfigDict, arg: str, variants: dict, aliases: dict[str, str]) -> ConfigDict:
    """Applies `word,word,key=value,...`: benchmarks, this config's variants, and single fields.

    Args:
      config: the defaults; changed in place.
      arg: what stands after the colon.
      variants: word -> {dotted field: value}.
      aliases: short key -> dotted field; a dotted field may be given itself.
    """
    for part in filter(None, arg.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            _set(config, aliases.get(key, key), value, aliases)
        elif key in BENCHMARKS:
            chosen = dict(BENCHMARKS[key])
            config.task = chosen.pop("task", "emotion")
            config.data.update(chosen)
        elif key in variants:
            for field, new in variants[key].items():
                _set(config, field, new, aliases)
        else:
            words = [*BENCHMARKS, *variants, *(f"{a}=" for a in aliases)]
            raise ValueError(f"config argument {key!r} is unknown; {_suggest(key, words)}")
    return config


def _set(config: ConfigDict, field: str, value: object, aliases: dict[str, str]) -> None:
    *parents, last = field.split(".")
    node = config
    for name in parents:
        node = node.get(name, None)
        if not isinstance(node, ConfigDict):
            raise ValueError(f"config field {field!r} is unknown; {_suggest(field, [*aliases, *_fields(config)])}")
    if last not in node:
        raise ValueError(f"config field {field!r} is unknown; {_suggest(field, [*aliases, *_fields(config)])}")
    old = node[last]
    if isinstance(value, str) and not isinstance(old, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            raise ValueError(f"config field {field!r}: found {value!r}; expected {type(old).__name__}") from None
    try:
        node[last] = value
    except TypeError:
        raise ValueError(f"config field {field!r}: found {value!r}; expected {type(old).__name__}") from None


def rows(table: dict[str, dict]) -> dict[str, dict]:
    """The rows of a table: name -> the fields that differ, `{"a.b": 1}` as `{"a": {"b": 1}}`."""
    nested: dict[str, dict] = {}
    for name, fields in table.items():
        nested[name] = {}
        for field, value in fields.items():
            *parents, last = field.split(".")
            node = nested[name]
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
    return nested


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in config.items():
        names += _fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]
    return names


def _suggest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=3)
    return f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(words)}"
