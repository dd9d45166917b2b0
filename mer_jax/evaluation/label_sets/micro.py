"""Label sets of the other micro-expression datasets. Counts are those of their sheets, folders or papers."""

from __future__ import annotations

from mer_jax.evaluation.datasets import FAMILIES
from mer_jax.evaluation.label_set import Counts, LabelSet
from mer_jax.evaluation.label_sets.words import (
    FOUR,
    NEGATIVE,
    OTHERS,
    POSITIVE,
    SURPRISE,
    THREE,
    drop,
    four,
    same,
    three,
    valence,
)

# --- Synthetic faces -------------------------------------------------------------------------------------------------

_NEUTRAL = drop("neutral", why="a neutral clip (distractors only) shows no expression")


def _synthetic_3(name: str, source: str, *datasets: str) -> LabelSet:
    return LabelSet(
        name,
        THREE,
        f"tfds_builders/synthetic_faces, {source}",
        dict.fromkeys(datasets, valence(("disgust", "repression"), ("happiness",))),
        dict.fromkeys(datasets, _NEUTRAL | drop(OTHERS)),
        expression_types=("micro", "neutral"),
    )


_SYNTHETIC_5 = ("happiness", "disgust", "repression", "surprise", "others")
_SYNTHETIC = (
    LabelSet(
        "synthetic_5",
        _SYNTHETIC_5,
        "tfds_builders/synthetic_faces, micro configurations",
        {"synthetic_faces": same(*_SYNTHETIC_5)},
        {"synthetic_faces": _NEUTRAL},
        expression_types=("micro", "neutral"),  # neutral is dropped by its word, with that reason
    ),
    LabelSet(
        "synthetic_6",
        (*_SYNTHETIC_5, "neutral"),
        "tfds_builders/synthetic_faces, micro configurations with their neutral clips, to find expressions in videos",
        {"synthetic_faces": same(*_SYNTHETIC_5, "neutral")},
        expression_types=("micro", "neutral"),
    ),
    LabelSet(
        "synthetic_expression",
        ("expression", "neutral"),
        "tfds_builders/synthetic_faces, micro configurations: whether there is an expression",
        {"synthetic_faces": dict.fromkeys(_SYNTHETIC_5, "expression") | same("neutral")},
        expression_types=("micro", "neutral"),
    ),
    _synthetic_3("synthetic_3", "micro configurations, by the classes of MEGC 2019", "synthetic_faces"),
    _synthetic_3("synthetic_families", "families over one motion law, by the classes of MEGC 2019", *FAMILIES),
)

# --- SAMM ------------------------------------------------------------------------------------------------------------

_SAMM_NEGATIVE = ("anger", "contempt", "disgust", "fear", "sadness")
_SAMM_OTHER = {"other": OTHERS, OTHERS: OTHERS}  # the sheet writes the singular
_SAMM_5 = {"anger": 57, "happiness": 26, OTHERS: 26, "surprise": 15, "contempt": 12}
_SAMM_3 = {"samm": valence(_SAMM_NEGATIVE, ("happiness",))}
_SAMM_3_DROPPED = {"samm": drop("other", OTHERS)}
_SAMM = (
    LabelSet(
        "samm_3_megc2019",
        THREE,
        "MEGC 2019: the SAMM part of the composite list",
        _SAMM_3,
        _SAMM_3_DROPPED,
        expected={"samm": (Counts(three(92, 26, 15), 28, "MEGC 2019 list"),)},
    ),
    LabelSet(
        "samm_4_akmnet",
        FOUR,
        "AKMNet (2021): all 159 clips",
        {"samm": valence(_SAMM_NEGATIVE, ("happiness",), ("other", OTHERS))},
        expected={"samm": (Counts(four(92, 26, 15, 26), 29, "v2 sheet"),)},
    ),
    LabelSet(
        "samm_5",
        tuple(_SAMM_5),
        "the five frequent words",
        {"samm": same("anger", "happiness", "surprise", "contempt") | _SAMM_OTHER},
        {"samm": drop("disgust", "fear", "sadness")},
        expected={"samm": (Counts(_SAMM_5, 27, "v2 sheet"),)},
    ),
    LabelSet(
        "samm_7",
        ("anger", "happiness", "surprise", "contempt", "disgust", "fear", "sadness"),
        "every word of the sheet but Other",
        {"samm": same("anger", "happiness", "surprise", "contempt", "disgust", "fear", "sadness")},
        {"samm": drop("other", OTHERS)},
        expected={
            "samm": (
                Counts(
                    {c: n for c, n in _SAMM_5.items() if c != OTHERS} | {"disgust": 9, "fear": 8, "sadness": 6},
                    28,
                    "v2 sheet",
                ),
            )
        },
    ),
    LabelSet(
        "samm_8",
        (*_SAMM_5, "disgust", "fear", "sadness"),
        "every word of the sheet",
        {"samm": same("anger", "happiness", "surprise", "contempt", "disgust", "fear", "sadness") | _SAMM_OTHER},
        expected={"samm": (Counts(_SAMM_5 | {"disgust": 9, "fear": 8, "sadness": 6}, 29, "v2 sheet"),)},
    ),
)

# --- SMIC: the folder is the label -----------------------------------------------------------------------------------

_SMIC = (
    LabelSet(
        "smic_3",
        THREE,
        "SMIC-HS, the labels of its folders (also the SMIC part of MEGC 2019)",
        {"smic_hs": same(*THREE)},
        expected={"smic_hs": (Counts(three(70, 51, 43), 16, "HS"),)},
    ),
    LabelSet(
        "smic_vis_3",
        THREE,
        "SMIC-VIS, the labels of its folders",
        {"smic_vis": same(*THREE)},
        expected={"smic_vis": (Counts(three(24, 28, 19), 8, "VIS"),)},
    ),
    LabelSet("smic_nir_3", THREE, "SMIC-NIR, the labels of its folders (71 clips)", {"smic_nir": same(*THREE)}),
    LabelSet(
        "smic_e_3",
        THREE,
        "SMIC-E-HS, the sheet's Emotion column",
        {"smic_e": same(*THREE)},
        expected={
            "smic_e": (
                Counts(three(66, 51, 40), None, "SMIC-HS-E"),
                Counts(three(70, 51, 41), None, "SMIC-HS-E_orig"),
            )
        },
    ),
    LabelSet("smic_e_vis_3", THREE, "SMIC-E-VIS, the sheet's Emotion column", {"smic_e_vis": same(*THREE)}),
)

# --- MMEW: the sheet says others, the folder repression; the counts are hearsay ---------------------------------------

_MMEW_NEGATIVE = ("anger", "disgust", "fear", "sadness")
_MMEW_OTHERS = {OTHERS: OTHERS, "repression": OTHERS}
_MMEW_6 = {"happiness": 36, "anger": 8, "surprise": 89, "disgust": 72, "fear": 16, "sadness": 13}
_MMEW = (
    LabelSet(
        "mmew_3",
        THREE,
        "valence, without others",
        {"mmew": valence(_MMEW_NEGATIVE, ("happiness",))},
        {"mmew": drop(*_MMEW_OTHERS)},
        expected={"mmew": (Counts(three(109, 36, 89), None, "300-clip sheet", False),)},
    ),
    LabelSet(
        "mmew_4_mmnet",
        ("happiness", "surprise", "disgust", OTHERS),
        "MMNet, MixMeFormer: the four frequent words (not valence: see mmew_4_valence)",
        {"mmew": same("happiness", "surprise", "disgust") | _MMEW_OTHERS},
        {"mmew": drop("anger", "fear", "sadness")},
        expected={
            "mmew": (
                Counts({"happiness": 36, "surprise": 89, "disgust": 72, OTHERS: 66}, None, "300-clip sheet", False),
            )
        },
    ),
    LabelSet(
        "mmew_4_valence",
        FOUR,
        "valence and others, as in casme3_4",
        {"mmew": valence(_MMEW_NEGATIVE, ("happiness",), tuple(_MMEW_OTHERS))},
        expected={"mmew": (Counts(four(109, 36, 89, 66), 36, "300-clip sheet", False),)},
    ),
    LabelSet(
        "mmew_6",
        tuple(_MMEW_6),
        "every word but others",
        {"mmew": same(*_MMEW_6)},
        {"mmew": drop(*_MMEW_OTHERS)},
        expected={"mmew": (Counts(_MMEW_6, None, "300-clip sheet", False),)},
    ),
    LabelSet(
        "mmew_7",
        (*_MMEW_6, OTHERS),
        "every word",
        {"mmew": same(*_MMEW_6) | _MMEW_OTHERS},
        expected={"mmew": (Counts(_MMEW_6 | {OTHERS: 66}, 36, "300-clip sheet", False),)},
    ),
)

# --- 4DME: a clip may carry several emotions (`Surprise+Positive`), and is then left out of these sets ----------------

_4DME_WORDS = (POSITIVE, NEGATIVE, SURPRISE, "repression", OTHERS)
_FOURDME = (
    LabelSet(
        "fourdme_3",
        THREE,
        "single-emotion clips; INFERRED: repression is dropped, because 4DME keeps it apart from negative",
        {"fourdme": same(*THREE)},
        {"fourdme": drop("repression", OTHERS)},
    ),
    LabelSet(
        "fourdme_5",
        _4DME_WORDS,
        "single-emotion clips, the five categories of the sheet",
        {"fourdme": same(*_4DME_WORDS)},
    ),
)

# --- DFME ------------------------------------------------------------------------------------------------------------

_DFME_CLASSES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


def _dfme(*counts: int) -> dict[str, int]:
    return dict(zip(_DFME_CLASSES, counts, strict=True))


_DFME = (
    LabelSet(
        "dfme_7",
        _DFME_CLASSES,
        "the challenge release, in the order of EmotionId",
        {"dfme": same(*_DFME_CLASSES)},
        expected={
            "dfme": (
                Counts(_dfme(161, 100, 548, 265, 206, 278, 298), 176, "training sheet"),
                Counts(_dfme(39, 34, 129, 62, 63, 46, 101), 42, "test A"),
                Counts(_dfme(41, 37, 58, 38, 42, 35, 48), 41, "test B"),
                Counts(_dfme(241, 171, 735, 365, 311, 359, 447), 259, "training, test A and test B"),
            )
        },
    ),
)

SETS = (*_SYNTHETIC, *_SAMM, *_SMIC, *_MMEW, *_FOURDME, *_DFME)
