"""The TFDS features of a clip: equal, field by field, to `mer_jax.data.clips.ClipRecord`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mer_jax.data.clips import (
    APEX_SOURCES,
    AU_SLOTS,
    EXPRESSION_TYPES,
    MODALITIES,
    N_LANDMARKS,
    ClipRecord,
)


def clip_features() -> tfds.features.FeaturesDict:
    """Features of one clip.

    `frames` is a sequence of encoded images kept as bytes: a reader gets them undecoded and decodes those it wants.
    (`features.Image` would decode the whole clip on reading, `features.Video` imports TensorFlow even for reading.)
    """
    text, number = tfds.features.Text, tfds.features.Scalar
    action_units = tfds.features.Tensor(shape=(AU_SLOTS,), dtype=np.int8)
    return tfds.features.FeaturesDict(
        {
            "clip": text(),
            "dataset": text(),
            "subject": text(),
            "cohort": text(),
            "frames": tfds.features.Sequence(text()),
            "modality": tfds.features.ClassLabel(names=MODALITIES),
            "fps": number(np.float32),
            "onset": number(np.int32),
            "apex": number(np.int32),
            "offset": number(np.int32),
            "apex_source": tfds.features.ClassLabel(names=APEX_SOURCES),
            "emotion": text(),
            "expression_type": tfds.features.ClassLabel(names=EXPRESSION_TYPES),
            "action_units": action_units,
            "action_unit_sides": action_units,
            "action_unit_intensity": action_units,
            "landmarks": tfds.features.Tensor(shape=(None, N_LANDMARKS, 2), dtype=np.float32),
            "true_onset": number(np.int32),
            "true_apex": number(np.int32),
            "true_offset": number(np.int32),
        }
    )


_CLASSES = {"modality": MODALITIES, "apex_source": APEX_SOURCES, "expression_type": EXPRESSION_TYPES}


def from_features(example: dict[str, Any]) -> ClipRecord:
    """The record of an example as `as_data_source` returns it (texts as bytes, classes as integers)."""
    fields: dict[str, Any] = {}
    for name, value in example.items():
        if name in _CLASSES:
            fields[name] = _CLASSES[name][int(value)]
        elif isinstance(value, bytes):
            fields[name] = value.decode()
        else:
            fields[name] = value
    fields["frames"] = list(example["frames"])
    return ClipRecord(**fields)
