"""The label sets of macro-expression datasets, as data: for pre-training with labels and for dynamic FER itself."""

from __future__ import annotations

from mer_jax.evaluation.label_set import Counts, LabelSet, Map

_BASIC = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
# Releases write a noun or an adjective for the same class.
_SPELLINGS = {
    "anger": ("anger", "angry"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear",),
    "happiness": ("happiness", "happy"),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise", "surprised"),
}


def _map(*classes: str) -> Map:
    return {word: c for c in classes for word in _SPELLINGS.get(c, (c,))}


def _macro(
    name: str,
    dataset: str,
    classes: tuple[str, ...],
    source: str,
    dropped: tuple[str, ...] = (),
    expected: tuple[Counts, ...] = (),
) -> LabelSet:
    return LabelSet(
        name,
        classes,
        source,
        {dataset: _map(*classes)},
        {dataset: dict.fromkeys(dropped, "the emotion is not a class of this set") | {"": "no emotion label"}},
        expected={dataset: expected} if expected else {},
        expression_types=("macro", "neutral") if "neutral" in classes else ("macro",),
    )


_SEVEN = (*_BASIC, "neutral")
SETS = (
    _macro("ck_plus_7", "ck_plus", (*_BASIC, "contempt"), "CK+, the 327 labelled sequences", ("neutral",)),
    _macro("ck_plus_6", "ck_plus", _BASIC, "CK+ without contempt", ("neutral", "contempt")),
    _macro(
        "oulu_casia_6",
        "oulu_casia",
        _BASIC,
        "Oulu-CASIA, one camera and light: 480 sequences",
        expected=(Counts(dict.fromkeys(_BASIC, 80), 80, "VL, strong light"),),
    ),
    _macro("mmi_6", "mmi", _BASIC, "MMI, emotion codes 1-6"),
    _macro(
        "afew_7",
        "afew",
        _SEVEN,
        "AFEW (EmotiW), published partitions",
        expected=(
            Counts(dict(zip(_SEVEN, (133, 74, 81, 150, 117, 74, 144), strict=True)), None, "train", False),
            Counts(dict(zip(_SEVEN, (64, 40, 46, 63, 61, 46, 63), strict=True)), None, "validation", False),
        ),
    ),
    _macro("dfew_7", "dfew", _SEVEN, "DFEW, single-labelled clips (11,697)"),
    _macro("ferv39k_7", "ferv39k", _SEVEN, "FERV39k (38,935 clips)"),
    _macro(
        "mafw_11",
        "mafw",
        (*_SEVEN, "contempt", "anxiety", "helplessness", "disappointment"),
        "MAFW, single-labelled clips (9,172)",
    ),
    _macro("mead_8", "mead", (*_SEVEN, "contempt"), "MEAD, eight emotions"),
)
