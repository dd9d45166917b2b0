import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mer_jax import rescore
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from tests.training import toy


@pytest.fixture
def store():
    """Three clips of 9 frames; a patch brightens towards frame 5 of each."""
    frames = np.full((27, 16, 16, 3), 100, np.uint8)
    for clip in range(3):
        for t in range(9):
            frames[clip * 9 + t, 4:8, 4:8] += np.uint8(10 * (6 - abs(t - 5)))
    column = lambda value: np.full(3, value, np.int32)  # noqa: E731
    return dataclasses.replace(
        toy.store(3), frames=frames, start=np.arange(3, dtype=np.int32) * 9, length=column(9), onset=column(1),
        apex=np.array([3, -1, 4], np.int32), offset=column(7), fps=np.full(3, 100, np.float32),
    )  # fmt: skip


def test_apexes_by_rule(store):
    np.testing.assert_array_equal(rescore.apex_positions("annotated", store), [3, -1, 4])
    np.testing.assert_array_equal(rescore.apex_positions("middle", store), [4, 4, 4])
    np.testing.assert_array_equal(rescore.apex_positions("spotted", store), [5, 5, 5])


def test_jitter_has_its_milliseconds_and_stays_inside_the_event(store):
    np.testing.assert_array_equal(rescore.apex_positions("jitter:0", store), [3, 4, 4])
    wide = dataclasses.replace(store, onset=np.full(3, -1000), offset=np.full(3, 1000), apex=np.zeros(3, np.int32))
    drawn = np.concatenate([rescore.apex_positions("jitter:50", wide, seed) for seed in range(300)])
    assert abs(drawn.std() - 5) < 0.5  # 50 ms at 100 frames a second
    kept = rescore.apex_positions("jitter:900", store, 1)
    assert ((kept >= 1) & (kept <= 7)).all()


@pytest.mark.parametrize("reads", ["none", "boundaries"])
def test_a_system_that_looks_at_no_apex_is_not_scored_again(reads):
    settings = Settings({"system": "mol", "eval": {"apex": "middle"}})
    with pytest.raises(UserError, match="mol as configured here never looks at the apex"):
        rescore.check(settings, SimpleNamespace(oracle_inputs=reads))
    rescore.check(settings, SimpleNamespace(oracle_inputs="boundaries+apex"))
    rescore.check(Settings({"system": "mol", "eval": {"apex": "annotated"}}), SimpleNamespace(oracle_inputs=reads))


@pytest.mark.parametrize("word", ["midle", "jitter", "jitter:x"])
def test_another_word_is_refused(store, word):
    with pytest.raises(UserError, match=r"eval\.apex is .*expected annotated, middle, spotted or jitter:<ms>"):
        rescore.apex_positions(word, store)


def test_jitter_needs_frame_rates(store):
    with pytest.raises(UserError, match="frame rate"):
        rescore.apex_positions("jitter:20", dataclasses.replace(store, fps=np.full(3, np.nan, np.float32)))
