"""Label sets of the CASME family: CASME, CASME II, CAS(ME)^2, CAS(ME)^3. Counts are those of their sheets."""

from __future__ import annotations

from mer_jax.evaluation.label_set import Counts, LabelSet
from mer_jax.evaluation.label_sets.words import (
    FOUR,
    NEGATIVE,
    OTHERS,
    POSITIVE,
    THREE,
    drop,
    four,
    same,
    three,
    valence,
)

# --- CASME -----------------------------------------------------------------------------------------------------------

_CASME_NEGATIVE = ("disgust", "sadness", "fear", "contempt")
_CASME = (
    LabelSet(
        "casme_3",
        THREE,
        "valence; tense and repression dropped (papers differ: see casme_3_tense_negative)",
        {"casme": valence(_CASME_NEGATIVE, ("happiness",))},
        {"casme": drop("tense", "repression")},
        expected={"casme": (Counts(three(53, 9, 20), None, "the 189 clips of AKMNet without tense, repression"),)},
    ),
    LabelSet(
        "casme_3_tense_negative",
        THREE,
        "valence; tense and repression added to negative",
        {"casme": valence((*_CASME_NEGATIVE, "tense", "repression"), ("happiness",))},
        expected={"casme": (Counts(three(160, 9, 20), None, "the 189 clips of AKMNet"),)},
    ),
    LabelSet(
        "casme_4",
        ("disgust", "repression", "surprise", "tense"),
        "the four frequent words of the sheet",
        {"casme": same("disgust", "repression", "surprise", "tense")},
        {"casme": drop("happiness", "sadness", "fear", "contempt")},
        expected={
            "casme": (Counts({"disgust": 44, "repression": 38, "surprise": 20, "tense": 69}, None, "171 clips", False),)
        },
    ),
    LabelSet(
        "casme_4_akmnet",
        FOUR,
        "AKMNet (2021); counts recovered from its confusion matrices",
        {"casme": valence(_CASME_NEGATIVE, ("happiness",), ("tense", "repression"))},
        expected={"casme": (Counts(four(53, 9, 20, 107), None, "AKMNet"),)},
    ),
    LabelSet(
        "casme_8",
        ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt"),
        "every word of the sheet",
        {"casme": same("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt")},
    ),
)

# --- CASME II --------------------------------------------------------------------------------------------------------

_SHEET_2014, _SHEET_2019 = "2014 sheet", "2019 sheet"
_CASME2_WORDS = ("happiness", "disgust", "repression", "surprise", "others", "sadness", "fear")
_CASME2_NO_APEX = {
    ("04", "EP12_01f"): "no apex in the sheet; not on the list",
    ("05", "EP09_05f"): "onset equals apex in the sheet; not on the list",
}
# The 2019 sheet calls these surprise, the 2014 sheet sadness; lists from the 2014 sheet do not have them as surprise.
_CASME2_MOVED = dict.fromkeys(
    (("24", "EP07_01"), ("24", "EP07_04f"), ("24", "EP10_03")),
    "sadness in the 2014 sheet, moved to surprise in 2019; not on the list",
)
_CASME2_MEGC = {"casme2": valence(("disgust", "repression"), ("happiness",))}
_CASME2_MEGC_DROPPED = {"casme2": drop("others", "sadness", "fear")}


def _casme2_5(*counts: int) -> dict[str, int]:
    return dict(zip(_CASME2_WORDS[:5], counts, strict=True))


_CASME2 = (
    LabelSet(
        "casme2_3_megc2019",
        THREE,
        "MEGC 2019: the CASME II part of the composite list",
        _CASME2_MEGC,
        _CASME2_MEGC_DROPPED,
        {"casme2": _CASME2_NO_APEX | _CASME2_MOVED},
        {"casme2": (Counts(three(88, 32, 25), 24, "MEGC 2019 list"),)},
    ),
    LabelSet(
        "casme2_3_mmnet",
        THREE,
        "MMNet (IJCAI 2022): disgust, repression, fear and sadness are negative (the 156-clip list)",
        {"casme2": valence(("disgust", "repression", "fear", "sadness"), ("happiness",))},
        {"casme2": drop("others")},
        expected={
            "casme2": (Counts(three(99, 32, 25), None, _SHEET_2014), Counts(three(96, 32, 28), None, _SHEET_2019))
        },
    ),
    LabelSet(
        "casme2_4",
        ("happiness", "disgust", "repression", "surprise"),
        "the frequent words without others (the 147-clip list; not AKMNet's four classes)",
        {"casme2": same("happiness", "disgust", "repression", "surprise")},
        {"casme2": drop("others", "sadness", "fear")},
        expected={
            "casme2": (
                Counts({"happiness": 32, "disgust": 63, "repression": 27, "surprise": 25}, None, _SHEET_2014),
                Counts({"happiness": 32, "disgust": 63, "repression": 27, "surprise": 28}, None, _SHEET_2019),
            )
        },
    ),
    LabelSet(
        "casme2_4_akmnet",
        FOUR,
        "AKMNet (2021): all 255 clips, repression among others",
        {"casme2": valence(("disgust", "sadness", "fear"), ("happiness",), ("repression", "others"))},
        expected={
            "casme2": (Counts(four(72, 32, 25, 126), 26, _SHEET_2014), Counts(four(69, 32, 28, 126), 26, _SHEET_2019))
        },
    ),
    LabelSet(
        "casme2_5",
        _CASME2_WORDS[:5],
        "the five classes of the field (the paper's 247 clips are not reproducible from either sheet)",
        {"casme2": same(*_CASME2_WORDS[:5])},
        {"casme2": drop("sadness", "fear")},
        expected={
            "casme2": (
                Counts(_casme2_5(32, 63, 27, 25, 99), 26, _SHEET_2014),
                Counts(_casme2_5(32, 63, 27, 28, 99), 26, _SHEET_2019),
            )
        },
    ),
    LabelSet(
        "casme2_5_skdtstsan",
        _CASME2_WORDS[:5],
        "SKD-TSTSAN: the five classes without the two clips that lack a usable apex (the 244-clip list)",
        {"casme2": same(*_CASME2_WORDS[:5])},
        {"casme2": drop("sadness", "fear")},
        {"casme2": _CASME2_NO_APEX | _CASME2_MOVED},
        {"casme2": (Counts(_casme2_5(32, 61, 27, 25, 99), None, "SKD-TSTSAN list"),)},
    ),
    LabelSet(
        "casme2_7",
        _CASME2_WORDS,
        "every word of the sheet",
        {"casme2": same(*_CASME2_WORDS)},
        expected={
            "casme2": (
                Counts(_casme2_5(32, 63, 27, 25, 99) | {"sadness": 7, "fear": 2}, 26, _SHEET_2014),
                Counts(_casme2_5(32, 63, 27, 28, 99) | {"sadness": 4, "fear": 2}, 26, _SHEET_2019),
            )
        },
    ),
)

# --- CAS(ME)^2: valence words, or the words of the self-report -------------------------------------------------------

_CASME_SQUARED = valence(
    (NEGATIVE, "disgust", "anger", "fear", "sadness"), (POSITIVE, "happiness"), (OTHERS, "helpless", "pain")
)
_CAS_ME_2 = (
    LabelSet(
        "casme_squared_3",
        THREE,
        "valence column; INFERRED for self-report words: helpless and pain are others, hence dropped",
        {"casme_squared": {w: c for w, c in _CASME_SQUARED.items() if c != OTHERS}},
        {"casme_squared": drop(*(w for w, c in _CASME_SQUARED.items() if c == OTHERS))},
    ),
    LabelSet(
        "casme_squared_4",
        FOUR,
        "valence column; INFERRED for self-report words: helpless and pain are others",
        {"casme_squared": _CASME_SQUARED},
    ),
)

# --- CAS(ME)^3 -------------------------------------------------------------------------------------------------------

_CASME3_NEGATIVE = ("disgust", "fear", "anger", "sad", "sadness")
_CASME3_SAD = {"sad": "sadness", "sadness": "sadness"}
_CASME3_HAPPY = {"happy": "happiness", "happiness": "happiness"}
_V1, _V2 = "part A, v1", "part A, v2"
_CASME3_CLASSES = ("disgust", "surprise", "others", "fear", "anger", "sadness", "happiness")


def _casme3_7(*counts: int) -> dict[str, int]:
    return dict(zip(_CASME3_CLASSES, counts, strict=True))


_CAS_ME_3 = (
    LabelSet(
        "casme3_3",
        THREE,
        "part A, valence (HTNet's 687 clips, 449/54/184, are a subset whose list is its own)",
        {"casme3": valence(_CASME3_NEGATIVE, ("happy", "happiness"))},
        {"casme3": drop("others")},
        expected={
            "casme3": (Counts(three(457, 55, 187), None, _V2), Counts(three(496, 60, 199), None, _V1)),
        },
    ),
    LabelSet(
        "casme3_4",
        FOUR,
        "part A, valence and others",
        {"casme3": valence(_CASME3_NEGATIVE, ("happy", "happiness"), ("others",))},
        expected={
            "casme3": (Counts(four(457, 55, 187, 161), 94, _V2), Counts(four(496, 60, 199, 166), 95, _V1)),
        },
    ),
    LabelSet(
        "casme3_7",
        _CASME3_CLASSES,
        "part A, the seven words of the sheet",
        {"casme3": same("disgust", "surprise", "others", "fear", "anger") | _CASME3_SAD | _CASME3_HAPPY},
        expected={
            "casme3": (
                Counts(_casme3_7(250, 187, 161, 86, 64, 57, 55), 94, _V2),
                Counts(_casme3_7(275, 199, 166, 91, 67, 63, 60), 95, _V1),
            )
        },
    ),
    LabelSet(
        "casme3_c_3",
        THREE,
        "part C (mock crime), the words of the ME sheet",
        {"casme3_c": same(*THREE)},
        {"casme3_c": drop("others")},
        expected={"casme3_c": (Counts(three(99, 16, 30), None, "part C, ME sheet"),)},
    ),
    LabelSet(
        "casme3_c_4",
        FOUR,
        "part C (mock crime), the words of the ME sheet",
        {"casme3_c": same(*FOUR)},
        expected={"casme3_c": (Counts(four(99, 16, 30, 20), 30, "part C, ME sheet"),)},
    ),
)

SETS = (*_CASME, *_CASME2, *_CAS_ME_2, *_CAS_ME_3)
