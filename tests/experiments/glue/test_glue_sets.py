"""What a GLUE study trains on, chooses by and reports: splits that share nothing, batches that lose nothing, files that are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arch_lab.data import ByteTokenizer, DataError
from experiments.glue.baselines import majority, tf_idf
from experiments.glue.batches import (
    BUCKET,
    EncodedRow,
    ScoringLoader,
    TrainingLoader,
    collate,
    encode,
    ordered,
    shares,
)
from experiments.glue.data import held_out, read_set, read_sets
from experiments.glue.reader import GlueRow
from tests.experiments.glue.small_glue import config, glue_files, write

NOWHERE = Path("no-study")


def rows(*texts: tuple[str, str | None]) -> list[GlueRow]:
    return [GlueRow(index=i, text=a, pair=b, label=i % 2) for i, (a, b) in enumerate(texts)]


def test_a_repeated_sentence_a_turned_pair_and_a_shared_premise_stay_on_one_side() -> None:
    singles = rows(*[(f"sentence {i % 40}", None) for i in range(60)], ("Sentence  7", None))
    turned = rows(*[(f"a{i}", f"b{i}") for i in range(30)], *[(f"b{i}", f"a{i}") for i in range(30)])
    premises = rows(*[(f"premise {i // 3}", f"hypothesis {i}") for i in range(60)])
    for name, given_rows, key in (
        ("sst2", singles, lambda r: r.text.lower().split()[-1]),
        ("mrpc", turned, lambda r: frozenset((r.text, r.pair))),
        ("rte", premises, lambda r: r.text),
    ):
        train, tuning = held_out(name, given_rows, fraction=0.2, max_rows=1000)
        assert sorted(r.index for r in train + tuning) == list(range(len(given_rows)))
        assert not {key(r) for r in train} & {key(r) for r in tuning}
        assert 0.2 * len(given_rows) <= len(tuning) <= 0.2 * len(given_rows) + 3


def test_what_is_held_out_is_a_function_of_the_texts_alone_and_at_most_what_is_asked_for() -> None:
    found = rows(*[(f"sentence {i}", None) for i in range(200)])
    train, tuning = held_out("cola", found, fraction=0.3, max_rows=20)
    again, turned = held_out("cola", found[::-1], fraction=0.3, max_rows=20)
    assert (
        len(tuning) == 20
        and {r.text for r in tuning} == {r.text for r in turned}
        and len(again) == len(train)
    )
    with pytest.raises(DataError, match="too few"):
        held_out("cola", found[:3], fraction=0.1, max_rows=20)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=400),
    batch=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 9),
)
def test_every_row_stands_in_one_batch_of_every_epoch(
    lengths: list[int], batch: int, seed: int, epoch: int
) -> None:
    encoded = [EncodedRow((np.arange(n),), None, False) for n in lengths]
    found = ordered(encoded, batch, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert len(found) == -(-len(lengths) // batch) and max(map(len, found)) <= batch
    again = ordered(encoded, batch, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own_and_batches_rows_of_one_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=8 * BUCKET * 3)
    encoded = [EncodedRow((np.arange(n),), None, False) for n in lengths]
    at = {
        (s, e): np.concatenate(ordered(encoded, 8, seed=s, epoch=e)).tolist() for s in (0, 1) for e in (0, 1)
    }
    assert len({tuple(order) for order in at.values()}) == 4
    spread = [lengths[b].max() - lengths[b].min() for b in ordered(encoded, 8, seed=0, epoch=0)]
    shuffled = [np.ptp(lengths[i : i + 8]) for i in range(0, len(lengths), 8)]
    assert np.mean(spread) < 0.25 * np.mean(
        shuffled
    )  # 1/16 of the range in the mean, against 7/9 of it for 8 uniform draws


def test_loaders_hand_every_row_with_its_own_target() -> None:
    encoded = [EncodedRow((np.full(n + 1, n),), None, False) for n in range(1, 38)]
    loader = TrainingLoader(encoded, torch.arange(1, 38), batch=5, epochs=2, seed=3, types=False)
    batches = list(loader)
    assert len(batches) == len(loader) == 2 * 8
    assert sorted(torch.cat([b.targets for b in batches]).tolist()) == sorted([*range(1, 38)] * 2)
    for batch in batches:
        (part,) = batch.parts
        assert (
            torch.equal(part.tokens[batch.places, 0], batch.targets)
            and part.tokens.shape[1] == batch.targets.max() + 1
        )
        assert torch.equal(part.segments.sum(dim=1)[batch.places], batch.targets + 1)
    scored = torch.cat([b.row_numbers for b in ScoringLoader(encoded, batch=5, types=False)])
    assert sorted(scored.tolist()) == list(range(37))


@given(first=st.integers(0, 40), second=st.integers(0, 40), most=st.integers(2, 60))
def test_the_longer_sentence_loses_its_end_first(first: int, second: int, most: int) -> None:
    a, b = first, second
    while a + b > most:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    assert shares(first, second, most) == (a, b)


def test_a_joint_row_holds_both_sentences_and_separate_ones_a_row_each() -> None:
    tokenizer = ByteTokenizer()
    first, second = ["abcdefgh", "ab"], ["xy", "xy"]
    joint = encode(tokenizer, first, second, max_tokens=10, pairs="joint")
    assert [bytes(joint[0].tokens[0].tolist()[1:6]), joint[0].tokens[0][0], joint[0].tokens[0][6]] == [
        b" abcd",
        256,
        256,
    ]
    assert joint[0].length == 10 and joint[0].cut and not joint[1].cut and joint[0].second == 6
    batch = collate(joint, np.array([0, 1]), types=True)
    (part,) = batch.parts
    assert batch.places.tolist() == [1, 0] and part.segments.tolist() == [
        [1] * 8 + [0] * 2,
        [1] * 10,
    ]  # the shorter row first
    assert part.types.tolist() == [[0] * 4 + [1] * 6, [0] * 6 + [1] * 4]
    apart = encode(tokenizer, first, second, max_tokens=6, pairs="separate")
    batch = collate(apart, np.array([0, 1]), types=False)
    short, long = batch.parts
    assert short.tokens.tolist() == [[256, *b" ab"], [256, *b" xy"]] and long.tokens[0].tolist() == [
        256,
        *b" xy",
        0,
        0,
    ]
    assert batch.places.tolist() == [3, 0, 1, 2] and long.tokens[1].tolist() == [256, *b" abcd"]
    assert apart[0].cut and not apart[1].cut


# --- files -----------------------------------------------------------------------------------------------------------


def test_absent_and_truncated_tasks_are_named_and_the_others_read(tmp_path: Path) -> None:
    told: list[str] = []
    root = glue_files(tmp_path)
    found, absent = read_sets(
        config(NOWHERE, root, tasks=["sst2", "qqp", "wnli"], data={"incomplete": ["sst2"]}), told.append
    )
    assert list(found) == ["sst2"] and "train has 80 of 67,349 rows" in found["sst2"].facts["incomplete"]
    assert "no train.tsv" in absent["qqp"] and "QQP" in absent["qqp"]
    assert (
        "train has 50 of 635 rows; dev has 12 of 71 rows" in absent["wnli"]
        and "data.incomplete: [wnli]" in absent["wnli"]
    )
    assert len(told) == 2 and all("\n" not in line for line in told)
    with pytest.raises(DataError, match=r"no task of study 'tiny' can be read: .*QQP.*\(and 1 more\)"):
        read_sets(config(NOWHERE, root, tasks=["qqp", "qnli"]), told.append)


BAD: list[tuple[str, str, str]] = [
    ("sentence\tlabel", "fine\t2", "line 2: label '2' is not one of 0, 1"),
    ("sentence\tlabel", "fi\0ne\t1", "line 2: holds a NUL byte"),
    ("sentence\tlabel", "fine", "line 2: 1 columns, expected 2 .*cut off"),
    ("text\tlabel", "fine\t1", "line 2: no column 'sentence'"),
    ("sentence\tlabel", " \t1", "line 2: expected a sentence"),
]


@pytest.mark.parametrize(("head", "line", "message"), BAD)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(
    head: str, line: str, message: str, tmp_path: Path
) -> None:
    root = glue_files(tmp_path)
    path = write(root, "SST-2/dev.tsv", [head, line])
    _, absent = read_sets(config(NOWHERE, root, tasks=["sst2", "stsb"]), lambda _: None)
    assert absent["sst2"].startswith(str(path)) and "\n" not in absent["sst2"]
    with pytest.raises(DataError, match=message):
        read_set("sst2", config(NOWHERE, root))


def test_a_score_outside_its_range_is_named(tmp_path: Path) -> None:
    root = glue_files(tmp_path)
    write(root, "STS-B/train.tsv", ["sentence1\tsentence2\tscore", "a\tb\t5.5"])
    with pytest.raises(DataError, match=r"line 2: score '5.5' is not a number from 0 to 5"):
        read_set("stsb", config(NOWHERE, root))


def test_a_test_file_that_is_short_costs_the_submission_and_not_the_score(tmp_path: Path) -> None:
    root = glue_files(tmp_path)
    assert len(read_set("wnli", config(NOWHERE, root)).submitted["test"]) == 146
    write(root, "WNLI/test.tsv", ["index\tsentence1\tsentence2", "0\ta\tb"])
    found = read_set("wnli", config(NOWHERE, root))
    assert not found.submitted and "1 rows, expected 146" in found.facts["no_submission"]
    assert "no_submission" not in read_set("wnli", config(NOWHERE, root, submission=False)).facts


def test_the_data_root_may_be_the_glue_folder_itself_and_max_rows_leave_the_tuning_split_alone(
    tmp_path: Path,
) -> None:
    root = glue_files(tmp_path)
    whole = read_set("sst2", config(NOWHERE, root))
    assert read_set("sst2", config(NOWHERE, root / "glue")).fingerprint == whole.fingerprint
    some = read_set("sst2", config(NOWHERE, root, finetuning={"task_rows": {"sst2": 10}}))
    assert (
        len(some.train) == 10
        and some.tuning == whole.tuning
        and {r.text for r in some.train} < {r.text for r in whole.train}
    )
    assert (
        some.facts["left_out_by_max_rows"] == len(whole.train) - 10 and some.fingerprint != whole.fingerprint
    )


# --- measures and baselines --------------------------------------------------------------------------------------------


def test_mnli_reports_both_halves_and_chooses_by_the_first(tmp_path: Path) -> None:
    line = "premise %d\thypothesis\t%s"
    labels = ("entailment", "neutral", "contradiction")
    for split, shift in (("train", 0), ("dev_matched", 0), ("dev_mismatched", 1)):
        lines = [line % (i, labels[(i + shift) % 3]) for i in range(30)]
        write(tmp_path, f"MNLI/{split}.tsv", ["sentence1\tsentence2\tgold_label", *lines])
    found = read_set("mnli", config(NOWHERE, tmp_path, data={"incomplete": ["mnli"]}))
    right = [i % 3 for i in range(30)]
    assert found.scores({"dev_matched": right, "dev_mismatched": right}) == {
        "accuracy_matched": 1.0,
        "accuracy_mismatched": 0.0,
    }
    assert found.tuned([row.label or 0 for row in found.tuning]) == 1.0
    assert found.task().counted == ("accuracy_matched", "accuracy_mismatched")


def test_measures_come_in_the_order_a_verdict_needs(tmp_path: Path) -> None:
    root = glue_files(tmp_path)
    stsb, wnli = (
        read_set("stsb", config(NOWHERE, root)).task(),
        read_set("wnli", config(NOWHERE, root)).task(),
    )
    assert [m.key for m in stsb.measures] == ["spearman", "pearson"] and stsb.counted == (
        "spearman",
        "pearson",
    )
    assert wnli.counted == () and all(m.higher_is_better for m in wnli.measures)


def test_baselines_say_the_majority_the_mean_and_what_words_tell(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    root = glue_files(tmp_path)
    sst, sts = read_set("sst2", config(NOWHERE, root)), read_set("stsb", config(NOWHERE, root))
    labels = [row.label for row in sst.train]
    assert set(majority(sst)["dev"]) == {max((0, 1), key=labels.count)}
    assert majority(sts)["dev"] == [pytest.approx(np.mean([row.label for row in sts.train]))] * 20
    assert sts.scores(majority(sts)) == {"spearman": 0.0, "pearson": 0.0}
    found, facts = tf_idf(sst)
    assert (
        sst.scores(found)["accuracy"] == 1.0 and facts["strength"] == 0.1
    )  # of equally good ones the strongest penalty
    found, _ = tf_idf(sts)
    assert sts.scores(found)["spearman"] > 0.5 and all(0 <= score <= 5 for score in found["dev"])
