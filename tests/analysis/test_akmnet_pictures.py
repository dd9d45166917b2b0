"""Strips of key frames: what is collected from the networks, and that it can be drawn again."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis.figures import PALETTE, png
from mer_jax.analysis.pictures import akmnet, base
from mer_jax.data.clips import AU_SLOTS
from mer_jax.systems.base import Buckets

COUNTS = np.array([5, 9, 3])


class Mean:
    """Scores a frame by its brightness, plus what the fold's variables say."""

    @staticmethod
    def apply(variables: Any, batch: Any, train: bool) -> Any:
        assert not train
        scores = batch["frames"].mean(axis=(2, 3, 4)) + variables
        return {"scores": scores, "kept": scores > variables + 0.3, "logits": jnp.array([[0.0, 1.0]])}


def system() -> Any:
    def view(store: Any, index: jax.Array, key: jax.Array, train: bool, length: int) -> Any:
        number = jnp.arange(length)
        frames = jnp.broadcast_to((number / 10)[:, None, None, None], (length, 4, 4, 1))
        return {"frames": frames, "mask": number < jnp.asarray(COUNTS)[index], "position": 2.0 * number}

    buckets = Buckets((5, 9), np.array([0, 1, 0]))
    stage = types.SimpleNamespace(module=Mean())
    return types.SimpleNamespace(view=view, buckets=lambda store: buckets, finetune=stage)


def opened(mining: str = "1+2+3") -> base.Tested:
    units = np.full((3, AU_SLOTS), -1, np.int8)
    units[0, [4, 12]] = 1
    table: Any = {
        "action_units": units, "emotion": np.array(["joy", "fear", "joy"]), "true_onset": np.array([1, 2, -1]),
        "true_apex": np.array([3, 4, -1]), "true_offset": np.array([5, 6, -1]),
    }  # fmt: skip
    settings = types.SimpleNamespace(ft=types.SimpleNamespace(mining=mining), task="emotion")
    folds = [(jnp.float32(1), np.array([0, 1])), (jnp.float32(2), np.array([2]))]
    return base.Tested(settings, system(), {}, table, ("a", "b"), folds, [0, 2], lambda clip: np.zeros((68, 2)))


def test_strips_of_the_folds_that_tested_a_clip() -> None:
    found = akmnet.arrays(opened())
    assert {name: array.ndim for name, array in found.items()} == akmnet.DIMENSIONS
    nan = [np.nan] * 9
    np.testing.assert_allclose(found["akmnet_scores"], [[1, 1.1, 1.2, 1.3, 1.4, *nan[:4]], [2, 2.1, 2.2, *nan[:6]]])
    np.testing.assert_array_equal(found["akmnet_position"][1], [0, 2, 4, *nan[:6]])
    np.testing.assert_array_equal(found["akmnet_drawn"][1], np.round(np.linspace(0, 2, 12)))
    np.testing.assert_allclose(found["akmnet_strip"][1, :, 0, 0, 0], found["akmnet_drawn"][1] / 10, rtol=1e-6)
    np.testing.assert_array_equal(found["akmnet_moments"], [[1, 3, 5], [np.nan] * 3])
    assert found["akmnet_title"].tolist() == ["joy (AU4, AU12), predicted b", "joy (AUs unknown), predicted b"]
    assert akmnet.arrays(opened("none")) == {}
    assert akmnet.pictures({}) == []


def test_key_frames_are_framed() -> None:
    (picture,) = akmnet.pictures(akmnet.arrays(opened()))
    assert picture.wide
    assert png(picture.figure)[:4] == b"\x89PNG"
    strip = picture.figure.axes[:12]
    kept = akmnet.arrays(opened())["akmnet_kept"][0]
    drawn = akmnet.arrays(opened())["akmnet_drawn"][0]
    framed = [axes.spines["left"].get_visible() for axes in strip]
    assert framed == [bool(kept[k]) for k in drawn]
    assert 0 < sum(framed) < 12
    assert strip[framed.index(True)].spines["left"].get_edgecolor()[0] == int(PALETTE[1][1:3], 16) / 255
