from __future__ import annotations

import json

import numpy as np
import pytest

from mer_jax.errors import UserError
from mer_jax.evaluation import results

CLASSES = ("happiness", "others")


def emotion_predictions(build_table, seeds=(0,), classes=CLASSES):
    rows = [
        {"dataset": "samm", "subject": subject, "clip": f"samm/{subject}/{k}", "emotion": "others"}
        for subject in ("007", "006")
        for k in range(2)
    ]
    table = build_table(rows)
    labels = np.array([0, 1, 1, 0], np.int32)
    rng = np.random.default_rng(0)
    parts = []
    for seed in seeds:
        p = rng.dirichlet(np.ones(len(classes)), 4)
        fold = np.array([f"samm-{s}" for s in table["subject"]])
        parts.append(results.predictions_of(table, labels, classes, seed=seed, fold=fold, probability=p))
    return results.concatenate(parts)


def au_predictions(build_table):
    rows = [{"subject": f"{k:02d}", "clip": f"casme2/{k:02d}/a"} for k in range(3)]
    labels = np.array([[1, 0], [-1, 1], [0, 0]], np.int8)
    p = np.array([[0.9, 0.2], [0.5, 0.7], [0.5000001, 0.51]])
    table = build_table(rows)
    return results.predictions_of(table, labels, ("AU4", "AU12"), seed=1, fold=table["subject"], probability=p)


def assert_equal(a, b):
    assert (a.task, a.classes) == (b.task, b.classes)
    for name in ("seed", "fold", "dataset", "subject", "clip", "person", "truth", "predicted", "probability"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_the_file_is_as_documented(build_table, tmp_path):
    path = tmp_path / "predictions.csv"
    predictions = emotion_predictions(build_table, seeds=(1, 0))
    results.write_predictions(path, predictions)
    lines = path.read_text().splitlines()
    assert lines[0] == "seed,fold,dataset,subject,clip,truth,predicted,p_happiness,p_others"
    assert [line.split(",")[:6] for line in lines[1:3]] == [
        ["0", "samm-006", "samm", "006", "samm/006/0", "others"],
        ["0", "samm-006", "samm", "006", "samm/006/1", "happiness"],
    ]
    assert [line.split(",")[0] for line in lines[1:]] == list("00001111")
    for line in lines[1:]:
        *_, predicted, p0, p1 = line.split(",")
        assert predicted == CLASSES[int(float(p1) > float(p0))]
        assert len(p0) == len("0.000000")


def test_reading_back_gives_the_same(build_table, tmp_path):
    for predictions in (emotion_predictions(build_table, seeds=(0, 2)), au_predictions(build_table)):
        path = tmp_path / f"{predictions.task}.csv"
        results.write_predictions(path, predictions)
        again = results.read_predictions(path)
        assert_equal(again, predictions)
        first = path.read_bytes()
        results.write_predictions(path, again)
        assert path.read_bytes() == first


def test_the_order_of_folds_does_not_change_the_bytes(build_table, tmp_path):
    predictions = emotion_predictions(build_table, seeds=(0, 1))
    parts = [predictions.select(predictions.subject == s) for s in ("007", "006")]
    for name, value in (("a", predictions), ("b", results.concatenate(parts)), ("c", results.concatenate(parts[::-1]))):
        results.write_predictions(tmp_path / name, value)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_rows_are_sorted_by_seed_dataset_subject_clip(tmp_path):
    lines = ["10,f,a,2,m,x,x", "9,f,b,1,a,x,x", "9,f,a,2,b,x,x", "9,f,a,1,z,x,x", "9,f,a,1,c,x,x"]
    (tmp_path / "p.csv").write_text("seed,fold,dataset,subject,clip,truth,predicted\n" + "\n".join(lines))
    found = results.read_predictions(tmp_path / "p.csv")
    assert list(zip(found.seed, found.clip, strict=True)) == [(9, "c"), (9, "z"), (9, "b"), (9, "a"), (10, "m")]


def test_action_units(build_table, tmp_path):
    predictions = au_predictions(build_table)
    results.write_predictions(tmp_path / "p.csv", predictions)
    assert (tmp_path / "p.csv").read_text() == (
        "seed,fold,dataset,subject,clip,truth_AU4,p_AU4,truth_AU12,p_AU12\n"
        "1,00,casme2,00,casme2/00/a,1,0.900000,0,0.200000\n"
        "1,01,casme2,01,casme2/01/a,,0.500000,1,0.700000\n"
        "1,02,casme2,02,casme2/02/a,0,0.500000,0,0.510000\n"
    )
    # 0.5000001 is written as one half, and one half is not a detection, before writing and after.
    np.testing.assert_array_equal(predictions.predicted, [[1, 0], [0, 1], [0, 1]])


def test_rows_of_a_table(build_table):
    table = build_table([{"subject": s} for s in ("01", "02", "03")])
    found = results.predictions_of(
        table,
        np.array([0, -1, 1]),
        CLASSES,
        seed=np.array([5, 5]),
        fold=np.array(["b", "a"]),
        probability=np.array([[0.2, 0.8], [0.7, 0.3]]),
        rows=np.array([2, 0]),
    )
    assert found.subject.tolist() == ["01", "03"]
    assert found.fold.tolist() == ["a", "b"]
    assert found.person.tolist() == ["casme2/01", "casme2/03"]
    assert found.truth.tolist() == [0, 1]
    assert found.predicted.tolist() == [0, 1]
    assert found.seeds == (5,)
    with pytest.raises(ValueError, match="no label"):
        results.predictions_of(
            table, np.array([0, -1, 1]), CLASSES, seed=0, fold=table["subject"], probability=np.full((3, 2), 0.5)
        )
    with pytest.raises(ValueError, match="not finite"):
        results.predictions_of(
            table, np.array([0, 0, 1]), CLASSES, seed=0, fold=table["subject"], probability=np.full((3, 2), np.nan)
        )


def test_a_clip_is_scored_once_a_seed(build_table):
    predictions = emotion_predictions(build_table)
    with pytest.raises(UserError, match=r"'samm/006/0' is predicted twice for seed 0"):
        results.concatenate([predictions, predictions.select(np.array([0]))])


def test_shared_people_are_one_person(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "seed,fold,dataset,subject,clip,truth,predicted\n"
        "0,a,samm,006,samm/006/x,n,n\n"
        "0,a,samm_long_videos,006,samm_long_videos/006/x,p,n\n"
    )
    found = results.read_predictions(path)
    assert found.person.tolist() == ["samm/006", "samm/006"]
    assert found.classes == ("n", "p")
    assert found.probability is None
    assert results.read_predictions(path, ("p", "n")).truth.tolist() == [1, 0]


HEAD = "seed,fold,dataset,subject,clip,truth,predicted,p_a,p_b"
GOOD = "0,f,d,s,d/s/c,a,b,0.4,0.6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEAD, "no prediction"),
        (HEAD.replace("clip,", ""), "row 1: no column 'clip'"),
        (HEAD.replace(",predicted", "") + "\n" + GOOD, "row 1: no column 'predicted'"),
        (HEAD + ",colour\n" + GOOD + ",x", "row 1: unknown column 'colour'"),
        (HEAD + ",p_a\n" + GOOD + ",x", "row 1: the column 'p_a' appears twice"),
        (f"{HEAD}\n{GOOD}\n{GOOD[2:]}", "row 3: 8 cells, the header has 9"),
        (f"{HEAD}\nzero{GOOD[1:]}", "row 2: seed is 'zero'; expected a whole number"),
        (f"{HEAD}\n{GOOD.replace(',a,', ',c,')}", "row 2: truth is 'c'; expected one of a, b"),
        (f"{HEAD}\n{GOOD.replace('0.6', '1.6')}", "row 2: p_b is '1.6'; expected a number from 0 to 1"),
        (f"{HEAD}\n{GOOD.replace('0.6', 'nan')}", "row 2: p_b is 'nan'; expected a number from 0 to 1"),
        (f"{HEAD}\n{GOOD.replace('0.6', '0.3')}", "row 2: the probabilities add up to 0.7000; expected 1"),
        (f"{HEAD}\n{GOOD.replace('d/s/c', '')}", "row 2: clip is empty"),
        (f"{HEAD}\n{GOOD}\n{GOOD}", "'d/s/c' is predicted twice for seed 0"),
        ("seed,fold,dataset,subject,clip,truth_AU1,p_AU2", "row 1: unknown column 'truth_AU1'"),
        ("seed,fold,dataset,subject,clip,truth_AU1,p_AU1\n0,f,d,s,c,2,0.5", "row 2: truth_AU1 is '2'; expected 1, 0"),
        ("seed,fold,dataset,subject,clip\n0,f,d,s,c", "no column 'truth'"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        results.read_predictions(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        results.read_predictions(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not a text file"):
        results.read_predictions(tmp_path / "binary.csv")
    (tmp_path / "p.csv").write_text(f"{HEAD}\n{GOOD}")
    with pytest.raises(UserError, match="expected b, a"):
        results.read_predictions(tmp_path / "p.csv", ("b", "a"))


def test_a_spreadsheet_of_ours_saved_elsewhere_is_read(tmp_path):
    """Byte-order mark, carriage returns and blank lines are what spreadsheet programs add."""
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEAD}\r\n{GOOD}\r\n\r\n".encode())
    found = results.read_predictions(tmp_path / "p.csv")
    assert (found.truth.tolist(), found.predicted.tolist()) == ([0], [1])


def test_metrics_are_whole_or_absent(tmp_path):
    path = tmp_path / "metrics.json"
    whole = {"select": "last", "comparable": True, "oracle_inputs": "none", "n": 1, "classes": [], "overall": {}}
    results.write_metrics(path, whole)
    assert results.read_metrics(path) == whole
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write_metrics(path, whole | {"n": float("nan")})
    assert results.read_metrics(path) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        results.read_metrics(path)
    path.write_text(json.dumps({"select": "last"}))
    with pytest.raises(UserError, match="no field 'comparable'"):
        results.read_metrics(path)
