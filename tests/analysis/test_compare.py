import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer_jax.analysis import compare, figures, report
from mer_jax.analysis.__main__ import main
from mer_jax.errors import UserError
from mer_jax.evaluation import results, scores
from mer_jax.evaluation.comparison import Options

Make = Callable[..., Path]
FEW = Options(replicates=200, permutations=199)
PICTURE = re.compile(r'src="data:image/png;base64,[^"]*"')


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are drawn faster."""
    monkeypatch.setattr(figures, "DPI", 50)


def change(workdir: Path, spoil: float = 0.0, seeds: tuple[int, ...] | None = None, **facts: object) -> Path:
    """Another run over the same clips: a share of its answers is thrown away."""
    p = results.read_predictions(workdir / "predictions.csv")
    p = p.select(np.isin(p.seed, seeds if seeds is not None else p.seeds))
    spoiled = np.random.default_rng(0).random(len(p)) < spoil
    assert p.probability is not None
    probability = np.where(spoiled[:, None], np.roll(p.probability, 1, axis=1), p.probability)
    p = dataclasses.replace(p, probability=probability, predicted=probability.argmax(1))
    results.write_predictions(workdir / "predictions.csv", p)
    old = json.loads((workdir / "metrics.json").read_text())
    keys = ("select", "oracle_inputs", "protocol", "label_set", "split_hash", "notes")
    kept = {key: old[key] for key in keys} | facts
    results.write_metrics(workdir / "metrics.json", scores.summarise(p, replicates=50, **kept))
    return workdir


def words(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")).split())


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, default_workdir: Path) -> compare.Comparison:
    """Three runs; the first one is clearly better than the second, and the third one is the first again."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("good", "bad"):
        shutil.copytree(default_workdir, root / name)
    change(root / "bad", 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 50)
        return compare.compare_runs([root / "good", root / "bad", root / "good"], root / "out", FEW)


def test_what_is_written(compared: compare.Comparison):
    out = compared.page.parent
    result = json.loads((out / "comparison.json").read_text())
    assert result == compared.result
    assert list(result["runs"]) == ["good (1)", "bad", "good (2)"]
    better, itself, _ = result["pairs"]
    row = better["scores"]["uf1"]
    assert (better["a"], better["b"]) == ("good (1)", "bad")
    assert row["difference"] > 0.1
    assert row["p_holm"] < 0.05
    assert "more than chance over persons can explain" in better["verdict"]
    assert itself["scores"]["uf1"]["p"] == 1
    assert itself["verdict"] == "good (1) and good (2) predict alike: their UF1 is the same."
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    first = rows[0]
    assert (first["score"], first["run_a"], first["run_b"]) == ("uf1", "good (1)", "bad")
    for name in ("a", "difference", "low", "high", "p", "p_holm", "resolvable"):
        assert float(first[name]) == pytest.approx(row[name], rel=1e-4)
    assert rows[4]["resolvable"] == ""
    for cell in ("good (1) - bad", f"{row['difference']:+.4f}", "Holm", "McNemar (assumes independent clips)"):
        assert cell in compared.text


def test_the_page(compared: compare.Comparison):
    raw = compared.page.read_text(encoding="utf-8")
    text = words(compared.page)
    result = compared.result
    row = result["pairs"][0]["scores"]["uf1"]
    assert f"{row['difference']:+.3f}" in text
    assert f"{row['resolvable']:.3f}" in text
    for pair in result["pairs"]:
        assert pair["verdict"] in text
    assert "McNemar (assumes independent clips)" in text
    assert "good (1) and good (2) predict every person alike" in text
    assert "synthetic_5, " in text
    assert result["split_hash"] in text
    assert "7 macro clips of 2 tested persons were excluded" in text
    bare = PICTURE.sub("", raw)
    assert str(compared.page.parent.parent) not in bare
    assert not re.search(r"(src|href)=|url\(|@import|<script", bare)
    names = {path.name for path in (compared.page.parent / "figures").iterdir()}
    assert names == {
        "differences.png",
        *(f"{kind}.png" for k in (1, 2, 3) for kind in (f"classes_{k}", f"persons_{k}_1")),
    }
    assert len(PICTURE.findall(raw)) == len(names)


def test_an_oracle_run_is_branded(make_workdir: Make, tmp_path: Path):
    first, second = make_workdir("a"), make_workdir("b")
    change(second, 0.3, select="oracle", oracle_inputs="boundaries")
    found = compare.compare_runs([first, second], tmp_path / "out", FEW)
    assert found.text.startswith(f"*** b: {scores.ORACLE_BRAND} ***")
    assert f"a - b ({compare.BRAND})" in found.text
    text = words(found.page)
    assert f"b: {scores.ORACLE_BRAND}" in text
    assert "b — not comparable" in text
    assert "the runs see different annotations at test time: a oracle_inputs=boundaries+apex" in text
    assert found.result["comparable"] is False


def test_seeds_and_few_persons_are_named(make_workdir: Make, tmp_path: Path):
    first, second = make_workdir("a", persons=4), make_workdir("b", persons=4)
    change(second, 0.5, seeds=(0,))
    found = compare.compare_runs([first, second], tmp_path / "out", FEW)
    (pair,) = found.result["pairs"]
    assert pair["permutation"]["exact"]
    notes = " | ".join(found.result["notes"])
    assert "the numbers of seeds differ (a 2, b 1)" in notes
    assert "a run of one seed does not tell how much another training would differ" in notes
    few = pair["permutation"]["persons_that_differ"]
    assert f"differ on {few} persons only: p cannot be below {0.5 ** (few - 1):.2g}" in notes
    assert pair["scores"]["uf1"]["p"] >= 0.5 ** (few - 1)
    assert "chance over persons can explain it. 4 persons resolve differences from" in pair["verdict"]


def test_names_tell_runs_apart(tmp_path: Path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "x" / "run", tmp_path / "z" / "other"]
    assert compare._names(paths) == ["x/run (1)", "y/run", "x/run (2)", "z/other"]
    assert compare._names([Path("/run"), Path("/a/run")]) == ["run", "a/run"]
    assert compare._names([Path("/a"), Path("/b")]) == ["a", "b"]


def test_refusals(make_workdir: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, second = make_workdir("a"), make_workdir("b")
    change(second, split_hash="cd" * 32)
    assert main([str(first), str(second), "--out", str(tmp_path / "out")]) == 2
    assert "a and b cannot be compared: the hashes of their splits are" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (second / "predictions.csv").unlink()
    with pytest.raises(UserError, match=r"found no metrics\.json and predictions\.csv"):
        compare.compare_runs([first, second], tmp_path / "out", FEW)
    assert main([str(first), "--out", str(tmp_path / "out")]) == 2
    assert "--out is for comparisons" in capsys.readouterr().err


def test_published_results_beside_a_run(make_workdir: Make, tmp_path: Path):
    """Composite run of MEGC 2019: as many clips of every class as were published."""
    counts = {"casme2": (88, 32, 25), "samm": (92, 26, 15), "smic_hs": (70, 51, 43)}
    truth = np.concatenate([np.repeat(range(3), n) for n in counts.values()])
    dataset = np.repeat(list(counts), [sum(n) for n in counts.values()])
    subject = np.array([f"{k % 9}" for k in range(len(truth))])
    place = [np.char.add(np.char.add(dataset, "/"), subject)]
    clip = np.array([f"{p}/{k:03d}" for k, p in enumerate(place[0])])
    probability = np.round(0.6 * np.eye(3)[np.where(np.arange(len(truth)) % 3, truth, 0)] + 0.4 / 3, 6)
    p = results.sort(
        results.Predictions(
            "emotion", ("negative", "positive", "surprise"), np.zeros(len(truth), int), place[0], dataset, subject,
            clip, place[0], truth, probability.argmax(1), probability,
        )
    )  # fmt: skip
    workdir = make_workdir("cde")
    for name in ("log.jsonl", "analysis/panels.npz"):
        (workdir / name).unlink()
    results.write_predictions(workdir / "predictions.csv", p)
    facts = {"protocol": "cde", "label_set": "megc2019", "split_hash": "ab" * 32, "select": "oracle"}
    results.write_metrics(workdir / "metrics.json", scores.summarise(p, replicates=20, **facts))
    pages = [report.write_report(workdir), compare.compare_runs([workdir, workdir], tmp_path / "out", FEW).page]
    assert "casme2 145 9 " in words(pages[1])  # clips and persons of a dataset
    for page, name in zip(pages, ("cde", "cde (1)"), strict=True):
        text = words(page)
        assert "Published results" in text
        assert "all clips: 442 clips" in text
        assert "samm: 133 clips" in text
        assert f"{name} — not comparable" in text
        assert "CausalNet 2025 0.912 0.898 0.902 yes" in text
        assert "whose number of clips differs or is unknown (AHMSA-Net, ATNet)" in text
    changed = dataclasses.replace(p, truth=np.where(np.arange(len(p)) == 0, 2 - p.truth, p.truth))
    results.write_predictions(workdir / "predictions.csv", changed)
    results.write_metrics(workdir / "metrics.json", scores.summarise(changed, replicates=20, **facts))
    text = words(report.write_report(workdir))
    assert "all clips: 442 clips" not in text
    assert "smic_hs: 164 clips" in text


def test_command_line(make_workdir: Make, tmp_path: Path):
    first, second = make_workdir("a"), make_workdir("b")
    change(second, 0.5)
    command = [sys.executable, "-m", "mer_jax.analysis", str(first), str(second)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(tmp_path / "comparison" / "comparison.html")
    assert "a - b" in done.stdout
    assert not (first / "report.html").exists()
