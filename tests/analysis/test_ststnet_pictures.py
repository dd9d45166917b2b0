"""What the report shows of STSTNet: the maps as they are, and shares of the streams that add up to the logits."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from configs import ststnet as config
from mer_jax import systems
from mer_jax.analysis.pictures import base
from mer_jax.analysis.pictures import ststnet as pictures
from mer_jax.data.clips import AU_SLOTS
from mer_jax.settings import Settings
from tests.training import toy

SIDE, CLASSES = 10, ("sad", "joy", "awe")


@pytest.fixture(scope="module")
def tested() -> Any:
    settings = Settings(config.get_config("tiny").to_dict())
    system: Any = systems.build(settings, len(CLASSES))
    images = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    frames = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 1), np.uint8)
    store = jax.device_put(dataclasses.replace(toy.store(6), frames=frames, motion={"flow_image": images}))
    batch = {"maps": images[:1].astype(np.float32)}
    init = jax.jit(lambda key: system.finetune.module.init(key, batch, False))
    folds = [(init(jax.random.key(k)), np.arange(3) + 3 * k) for k in range(2)]
    units = np.full((6, AU_SLOTS), -1, np.int8)
    units[4, 12] = 1
    table: Any = {"action_units": units, "emotion": np.array(["sad", "joy", "awe"] * 2)}
    return base.Tested(settings, system, store, table, CLASSES, folds, [1, 4], lambda clip: np.zeros((68, 2)))


def test_maps_and_shares_of_the_network_that_tested_a_clip(tested):
    found = pictures.arrays(tested)

    assert {name: value.ndim for name, value in found.items()} == pictures.DIMENSIONS
    np.testing.assert_allclose(found["ststnet_maps"], np.asarray(tested.store.motion["flow_image"])[[1, 4]] / 255)
    np.testing.assert_allclose(found["ststnet_frame"], np.asarray(tested.store.frames)[[1, 4]] / 255)
    assert found["ststnet_title"][1].startswith("joy (AU12), predicted ")
    for i, (clip, (variables, _)) in enumerate(zip([1, 4], tested.folds, strict=True)):
        maps = np.asarray(tested.store.motion["flow_image"])[[clip]][..., ::-1].astype(np.float32)
        logits = np.asarray(tested.system.finetune.module.apply(variables, {"maps": maps}, False)["logits"][0])
        logits = logits - np.asarray(variables["params"]["linear"]["bias"])
        chosen = CLASSES.index(found["ststnet_title"][i].rsplit(" ", 1)[1])
        margin = logits[chosen] - np.delete(logits, chosen).mean()
        np.testing.assert_allclose(found["ststnet_evidence"][i].sum(), margin, rtol=1e-4)


def test_the_picture_is_drawn_from_the_arrays_alone(tested):
    found = pictures.arrays(tested)
    (picture,) = pictures.pictures(found)
    assert len(picture.figure.axes) == 2 * 7
    del found["ststnet_frame"]  # clips that hold flow have no frames
    (picture,) = pictures.pictures(found)
    assert len(picture.figure.axes) == 2 * 6
    assert pictures.pictures({}) == []
