"""Training, enrolled and probe items for speakers and characters, drawn by the seed.

Legend: N items, F features of one, brought to unit length (as published i-vectors are).
speakers   some of the nine men are enrolled, on their first utterances of ae.train; the network sees those
           utterances alone. Validation knocks with later utterances of ae.train, and with a background of two
           other men; the test with ae.test, and with the men left.
omniglot   the network sees alphabets of the first small set; one of them, another for every seed, is kept for
           validation. The test has the alphabets of the second set that are not in the first: half of the
           characters enrolled on a few drawings, half background.
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
    """Enrolled and probe items of one evaluation.

    ``enrol`` (N, F) with ``classes`` (N,); ``probes`` (M, F) with ``identities`` (M,): a class, or BACKGROUND
    for a probe of nobody on the list.
    """

    enrol: Array
    classes: Array
    probes: Array
    identities: Array


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One seed's data.

    ``runs``: (support, queries, answer) of one-shot trials; empty where there are none.
    """

    train: Array
    labels: Array  # 0 … C - 1
    valid: Cohort
    test: Cohort
    runs: tuple[tuple[Array, Array, Array], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Speakers(Config):
    """``enrolled`` men on ``utterances`` each, ``background`` others in validation and the rest of nine in
    the test.
    """

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
                f"verification.speakers: {self.enrolled} enrolled and a background of {self.background} in "
                "validation must leave at least one of nine men for the test, and each be at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Characters(Config):
    """Drawings of ``side`` x ``side`` pixels; ``enrolled`` drawings of a character on the list."""

    side: Annotated[int, Bounds(minimum=2, maximum=105), Doc("Side of a drawing in pixels.")] = 20
    enrolled: Annotated[
        int, Bounds(minimum=1, maximum=19), Doc("Drawings that enrol a character, of 20.")
    ] = 5


def speakers(train: Utterances, test: Utterances, sizes: Speakers, seed: int) -> Draw:
    """Raises: ConfigError for a speaker without an utterance that is needed."""
    order = np.random.default_rng(seed).permutation(int(train.speakers.max()) + 1)
    listed, others = order[: sizes.enrolled], order[sizes.enrolled :]
    early, late = [], []
    for man in listed:
        utterances = np.flatnonzero(train.speakers == man)
        if len(utterances) <= sizes.utterances:
            raise ConfigError(
                f"speakers: class {man + 1} has {len(utterances)} utterances, "
                f"which leaves none for validation after {sizes.utterances}"
            )
        early.append(utterances[: sizes.utterances])
        late.append(utterances[sizes.utterances :])
    enrolled, probed = (
        np.concatenate(early),
        np.concatenate([*late, np.flatnonzero(np.isin(train.speakers, others[: sizes.background]))]),
    )
    tested = np.flatnonzero(np.isin(test.speakers, np.concatenate([listed, others[sizes.background :]])))
    raw, probes = (
        np.stack([statistics(f) for f in train.frames]),
        np.stack([statistics(f) for f in test.frames]),
    )
    mean, deviation = raw[enrolled].mean(axis=0), raw[enrolled].std(axis=0)
    raw, probes = unit((raw - mean) / deviation), unit((probes - mean) / deviation)
    index_of = {int(man): i for i, man in enumerate(listed)}
    labels = _identities(train.speakers[enrolled], index_of)
    return Draw(
        train=raw[enrolled],
        labels=labels,
        valid=Cohort(
            enrol=raw[enrolled],
            classes=labels,
            probes=raw[probed],
            identities=_identities(train.speakers[probed], index_of),
        ),
        test=Cohort(
            enrol=raw[enrolled],
            classes=labels,
            probes=probes[tested],
            identities=_identities(test.speakers[tested], index_of),
        ),
    )


def characters(first: Drawings, second: Drawings, runs: list[OneShot], sizes: Characters, seed: int) -> Draw:
    """Raises: ConfigError when the two sets leave no character to train on, to choose by or to test on."""
    alphabets = sorted(set(first.alphabets))
    held_alphabet = alphabets[seed % len(alphabets)]
    new = sorted(set(second.alphabets) - set(alphabets))
    if len(alphabets) < 2 or not new:
        raise ConfigError(
            "omniglot: two alphabets to train on and a new one to test on are needed; "
            f"found {', '.join(alphabets)} and {', '.join(new) or 'none'}"
        )
    draw = np.random.default_rng(seed)
    is_training = np.array([alphabet != held_alphabet for alphabet in first.alphabets])
    training = np.flatnonzero(is_training[first.characters])
    _, labels = np.unique(first.characters[training], return_inverse=True)
    if labels.max() < 1:
        raise ConfigError("omniglot: one character to train on leaves no negative; triplets need two classes")
    return Draw(
        train=flat(first.ink[training]),
        labels=labels,
        valid=_half(first, [held_alphabet], sizes.enrolled, draw),
        test=_half(second, new, sizes.enrolled, draw),
        runs=tuple((flat(run.support), flat(run.queries), run.answer) for run in runs),
    )


def _half(drawings: Drawings, alphabets: list[str], enrolled: int, draw: np.random.Generator) -> Cohort:
    """Half of these alphabets' characters enrolled, the other half as background."""
    members = draw.permutation([i for i, alphabet in enumerate(drawings.alphabets) if alphabet in alphabets])
    listed = members[: len(members) // 2]
    enrol, classes, probes, identities = [], [], [], []
    for character in members:
        items = draw.permutation(np.flatnonzero(drawings.characters == character))
        on = int(np.flatnonzero(listed == character)[0]) if character in listed else BACKGROUND
        if len(items) <= enrolled:
            raise ConfigError(
                f"omniglot: class {drawings.names[character]} has {len(items)} drawings, "
                f"which leaves none after {enrolled} enrolled"
            )
        probe_items = items[enrolled:] if on != BACKGROUND else items
        if on != BACKGROUND:
            enrol.append(items[:enrolled])
            classes += [on] * enrolled
        probes.append(probe_items)
        identities += [on] * len(probe_items)
    if not enrol:
        raise ConfigError(
            f"omniglot: {', '.join(alphabets)} has {len(members)} characters; half of them enrolled needs two"
        )
    enrolled_items, probed_items = np.concatenate(enrol), np.concatenate(probes)
    return Cohort(
        enrol=flat(drawings.ink[enrolled_items]),
        classes=np.array(classes),
        probes=flat(drawings.ink[probed_items]),
        identities=np.array(identities),
    )


def flat(ink: Array) -> Array:
    return unit(ink.reshape(len(ink), -1))


def unit(x: Array) -> Array:
    """Rows scaled to length 1, in float32; a row of zeros stays zero."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    normed: Array = np.divide(x, length, out=np.zeros_like(x), where=length > 0).astype(np.float32)
    return normed


def _identities(speakers: Array, index_of: dict[int, int]) -> Array:
    return np.array([index_of.get(int(man), BACKGROUND) for man in speakers])
