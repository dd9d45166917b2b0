"""The command line `python -m mer_jax.evaluation`."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from mer_jax.data import index
from mer_jax.evaluation import __main__ as cli
from mer_jax.evaluation import results, scores

# The published counts of one part of the STSTNet log (its SAMM part): rows truth, columns prediction.
SAMM = np.array([[82, 7, 3], [11, 13, 2], [5, 2, 8]])


def log_of(matrix: np.ndarray, dataset: str = "samm", n_subjects: int = 28) -> str:
    """A log with these counts, the clips dealt to subjects in turn."""
    cells = [(t, p) for t in range(3) for p in range(3) for _ in range(matrix[t, p])]
    lines = []
    for subject in range(n_subjects):
        lines.append(f"{dataset} {subject:03d}")
        lines += [f"{subject:03d}_{k} {t} {p}" for k, (t, p) in enumerate(cells[subject::n_subjects])]
    return "\n".join(lines) + "\n"


@pytest.fixture(name="run")
def run_fixture(capsys):
    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(name="workdir")
def workdir_fixture(build_table, tmp_path):
    """The predictions and metrics of a run that chose its epoch on the test persons."""
    rng = np.random.default_rng(0)
    table = build_table([{"subject": f"{k % 5:02d}"} for k in range(20)])
    labels = rng.integers(0, 2, 20).astype(np.int32)
    predictions = results.predictions_of(
        table, labels, ("a", "b"), seed=0, fold=table["subject"], probability=rng.dirichlet(np.ones(2), 20)
    )
    results.write_predictions(tmp_path / "predictions.csv", predictions)
    metrics = scores.summarise(
        predictions,
        select="oracle",
        oracle_inputs="boundaries",
        protocol="loso",
        label_set="own",
        split_hash="0123",
        apex_source={"annotated": 20},
        count_differences=["casme2: 20 clips at hand, 246 published"],
        notes=["one pre-training is shared by all seeds"],
    )
    results.write_metrics(tmp_path / "metrics.json", metrics)
    return tmp_path


def test_a_published_log_is_scored_again(run, tmp_path):
    (tmp_path / "log.txt").write_text(log_of(SAMM))
    code, out, _ = run("score", tmp_path / "log.txt", "--labels", "samm_3_megc2019")
    assert code == 0
    assert not out.startswith("COUNTS DIFFER")
    line = next(line for line in out.splitlines() if line.startswith("all"))
    assert [line.split()[k] for k in (1, 2, 5, 8)] == ["133", "0.7744", "0.6588", "0.6415"]
    code, out, _ = run("score", tmp_path / "log.txt", "--json", "--replicates", "50")
    found = json.loads(out)
    assert found["confusion"] == SAMM.tolist()
    assert (found["n"], found["persons"], found["classes"]) == (133, 28, ["negative", "positive", "surprise"])
    assert found["comparable"] is None
    assert found["bootstrap"]["replicates"] == 50


def test_other_counts_are_told_at_the_top(run, tmp_path):
    (tmp_path / "log.txt").write_text(log_of(SAMM) + "samm 099\n099_1 0 0\n")
    code, out, _ = run("score", tmp_path / "log.txt", "--labels", "samm_3_megc2019")
    assert code == 0
    assert out.splitlines()[0] == (
        "COUNTS DIFFER: samm: 134 clips at hand, 133 published (MEGC 2019 list): "
        "negative 93 instead of 92; 29 persons instead of 28"
    )


def test_a_run_scored_again_gives_its_own_metrics(run, workdir):
    code, out, _ = run("score", workdir / "predictions.csv", "--json")
    assert code == 0
    assert json.loads(out) == results.read_metrics(workdir / "metrics.json")
    _, out, _ = run("score", workdir / "predictions.csv")
    assert out.startswith("*** NOT COMPARABLE")
    assert "note: one pre-training is shared by all seeds" in out
    code, _, err = run("score", workdir / "predictions.csv", "--select", "last")
    assert code == 2
    assert "says oracle" in err


def test_somebody_elses_csv(run, tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("seed,fold,dataset,subject,clip,truth,predicted\n0,,x,1,x/1/a,u,v\n0,,x,2,x/2/a,v,v\n")
    code, out, _ = run("score", path, "--json", "--select", "last", "--classes", "v,u")
    found = json.loads(out)
    assert code == 0
    assert found["confusion"] == [[1, 0], [1, 0]]
    assert (found["select"], found["comparable"]) == ("last", True)


def test_predictions_of_action_units(run, tmp_path):
    path = tmp_path / "predictions.csv"
    rows = ["0,f,casme2,01,c1,1,0.9,0,0.1", "0,f,casme2,02,c2,0,0.8,,0.3", "0,f,casme2,03,c3,1,0.2,1,0.7"]
    path.write_text("seed,fold,dataset,subject,clip,truth_AU4,p_AU4,truth_AU12,p_AU12\n" + "\n".join(rows))
    code, out, _ = run("score", path, "--json")
    found = json.loads(out)
    assert (code, found["task"], found["classes"]) == (0, "au", ["AU4", "AU12"])
    assert found["confusion"] == [[[0, 1], [1, 1]], [[1, 0], [0, 1]]]
    assert found["overall"]["f1_binary"]["mean"] == pytest.approx((0.5 + 1) / 2)
    code, out, _ = run("score", path)
    assert code == 0
    assert "all_ones" in out


def test_a_reader_that_stops_early_is_no_mistake(tmp_path):
    (tmp_path / "log.txt").write_text(log_of(SAMM))
    command = f"{sys.executable} -m mer_jax.evaluation score {tmp_path / 'log.txt'} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("006_1 0 1\n", "line 1: a clip before the first header"),
        ("samm 006\n006_1 0 3\n", "line 2: prediction is '3'; expected 0 negative, 1 positive, 2 surprise"),
        ("samm 006\n006_1 -1 0\n", "line 2: truth is '-1'"),
        ("samm 006\n\n006_1 0 1 0.7\n", "line 3: '006_1 0 1 0.7'; expected `database subject` or"),
        ("samm 006\n006_1 0 1\n006_1 0 1\n", "'samm/006/006_1' is predicted twice"),
        ("samm 006\n", "no line `clip truth prediction`"),
        ("", "empty"),
    ],
)
def test_a_broken_log_is_refused_by_line(run, tmp_path, text, message):
    (tmp_path / "log.txt").write_text(text)
    code, out, err = run("score", tmp_path / "log.txt")
    assert (code, out) == (2, "")
    assert message in err
    assert "log.txt" in err


def test_mistakes_on_the_command_line(run, tmp_path):
    (tmp_path / "log.txt").write_text(log_of(SAMM))
    for arguments, message in (
        (["score", tmp_path / "absent.csv"], "no such file"),
        (["score", tmp_path / "log.txt", "--labels", "samm3"], "unknown label set 'samm3'; did you mean"),
        (["score", tmp_path / "log.txt", "--labels", "cd6me"], "action units are named by the file itself"),
        (["score", tmp_path / "log.txt", "--labels", "samm_5", "--classes", "a"], "not both"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1
    for arguments in (["score"], ["score", "x", "--replicates", "0"], ["nonsense"], []):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2


@pytest.fixture(name="data_dir")
def data_dir_fixture(build_table, tmp_path):
    """Built datasets: facts without frames."""
    rng = np.random.default_rng(0)

    def build(name, rows):
        directory = tmp_path / "data" / name / "1.0.0"
        directory.mkdir(parents=True)
        table = build_table(rows)
        fingerprints = np.array([hashlib.sha256(c.encode()).hexdigest() for c in table["clip"]])
        index.write_index(directory, index.Index(table, fingerprints, np.ones((len(table), 3), np.int32)))
        index.write_marker(directory, {})

    words = ["happiness", "disgust", "repression", "surprise", "others", "sadness"]
    build("casme2", [{"subject": f"{k % 4:02d}", "emotion": words[k % 6]} for k in range(24)])
    samm = ["Anger", "Happiness", "Surprise", "Other"]
    build("samm", [{"dataset": "samm", "subject": f"{k % 3:03d}", "emotion": samm[k % 4]} for k in range(12)])
    smic = ["negative", "positive", "surprise"]
    rows = [{"dataset": "smic", "subject": f"s{k}", "emotion": str(rng.choice(smic))} for k in range(5)]
    build("smic/hs", rows)
    build("casme3/a_macro", [{"dataset": "casme3_macro", "expression_type": "macro", "emotion": ""}])
    casme3 = ["happy", "sad", "surprise", "others"]
    rows = [{"dataset": "casme3", "subject": f"spNO.{k}", "emotion": casme3[k % 4]} for k in range(8)]
    build("casme3/a", rows)
    return tmp_path / "data"


def test_splits_of_built_datasets(run, data_dir, tmp_path):
    out_file = tmp_path / "out" / "splits.csv"
    flags = ("--labels", "megc2019", "--data_dir", data_dir, "--out", out_file)
    code, out, err = run("splits", "--protocol", "cde", *flags)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(out_file.read_text().splitlines()))
    tests = [r for r in rows if r["role"] == "test"]
    assert len({r["fold"] for r in rows}) == 4 + 3 + 5
    assert len(tests) == len({r["clip"] for r in tests}) == 16 + 9 + 5
    assert out.splitlines()[0].startswith("COUNTS DIFFER: casme2: 16 clips at hand, 145 published")
    assert "left out: 11 clips: the emotion is not a class of this set" in out
    assert hashlib.sha256(out_file.read_bytes()).hexdigest() in out.splitlines()[-1]
    assert "samm/000" in out
    first = out_file.read_bytes()
    assert run("splits", "--protocol", "cde", *flags)[0] == 0
    assert out_file.read_bytes() == first
    assert run("splits", "--protocol", "cde", *flags, "--select", "inner")[0] == 0
    assert {r["role"] for r in csv.DictReader(out_file.read_text().splitlines())} == {"train", "val", "test"}
    code, out, _ = run("splits", "--protocol", "kfold", "--n_folds", "3", *flags)
    assert code == 0
    assert {r["fold"] for r in csv.DictReader(out_file.read_text().splitlines())} == {"fold0", "fold1", "fold2"}


def test_splits_mistakes(run, data_dir, tmp_path):
    out_file = tmp_path / "splits.csv"
    common = ("--data_dir", data_dir, "--out", out_file)
    for arguments, message in (
        (["--protocol", "losso", "--labels", "megc2019"], "did you mean 'loso'"),
        (["--protocol", "loso", "--labels", "mmew_7"], "dataset 'mmew' is not built"),
        (["--protocol", "loso", "--labels", "smic_vis_3"], "tfds_builders.build smic/vis"),
        (["--protocol", "loso", "--labels", "own"], "name one with --dataset"),
        (["--protocol", "hde_megc2018", "--labels", "own", "--dataset", "samm"], "is defined on casme2, samm"),
    ):
        code, _, err = run("splits", *arguments, *common)
        assert code == 2
        assert message in err
        assert not out_file.exists()
    code, out, _ = run("splits", "--protocol", "loso", "--labels", "casme3_4", *common)
    assert code == 0
    assert "8 folds" in out
    code, out, _ = run("splits", "--protocol", "loso", "--labels", "own", "--dataset", "smic/hs", *common)
    assert code == 0
    assert "5 folds" in out


def test_the_entry_point_in_a_fresh_interpreter(workdir):
    """Scoring needs neither TensorFlow nor JAX nor TFDS, and a user's mistake shows no traceback."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['evaluation', 'score', sys.argv[1]]\n"
        "try:\n"
        "    runpy.run_module('mer_jax.evaluation', run_name='__main__')\n"
        "finally:\n"
        "    print(sorted({'jax', 'tensorflow', 'tensorflow_datasets', 'flax', 'grain'} & set(sys.modules)))\n"
    )
    good = subprocess.run(
        [sys.executable, "-c", program, str(workdir / "predictions.csv")], capture_output=True, text=True, check=False
    )
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[-1] == "[]"
    bad = subprocess.run(
        [sys.executable, "-m", "mer_jax.evaluation", "score", str(workdir)], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr == f"error: {workdir}: no such file; expected a predictions.csv or a MEGC 2019 log\n"
