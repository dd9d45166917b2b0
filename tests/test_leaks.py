"""No tested person in any training or pre-training batch, whatever the table: checked on the traced indices."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from configs import ma2mi
from mer_jax import prepare
from mer_jax.data.clips import AU_SLOTS, ClipTable
from mer_jax.data.pairs import PairSettings
from mer_jax.data.stream import PairStream
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.training import draws

WORDS = ("happiness", "disgust", "repression", "surprise", "others", "neutral")
SETTINGS = Settings({k: v for k, v in ma2mi.get_config("tiny").to_dict().items() if k not in ("rows", "row_names")})
SCORED = [(0, s, WORDS[k]) for s in range(3) for k in range(3)]


def table(rows, kind):
    """rows: (cohort, subject, emotion)."""
    n = len(rows)
    columns = {
        "clip": np.array([f"synthetic_faces/{c}-{s}/{kind}{i}" for i, (c, s, _) in enumerate(rows)]),
        "dataset": np.full(n, "synthetic_faces"),
        "cohort": np.array([f"c{c}" for c, _, _ in rows]),
        "subject": np.array([f"s{s}" for _, s, _ in rows]),
        "modality": np.full(n, "rgb"),
        "apex_source": np.full(n, "annotated"),
        "emotion": np.array([e for _, _, e in rows]),
        "expression_type": np.array(["neutral" if e == "neutral" else kind for _, _, e in rows]),
        "fps": np.full(n, 50, np.float32),
    }
    numbers = {"length": 30, "onset": 2, "apex": 10, "offset": 20, "true_onset": 2, "true_apex": 10, "true_offset": 20}
    columns |= {k: np.full(n, v, np.int32) for k, v in numbers.items()}
    for name in ("action_units", "action_unit_sides", "action_unit_intensity"):
        columns[name] = np.zeros((n, AU_SLOTS), np.int8)
    return ClipTable(columns)


class Source:
    """A source of plain frames that remembers what was read."""

    def __init__(self, facts):
        self.table, self.read = facts, []
        self.shapes = np.tile(np.array([16, 16, 3], np.int32), (len(facts), 1))

    def frame(self, i, t):
        self.read.append(i)
        return np.full((16, 16, 3), t, np.uint8)

    def landmarks(self, i):
        return np.full((30, 68, 2), np.nan, np.float32)


def prepared(patch, scored, pretrained, **changes):
    sources = {"m": Source(table(scored, "micro")), "M": Source(table(pretrained, "macro"))}
    patch.setattr(prepare, "open_or_build", lambda name, *_: sources[name])
    chosen = SETTINGS.replace(data=SETTINGS.data.replace(name="m", macro="M"), **changes)
    micro = prepare.micro(chosen)
    return micro, prepare.macro(chosen, micro)


rows = st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from(WORDS))
tables = st.lists(rows, min_size=4, max_size=24)


@settings(max_examples=40, deadline=None)
@given(scored=tables, pretrained=tables, select=st.sampled_from(["last", "inner"]), seed=st.integers(0, 3))
def test_no_tested_person_is_drawn_for_training_or_pretraining(scored, pretrained, select, seed):
    with pytest.MonkeyPatch.context() as patch:
        try:
            micro, macro = prepared(patch, scored, pretrained, select=select, seeds=(seed,))
            arrays = micro.arrays(select)
        except UserError:
            reject()  # the table cannot be divided: said, not guessed
    person = micro.table.person
    tested = set()
    for i, name in enumerate(arrays.names):
        mask, key = jnp.asarray(arrays.train[i]), draws.fold_key(seed, name)
        epochs = draws.epochs_touched(8, int(arrays.train[i].sum()))
        drawn = np.concatenate([draws.permutation_batch(mask, key, s, 8, epochs) for s in range(3)])
        own = set(person[arrays.test[i]])
        tested |= own
        assert not own & set(person[drawn])
        assert not own & set(person[arrays.validation[i]])
        assert not set(person[arrays.validation[i]]) & set(person[drawn])
    stream = PairStream(macro.source, macro.train, PairSettings(min_change=0.0, threads=0), seed, 4, size=16)
    for step in range(3):
        stream(step)
    everybody = macro.source.table.person
    assert macro.source.read
    assert not tested & set(everybody[macro.source.read])
    assert not tested & set(everybody[macro.held_out])
    assert not set(everybody[macro.train]) & set(everybody[macro.held_out])
    assert (macro.source.table["expression_type"][macro.source.read] == "macro").all()


def test_excluded_macro_clips_are_counted(monkeypatch):
    pretrained = [(0, 1, "happiness"), (0, 7, "happiness"), (1, 1, "surprise"), (1, 2, "neutral")]
    _, macro = prepared(monkeypatch, SCORED, pretrained)
    assert macro.excluded == 1  # c0/s1 is tested; c1/s1 is somebody else
    assert set(macro.persons) <= {"c0/s7", "c1/s1"}
    assert macro.classes == ("happiness", "surprise")


def test_oracle_is_the_only_way_for_test_clips_to_reach_the_selection(monkeypatch):
    micro, _ = prepared(monkeypatch, SCORED, [(1, 1, "happiness")])
    assert not (micro.arrays("last").validation & micro.arrays("last").test).any()
    np.testing.assert_array_equal(micro.arrays("oracle").validation, micro.arrays("oracle").test)


def test_held_out_persons_are_spread_and_never_all():
    names = [f"p{i:02d}" for i in range(20)]
    held = prepare._held_out(names, 0.2)
    assert len(held) == 4
    assert max(np.diff([names.index(h) for h in held])) <= 6
    assert prepare._held_out(["a"], 0.9) == []
