"""Who is trained on, who is enrolled and who knocks, for speakers and for characters: drawn by the seed, test apart from validation.

Legend: N items, F features of one, brought to unit length (as published i-vectors are).
speakers   some of the nine men are enrolled, on their first utterances of ae.train; the network sees those utterances alone. Validation
           knocks with later utterances of ae.train, and with a background of two other men; the test with ae.test, and with the men left.
omniglot   the network sees alphabets of the first small set; one of them, another for every seed, is kept for validation. The test has the
           alphabets of the second set that are not in the first: half of the characters enrolled on a few drawings, half background.
So no test item, and no test background, has a part in any choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError
from experiments.triplets.readers.common import Array
from experiments.triplets.readers.japanese_vowels import Utterances, statistics
from experiments.triplets.readers.omniglot import Drawings, OneShot

BACKGROUND = -1


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """``enrol`` (N, F) with ``classes`` (N,); ``probes`` (M, F) with ``who`` (M,): a class, or BACKGROUND for nobody on the list."""

    enrol: Array
    classes: Array
    probes: Array
    who: Array


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One seed's data. ``runs``: (known, asked, answer) of one-shot trials; empty where there are none."""

    train: Array
    labels: Array  # 0 … C - 1
    valid: Cohort
    test: Cohort
    runs: tuple[tuple[Array, Array, Array], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Speakers(Config):
    """``enrolled`` men on ``utterances`` each, ``background`` others in validation and the rest of nine in the test."""

    enrolled: Annotated[
        int, Bounds(minimum=2, maximum=7), Doc("Speakers on the list; triplets need two.")
    ] = 5
    utterances: Annotated[
        int,
        Bounds(minimum=2, maximum=25),
        Doc("Utterances that enrol a speaker; the others of the 30 are for validation."),
    ] = 5
    background: Annotated[
        int, Bounds(minimum=1, maximum=6), Doc("Speakers not on the list, in validation.")
    ] = 2

    def __post_init__(self) -> None:
        if self.enrolled + self.background > 8:
            raise ConfigError(
                f"verification.speakers: {self.enrolled} enrolled and a background of {self.background} in validation "
                "must leave at least one of nine men for the test, and each be at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Characters(Config):
    """Drawings of ``side`` x ``side`` pixels; ``enrolled`` drawings of a character on the list."""

    side: Annotated[int, Bounds(minimum=2, maximum=105), Doc("Side of a drawing in pixels.")] = 20
    enrolled: Annotated[
        int, Bounds(minimum=1, maximum=19), Doc("Drawings that enrol a character, of 20.")
    ] = 5


def speakers(train: Utterances, test: Utterances, chosen: Speakers, seed: int) -> Draw:
    """Raises: ConfigError for a speaker without an utterance that is needed."""
    order = np.random.default_rng(seed).permutation(int(train.speakers.max()) + 1)
    listed, rest = order[: chosen.enrolled], order[chosen.enrolled :]
    early, late = [], []
    for man in listed:
        mine = np.flatnonzero(train.speakers == man)
        if len(mine) <= chosen.utterances:
            raise ConfigError(
                f"speakers: class {man + 1} has {len(mine)} utterances, which leaves none for validation after {chosen.utterances}"
            )
        early.append(mine[: chosen.utterances])
        late.append(mine[chosen.utterances :])
    known, asked = (
        np.concatenate(early),
        np.concatenate([*late, np.flatnonzero(np.isin(train.speakers, rest[: chosen.background]))]),
    )
    tested = np.flatnonzero(np.isin(test.speakers, np.concatenate([listed, rest[chosen.background :]])))
    raw, probes = (
        np.stack([statistics(f) for f in train.frames]),
        np.stack([statistics(f) for f in test.frames]),
    )
    mean, deviation = raw[known].mean(axis=0), raw[known].std(axis=0)
    raw, probes = unit((raw - mean) / deviation), unit((probes - mean) / deviation)
    place = {int(man): i for i, man in enumerate(listed)}
    labels = _who(train.speakers[known], place)
    return Draw(
        train=raw[known],
        labels=labels,
        valid=Cohort(
            enrol=raw[known], classes=labels, probes=raw[asked], who=_who(train.speakers[asked], place)
        ),
        test=Cohort(
            enrol=raw[known], classes=labels, probes=probes[tested], who=_who(test.speakers[tested], place)
        ),
    )


def characters(first: Drawings, second: Drawings, runs: list[OneShot], chosen: Characters, seed: int) -> Draw:
    """Raises: ConfigError when the two sets leave no character to train on, to choose by or to test on."""
    alphabets = sorted(set(first.alphabets))
    held = alphabets[seed % len(alphabets)]
    new = sorted(set(second.alphabets) - set(alphabets))
    if len(alphabets) < 2 or not new:
        raise ConfigError(
            f"omniglot: two alphabets to train on and a new one to test on are needed; found {', '.join(alphabets)} "
            f"and {', '.join(new) or 'none'}"
        )
    draw = np.random.default_rng(seed)
    own = np.array([alphabet != held for alphabet in first.alphabets])
    seen = np.flatnonzero(own[first.characters])
    _, labels = np.unique(first.characters[seen], return_inverse=True)
    if labels.max() < 1:
        raise ConfigError("omniglot: one character to train on leaves no negative; triplets need two classes")
    return Draw(
        train=flat(first.ink[seen]),
        labels=labels,
        valid=_half(first, [held], chosen.enrolled, draw),
        test=_half(second, new, chosen.enrolled, draw),
        runs=tuple((flat(run.known), flat(run.asked), run.answer) for run in runs),
    )


def _half(drawings: Drawings, alphabets: list[str], enrolled: int, draw: np.random.Generator) -> Cohort:
    """Of these alphabets' characters half on the list, with ``enrolled`` drawings each; all else knocks."""
    mine = draw.permutation([i for i, alphabet in enumerate(drawings.alphabets) if alphabet in alphabets])
    listed = mine[: len(mine) // 2]
    enrol, classes, probes, who = [], [], [], []
    for character in mine:
        items = draw.permutation(np.flatnonzero(drawings.characters == character))
        on = int(np.flatnonzero(listed == character)[0]) if character in listed else BACKGROUND
        if len(items) <= enrolled:
            raise ConfigError(
                f"omniglot: class {drawings.names[character]} has {len(items)} drawings, which leaves none after {enrolled} enrolled"
            )
        kept = items[enrolled:] if on != BACKGROUND else items
        if on != BACKGROUND:
            enrol.append(items[:enrolled])
            classes += [on] * enrolled
        probes.append(kept)
        who += [on] * len(kept)
    if not enrol:
        raise ConfigError(
            f"omniglot: {', '.join(alphabets)} has {len(mine)} characters; half of them enrolled needs two"
        )
    known, asked = np.concatenate(enrol), np.concatenate(probes)
    return Cohort(
        enrol=flat(drawings.ink[known]),
        classes=np.array(classes),
        probes=flat(drawings.ink[asked]),
        who=np.array(who),
    )


def flat(ink: Array) -> Array:
    return unit(ink.reshape(len(ink), -1))


def unit(x: Array) -> Array:
    """Rows at length 1, in float32; a row of zeros stays one."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    found: Array = np.divide(x, length, out=np.zeros_like(x), where=length > 0).astype(np.float32)
    return found


def _who(speakers: Array, place: dict[int, int]) -> Array:
    return np.array([place.get(int(man), BACKGROUND) for man in speakers])
