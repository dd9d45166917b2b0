"""STSTNet against a reference in numpy, written from the layers; its pictures and their mirror images."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ststnet as config
from mer_jax import systems
from mer_jax.data import motion
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import ststnet
from mer_jax.training import folds
from mer_jax.training.step import make_step
from tests.systems import ststnet_reference as reference
from tests.training import toy

SIDE, CLASSES = 10, 3


def settings(words: str = "released", **model: Any) -> Settings:
    found = config.get_config(words)
    found.model.update(model)
    return Settings(found.to_dict())


def small(words: str = "released,data.size=10", **model: Any) -> Settings:
    return settings(words, side=SIDE, **model)


def pictures(n: int = 6) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


def store(n: int = 6, **motion_targets: Any) -> Any:
    base = toy.store(n)
    frames = np.zeros((n, SIDE, SIDE, 1), np.uint8) if motion_targets else pictures(n)
    return jax.device_put(dataclasses.replace(base, frames=frames, motion=motion_targets))


def test_the_released_size(shapes):
    batch = {"maps": jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)}
    variables = shapes(ststnet.build_network(settings(), CLASSES), batch)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 9 * 3 * 16 + 3 * 16 + 400 * 3 + 3 == 1683
    assert variables["params"]["linear"]["kernel"].shape == (400, 3)
    assert [variables["params"][f"stream_{i}"]["kernel"].shape for i in (1, 2, 3)] == [
        (3, 3, 3, 3), (3, 3, 3, 5), (3, 3, 3, 8),
    ]  # fmt: skip


def test_logits_are_those_of_the_layers_written_out(random_variables, quick):
    network = ststnet.build_network(small(), CLASSES)
    maps = pictures(4).astype(np.float32)
    variables = random_variables(network, {"maps": maps})
    found = quick(lambda v, x: network.apply(v, {"maps": x}, False)["logits"], variables, maps)
    expected = reference.logits(maps, reference.from_ours(variables), running=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_training_normalises_by_the_batch_and_keeps_the_variance_of_a_sample(random_variables, quick):
    network = ststnet.build_network(small(dropout=0.0), CLASSES)
    maps = pictures(4).astype(np.float32)
    variables = random_variables(network, {"maps": maps})

    outputs, changed = quick(lambda v, x: network.apply(v, {"maps": x}, True, mutable=["batch_stats"]), variables, maps)

    np.testing.assert_allclose(
        outputs["logits"], reference.logits(maps, reference.from_ours(variables), running=False), rtol=1e-4, atol=1e-3
    )
    for i, (mean, variance) in enumerate(reference.statistics(maps, reference.from_ours(variables)), start=1):
        before, after = (v["batch_stats"][f"stream_{i}"] for v in (variables, changed))
        np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * variance, rtol=1e-5)


def test_maps_come_in_the_order_of_the_settings():
    system = systems.build(small(), CLASSES)
    view = system.view(store(), jnp.int32(2), jax.random.key(0), True)
    np.testing.assert_array_equal(view["maps"], pictures()[2][..., ::-1])  # strain, v, u: read as BGR
    other = systems.build(small(order=("v", "strain", "u")), CLASSES)
    maps = other.view(store(), jnp.int32(2), jax.random.key(0), False)["maps"]
    np.testing.assert_array_equal(maps, pictures()[2][..., [1, 2, 0]])


def test_frames_and_pictures_are_the_same_to_the_network():
    own = systems.build(small("", input="frames"), CLASSES)
    (spec,) = own.needs.motion
    assert (spec.kind, spec.side, own.needs.channels) == ("flow_image", SIDE, 1)
    seen = own.view(store(flow_image=pictures()), jnp.int32(3), jax.random.key(0), True)
    given = systems.build(small(), CLASSES)
    assert given.needs.modality == "flow_strain"
    np.testing.assert_array_equal(seen["maps"], given.view(store(), jnp.int32(3), jax.random.key(0), True)["maps"])


def test_the_mirrored_picture_is_the_picture_of_the_mirrored_flow():
    flow = np.random.default_rng(0).normal(size=(SIDE, SIDE, 2)).astype(np.float32)
    mirrored = flow[:, ::-1] * np.float32([-1, 1])
    found = np.asarray(ststnet.mirror(jnp.asarray(motion.flow_image(flow, SIDE)))).astype(int)
    np.testing.assert_allclose(found, motion.flow_image(mirrored, SIDE), atol=1)  # a level is rounded on either side
    assert (found == motion.flow_image(mirrored, SIDE)).mean() > 0.95


def test_flips_mirror_training_clips_only():
    always = small()
    always = always.replace(ft=always.ft.replace(flip_p=1.0))
    system = systems.build(always, CLASSES)
    expected = pictures()[1][:, ::-1].astype(int)
    expected[..., 0] = 255 - expected[..., 0]
    trained, tested = (system.view(store(), jnp.int32(1), jax.random.key(5), train)["maps"] for train in (True, False))
    np.testing.assert_array_equal(trained, expected[..., ::-1])
    np.testing.assert_array_equal(tested, pictures()[1][..., ::-1])


def test_a_chunk_is_one_program_on_cpu_since_a_step_holds_no_convolution():
    system, clips = systems.build(small(), CLASSES), store()
    length = folds.FoldSettings(steps=2, steps_per_epoch=1, batch=4, chunk_steps=2, save_every=2, evaluate_every=2)
    protocol = toy.folds(6, 3)
    engine = folds.FoldEngine(system, clips, protocol, length)
    assert engine.choices["chunk_mode"] == "scan"
    masks, keys = engine.inputs(protocol.names[: engine.wave_size])
    states = jax.eval_shape(engine.init, masks, keys)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states)
    batch = {"maps": jax.ShapeDtypeStruct((4, SIDE, SIDE, 3), jnp.float32), "label": jax.ShapeDtypeStruct((4,), int)}
    step = make_step(system.finetune, engine._programs._tx)
    program = str(jax.make_jaxpr(step)(state, batch, jax.random.key(0)))
    assert "conv_general_dilated" not in program
    assert "dot_general" in program


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        ("released", {"input": "video"}, r"model\.input: found 'video'"),
        ("released", {"order": ("u", "v", "v")}, r"model\.order: found .* expected u, v, strain in some order"),
        ("", {"side": 27}, r"model\.side: found 27; expected 1 more than a multiple of 3"),
        ("released,data.size=64", {}, r"data\.size: found 64; expected model\.side = 28"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, model, message):
    with pytest.raises(UserError, match=message):
        systems.build(settings(words, **model), CLASSES)
