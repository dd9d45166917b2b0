"""Shorthand for writing label sets as data."""

from __future__ import annotations

NOT_A_CLASS = "the emotion is not a class of this set"


def same(*words: str) -> dict[str, str]:
    """Words that are their own class."""
    return {w: w for w in words}


def drop(*words: str, why: str = NOT_A_CLASS) -> dict[str, str]:
    """Words whose clips are left out, with the reason."""
    return dict.fromkeys(words, why)


NEGATIVE, POSITIVE, SURPRISE, OTHERS = "negative", "positive", "surprise", "others"
THREE = (NEGATIVE, POSITIVE, SURPRISE)
FOUR = (*THREE, OTHERS)


def three(negative: int, positive: int, surprise: int) -> dict[str, int]:
    """Clips of the classes THREE."""
    return dict(zip(THREE, (negative, positive, surprise), strict=True))


def four(negative: int, positive: int, surprise: int, others: int) -> dict[str, int]:
    """Clips of the classes FOUR."""
    return three(negative, positive, surprise) | {OTHERS: others}


def valence(negative: tuple[str, ...], positive: tuple[str, ...], others: tuple[str, ...] = ()) -> dict[str, str]:
    """Emotion words by valence; surprise is neither."""
    return (
        dict.fromkeys(negative, NEGATIVE)
        | dict.fromkeys(positive, POSITIVE)
        | {SURPRISE: SURPRISE}
        | dict.fromkeys(others, OTHERS)
    )
