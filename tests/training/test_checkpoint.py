import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mer_jax.errors import UserError
from mer_jax.training import checkpoint
from mer_jax.training.state import TrainState


def _state():
    variables = {"params": {"a": {"w": jnp.arange(6.0).reshape(2, 3)}}, "batch_stats": {"a": {"m": jnp.ones(3)}}}
    return TrainState.create(variables, optax.adamw(1e-3), ema=0.9)


def test_a_train_state_survives_saving_and_restoring(tmp_path):
    state = _state()
    rolling = checkpoint.Rolling(tmp_path / "s")
    rolling.save(3, state, {"folds": ["a"], "best": 0.1})
    rolling.save(7, jax.tree.map(lambda x: x + 1, state), {"folds": ["a"], "best": 0.2})
    rolling.wait()
    assert rolling.latest() == 7
    arrays, meta = rolling.restore(7)
    rolling.close()
    restored = checkpoint.unflatten(jax.eval_shape(lambda: state), arrays)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs) + 1)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert meta == {"folds": ["a"], "best": 0.2}


def test_a_checkpoint_of_another_network_names_the_leaves():
    flat = {k: np.asarray(v) for k, v in checkpoint.flatten(_state()).items()}
    flat["params.a.w"] = np.zeros((2, 4))
    flat["params.b"] = flat.pop("ema.a.w")
    with pytest.raises(UserError) as error:
        checkpoint.unflatten(_state(), flat)
    for name in ("params.a.w", "params.b", "ema.a.w"):
        assert name in str(error.value)


def test_finished_variables_open_one_by_one(tmp_path):
    finished = checkpoint.Finished(tmp_path)
    finished.save("cohort/p1", {"params": {"w": jnp.ones(2)}}, {"clips": {"x": [0.25, 0.75]}})
    finished.wait()
    assert finished.exists("cohort/p1")
    assert not finished.exists("cohort/p2")
    np.testing.assert_array_equal(checkpoint.read_arrays(finished.path("cohort/p1"))["params"]["w"], [1, 1])
    assert checkpoint.read_meta(finished.path("cohort/p1"))["clips"] == {"x": [0.25, 0.75]}
    finished.close()


def test_a_missing_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.read_arrays(tmp_path)
