import collections
import dataclasses

import numpy as np
import pytest

from mer_jax.data.clips import AU_SLOTS
from tfds_builders.common.validation import check_record
from tfds_builders.synthetic_faces import baselines, generate, timeline
from tfds_builders.synthetic_faces.baselines import scored_jobs

DEFAULTS = ("micro", "micro_dev")


def facts(config):
    return [generate.facts(job) for job in scored_jobs(config)]


@pytest.mark.parametrize("config", DEFAULTS)
def test_micro_sets_have_the_marginals_of_casme2_and_vary_over_people(config):
    jobs = scored_jobs(config)
    counts = collections.Counter(job.emotion for job in jobs)
    assert len(jobs) >= 200
    share = np.array([32, 63, 27, 25, 99]) / 246
    words = ("happiness", "disgust", "repression", "surprise", "others")
    np.testing.assert_allclose([counts[w] / len(jobs) for w in words], share, atol=0.005)
    people = collections.Counter(job.subject for job in jobs)
    assert len(people) >= 20
    assert max(people.values()) > 2.5 * np.median(list(people.values())) or max(people.values()) >= 18
    lacking = sum(len({j.emotion for j in jobs if j.subject == p}) < 5 for p in people)
    assert lacking > len(people) / 2


def test_macro_is_large_enough_and_uses_other_tables():
    jobs = scored_jobs("macro")
    assert len(jobs) >= 200
    assert len({j.subject for j in jobs}) >= 40
    assert {j.emotion for j in jobs} != {j.emotion for j in scored_jobs("micro")}


@pytest.mark.parametrize("config", DEFAULTS)
def test_classes_share_action_units(config):
    users = collections.defaultdict(set)
    for truth in facts(config):
        for unit, _ in truth.peak:
            users[unit].add(truth.job.emotion)
    assert len(users[4]) >= 3
    assert len(users[12]) >= 2


@pytest.mark.parametrize("config", [*DEFAULTS, "macro"])
def test_events_have_the_durations_of_their_kind(config):
    macro = config == "macro"
    low, high = (0.5, 4.0) if macro else (0.0, 0.5)
    for truth in facts(config):
        t, event = truth.timeline, truth.timeline.event
        assert low <= event.offset - event.onset <= high
        place = (event.apex - event.onset) / (event.offset - event.onset - event.hold)
        assert 0.25 <= place <= 0.75
        assert t.fps in ((25.0, 30.0) if macro else (100.0, 200.0))
        assert 0 <= t.onset < t.apex <= t.offset < t.frames
        assert event.onset > 0
        assert event.offset < (t.frames - 1) / t.fps + 1e-9
    margins = [
        (t.timeline.event.onset, (t.timeline.frames - 1) / t.timeline.fps - t.timeline.event.offset)
        for t in facts(config)
    ]
    assert np.std(np.diff(margins, axis=1)) > 0.01


def test_annotated_key_frames_are_the_true_ones_plus_milliseconds():
    errors = np.array([[(getattr(t.timeline, k) - getattr(t.timeline, f"true_{k}")) / t.timeline.fps
                        for k in ("onset", "apex", "offset")] for t in facts("micro")])  # fmt: skip
    assert 0.001 < errors.std() < 0.012
    assert np.abs(errors.mean()) < 0.002


def test_a_fifth_of_the_clips_starts_from_an_expression():
    cohort = generate.CONFIGS["micro"].cohort
    held = [t.constant != generate.person(cohort, t.job.subject).resting for t in facts("micro")]
    assert 0.12 < np.mean(held) < 0.28


def test_the_median_peak_motion_is_below_a_pixel():
    peaks = [generate.peak_motion(job) for job in scored_jobs("micro_dev")[::5]]
    assert 0.25 < np.median(peaks) < 1.0


def test_distractors_move_more_than_action_units_in_most_clips():
    stronger = [
        generate.distractor_energy(job) > generate.action_unit_energy(job) for job in scored_jobs("micro_dev")[::8]
    ]
    assert np.mean(stronger) >= 0.5


def permuted_level(predicted, labels, subjects, level=0.99, rounds=300):
    """The UF1 that predictions of this kind reach when they have nothing to do with the labels."""
    rng = np.random.default_rng(0)
    return np.quantile([baselines.score(rng.permutation(predicted), labels)[0] for _ in range(rounds)], level)


@pytest.mark.parametrize("config", DEFAULTS)
def test_nuisances_say_nothing_of_the_class(config):
    truth = facts(config)
    labels, subjects = (np.array([getattr(t.job, k) for t in truth]) for k in ("emotion", "subject"))
    features = np.stack([baselines.nuisance_features(t) for t in truth])
    predicted = baselines.leave_one_subject_out(features, labels, subjects, baselines.linear)
    assert baselines.score(predicted, labels)[0] <= permuted_level(predicted, labels, subjects)
    assert len(timeline.nuisances(truth[0].timeline)) == features.shape[1]


@pytest.mark.parametrize("config", DEFAULTS)
def test_the_true_action_units_say_much_but_not_all(config):
    truth = facts(config)
    labels, subjects = (np.array([getattr(t.job, k) for t in truth]) for k in ("emotion", "subject"))
    features = np.stack([baselines.au_features(t) for t in truth])
    predicted = baselines.leave_one_subject_out(features, labels, subjects, baselines.boosting)
    assert 0.75 <= baselines.score(predicted, labels)[0] <= 0.92


def test_the_onset_frame_says_nothing_of_the_class():
    jobs = scored_jobs("micro_dev")
    labels, subjects = (np.array([getattr(j, k) for j in jobs]) for k in ("emotion", "subject"))
    features = np.stack([baselines.onset_features(baselines.key_frames(job, size=32)) for job in jobs])
    predicted = baselines.leave_one_subject_out(features, labels, subjects, baselines.linear)
    assert baselines.score(predicted, labels)[0] <= permuted_level(predicted, labels, subjects)


def test_clips_keep_the_contract_and_do_not_depend_on_their_order():
    jobs = generate.clip_jobs("tiny_micro")
    first = generate.render_clip(jobs[5])
    generate.render_clip(jobs[6])
    again = generate.render_clip(jobs[5])
    assert first.frames == again.frames
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    for job in (jobs[0], jobs[-1]):
        record = generate.render_clip(job)
        check_record(record)
        assert record.action_units.shape == (AU_SLOTS,)
        assert (record.action_units.sum() > 0) == (record.emotion != "neutral")


def test_controls_take_away_the_expression_or_all_that_is_not():
    """Where one is taken away the other stays as it is, frame by frame."""
    job = next(job for job in generate.clip_jobs("tiny_micro") if job.emotion != "neutral")
    whole = generate.facts(job)
    head, expression = generate.head_alone(whole), generate.expression_alone(whole)
    for frame in range(whole.timeline.frames):
        pose, without, still = (truth.pose(frame) for truth in (whole, head, expression))
        assert without == dataclasses.replace(pose, activation=dict(whole.constant))
        assert still == dataclasses.replace(whole.pose(0), activation=pose.activation, blink=0.0)
    assert whole.pose(whole.timeline.true_apex).activation != whole.constant
    assert (expression.timeline.light == whole.timeline.light[0]).all()
    records = [generate.render_clip(job, truth) for truth in (None, whole, head, expression)]
    assert records[0].frames == records[1].frames
    assert len({record.frames[whole.timeline.true_apex] for record in records}) == 3
