import base64
import html.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mer_jax.analysis import figures, report
from mer_jax.evaluation import calibration, results, scores

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are drawn faster."""
    monkeypatch.setattr(figures, "DPI", 50)


class Page(html.parser.HTMLParser):
    """Text, pictures and references of a page; fails on tags that are not closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[bytes] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value or "")
        if tag == "img":
            values = dict(attributes)
            assert values["alt"]
            self.pictures.append(base64.b64decode((values["src"] or "").removeprefix("data:image/png;base64,")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(workdir: Path) -> Page:
    return Page(report.write_report(workdir).read_text(encoding="utf-8"))


def test_a_whole_report(reported_workdir: Path):
    workdir = reported_workdir
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    assert page.headings == [
        "Scores", "Classes", "Persons", "Calibration", "Pre-training", "Fine-tuning", "Reconstructed future frames",
        "Where the network looks", "How it was made",
    ]  # fmt: skip
    metrics = json.loads((workdir / "metrics.json").read_text())
    for name in ("acc", "uf1", "uar", "wf1"):
        score = metrics["overall"][name]
        low, high = (f"{score[k]:.3f}".removeprefix("0") for k in ("low", "high"))
        assert f"{score['mean']:.3f} ± {score['std']:.3f}".replace("± 0", "± ") + f" [{low}, {high}]" in page.text
    assert f"{metrics['n']} clips, 12 persons, 5 classes, 2 seeds" in page.text
    assert "select = last" in page.text
    assert f"oracle_inputs = boundaries+apex (apex annotated: {metrics['n']})" in page.text
    assert "7 macro clips of 2 tested persons were excluded" in page.text
    assert metrics["split_hash"] in page.text
    assert "R_linear 0.300 0.300" in page.text
    assert "gave up 7 7" in page.text
    assert "waiting for data: 1.0%" in page.text
    assert "Over the 4 test clips with known action units and landmarks, 40% of the Grad-CAM mass" in page.text
    assert "by area alone it would be 25%" in page.text
    names = {path.stem for path in (workdir / "figures").iterdir()}
    assert {"pretrain_loss", "pretrain_r_on_held_out_pairs", "finetune_loss", "finetune_accuracy"} <= names
    assert not {"pretrain_latent_mse", "pretrain_waiting_for_data"} & names  # equal to the loss; no curve
    assert "NOT COMPARABLE" not in page.text
    assert "Published results" not in page.headings  # nobody published these
    found = calibration.calibration(results.read_predictions(workdir / "predictions.csv"))
    assert found is not None
    assert f"bins of equal mass {found.ece:.3f} ± {found.ece_std:.3f}".replace("± 0", "± ") in page.text
    assert f"mean probability − share right {found.excess:+.3f}" in page.text


def test_the_page_needs_nothing_but_itself(reported_workdir: Path):
    workdir = reported_workdir
    raw = (workdir / "report.html").read_text(encoding="utf-8")
    page = Page(raw)
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    style = raw[raw.index("<style>") : raw.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "<script" not in raw
    files = {path.read_bytes() for path in (workdir / "figures").iterdir()}
    assert files == set(page.pictures)
    for picture in page.pictures:
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert image.std() > 0


def test_no_absolute_path_and_no_markup_from_data(make_workdir: Make):
    workdir = make_workdir()
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"note": "<script>alert(1)</script> & more"}))
    (workdir / "log.jsonl").unlink()
    raw = report.write_report(workdir).read_text(encoding="utf-8")
    text = re.sub(r'src="[^"]*"', "", raw)
    assert "/home/someone" not in text
    assert str(workdir.parent) not in text
    assert "…/data" in text
    assert "<script" not in raw
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in raw


def test_a_moved_workdir_gives_the_same_report(reported_workdir: Path, tmp_path: Path):
    first = (reported_workdir / "report.html").read_bytes()
    moved = shutil.copytree(reported_workdir, tmp_path / "elsewhere" / "my_run")
    shutil.rmtree(moved / "figures")
    assert report.write_report(moved).read_bytes() == first
    assert not [path for path in moved.glob("**/*") if path.name.startswith(".")]


def test_oracle_selection_is_branded_everywhere(make_workdir: Make):
    workdir = make_workdir(select="oracle", datasets=("casme2", "samm"))
    (workdir / "log.jsonl").unlink()
    page = page_of(workdir)
    assert page.text.count(scores.ORACLE_BRAND) == 1
    for row in ("all clips", "casme2", "samm", "seed 0", "seed 1"):
        assert f"{row} — not comparable" in page.text


def test_baselines_and_count_differences(make_workdir: Make):
    workdir = make_workdir()
    (workdir / "log.jsonl").unlink()
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["baselines"] = {"majority": {"acc": 0.25, "uf1": 0.08}}
    metrics["count_differences"] = ["casme2: 254 clips, published 255"]
    (workdir / "metrics.json").write_text(json.dumps(metrics))
    page = page_of(workdir)
    assert "baseline: majority 0.250 0.080" in page.text
    assert "Counts differ from the published ones: casme2: 254 clips, published 255" in page.text


def test_a_run_that_only_pretrained(make_workdir: Make):
    workdir = make_workdir()
    for name in ("metrics.json", "predictions.csv", "analysis/panels.npz", "manifest.json"):
        (workdir / name).unlink()
    lines = [line for line in (workdir / "log.jsonl").read_text().splitlines(True) if "pretrain" in line]
    (workdir / "log.jsonl").write_text("".join(lines))
    page = page_of(workdir)
    assert "has not been scored" in page.text
    assert page.headings == ["Pre-training", "How it was made"]


def test_action_units(make_workdir: Make):
    workdir = make_workdir()
    rng = np.random.default_rng(0)
    n, units = 40, ("AU4", "AU12")
    truth = rng.integers(-1, 2, (n, 2)).astype(np.int8)
    persons = np.array([f"{i % 8:02d}" for i in range(n)])
    probability = np.round(np.clip(0.5 + 0.3 * truth + 0.2 * rng.normal(size=(n, 2)), 0, 1), 6)
    clips = np.array([f"toy/{p}/{i}" for i, p in enumerate(persons)])
    predictions = results.sort(
        results.Predictions(
            "au", units, np.zeros(n, int), persons, np.full(n, "toy"), persons, clips, np.char.add("toy/", persons),
            truth, (probability > 0.5).astype(np.int8), probability,
        )
    )  # fmt: skip
    results.write_predictions(workdir / "predictions.csv", predictions)
    (workdir / "log.jsonl").unlink()
    summary = scores.summarise(predictions, protocol="loso", replicates=50)
    results.write_metrics(workdir / "metrics.json", summary)
    page = page_of(workdir)
    assert page.headings[1] == "Action units"
    assert "baseline: all_ones" in page.text
    assert f"AU12 {summary['per_au']['AU12']['f1_binary']:.3f}" in page.text
    assert (workdir / "figures" / "action_units.png").exists()


def test_command_line(make_workdir: Make, tmp_path: Path):
    workdir = make_workdir()
    command = [sys.executable, "-m", "mer_jax.analysis"]
    done = subprocess.run([*command, str(workdir)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(workdir / "report.html")
    wrong = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert "Traceback" not in wrong.stderr


def test_what_a_report_does_not_import():
    code = (
        "import sys, mer_jax.analysis.report\n"
        "print([m for m in ('tensorflow', 'grain', 'orbax.checkpoint', 'matplotlib.pyplot') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
