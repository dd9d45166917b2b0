"""Features of tested clips as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.page import Page, escape

NEIGHBOURS = 5  # of a clip, among those of other persons
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def features_section(page: Page, panels: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    """Adds the feature plots to a report.

    Args:
      page: the page.
      panels: of `open_run.FEATURES`.
      classes: names of the classes.
    """
    page.heading("Features")
    folds, anchors = (panels[name].item() for name in ("folds", "anchors"))
    agreement, by_chance = panels["agreement"]
    page.add(
        "<p>"
        + escape(
            "What the last layer reads of every tested clip. The clip is seen by the network of the fold that held its "
            f"person out, and the {folds} folds have {folds} networks with feature spaces of their own: these are "
            f"turned onto each other by up to {anchors} clips that train in (nearly) all of them (Procrustes; neither "
            f"tested clips nor labels have a say). The networks agree on {agreement:.0%} of what the anchors vary by "
            f"({by_chance:.0%} if they took the anchors for each other); the rest is noise in these pictures."
        )
        + "</p>"
    )
    share = panels["pca_share"]
    labels = (f"first component ({share[0]:.0%} of the variance)", f"second component ({share[1]:.0%})")
    recognised = panels["label"], panels["predicted"], classes
    first = scatter(panels["pca"], *recognised, *labels)
    second = scatter(panels["tsne"], *recognised, "t-SNE 1", "t-SNE 2")
    groups = "t-SNE: who is near whom. Sizes of groups and distances between them mean nothing"
    made = [
        page.figure("features_pca", first, "Principal components. Filled: recognised; hollow: not"),
        page.figure("features_tsne", second, groups),
    ]
    page.add(f'<div class="two">{"".join(made)}</div>')
    (hit, chance), (mean, low, high, p) = panels["near"], panels["near_difference"]
    own, own_chance = panels["same_person"]
    page.add(
        f"<p>Of the {NEIGHBOURS} nearest clips of other persons, {hit:.0%} have the class of a clip; by chance it "
        f"would be {chance:.0%} (difference {mean:+.3f} [{low:+.3f}, {high:+.3f}] over persons, p {p:.3f}). Of the "
        f"{NEIGHBOURS} nearest of all clips, {own:.0%} are of the same person, by chance {own_chance:.0%}: the more, "
        "the more the features tell who it is.</p>"
    )


@figures.styled
def scatter(
    points: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], x: str, y: str
) -> Figure:
    """Points [n, 2] by class: shape and colour, filled where the class was recognised.

    Args:
      points: [n, 2].
      labels: int [n].
      predicted: int [n].
      classes: names.
      x: label of the first axis.
      y: label of the second axis.
    """
    figure, axes = figures.new_figure(figures.WIDTH, 4.4)
    for k, name in enumerate(classes):
        color = figures.PALETTE[k % len(figures.PALETTE)]
        for right in (False, True):
            mine = (labels == k) & ((predicted == labels) == right)
            face = color if right else "white"
            axes.scatter(
                points[mine, 0], points[mine, 1], s=26, marker=MARKS[k % len(MARKS)], facecolors=face, edgecolors=color,
                linewidths=1.1, alpha=0.9,
            )  # fmt: skip
        axes.scatter([], [], s=26, marker=MARKS[k % len(MARKS)], color=color, label=f"{name} ({(labels == k).sum()})")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.05)
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.2, columnspacing=1.2)
    return figure
