"""GLUE files: what is read, what is refused and in which line, what a submission looks like."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from arch_lab.data import DataError
from experiments.glue.metrics import GLUE_METRICS, glue_metrics
from experiments.glue.reader import GLUE_TASKS, GlueRow, glue_task, read_glue, write_submission

GOOD: dict[tuple[str, str], tuple[str, list[tuple[str, str | None, float | None]]]] = {
    ("cola", "train"): (
        'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tHim go.\n',
        [('He said "no.', None, 1), ("Him go.", None, 0)],
    ),
    ("cola", "test"): ("index\tsentence\n0\tBill left.\n", [("Bill left.", None, None)]),
    ("sst2", "dev"): ("sentence\tlabel\nfine \t1\n", [("fine ", None, 1)]),
    ("mrpc", "dev"): (
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA b.\t"C d.\n',
        [("A b.", '"C d.', 0)],
    ),
    ("rte", "train"): ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n", [("a", "b", 1)]),
    ("wnli", "dev"): ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", [("a", "b", 1)]),
    ("qnli", "dev"): ("index\tquestion\tsentence\tlabel\n0\tq?\ts\tentailment\n", [("q?", "s", 0)]),
    ("qqp", "dev"): (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\ta?\tb?\t1\n",
        [("a?", "b?", 1)],
    ),
    ("mnli", "dev_matched"): (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\ta\tb\tneutral\tcontradiction\n",
        [("a", "b", 2)],
    ),
    ("mnli_subset", "validation"): ("sentence1\tsentence2\tgold_label\na\tb\tneutral\n", [("a", "b", 1)]),
    ("stsb", "dev"): ("index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.250\n", [("a", "b", 3.25)]),
}


def write(root: Path, task: str, split: str, content: bytes | str, suffix: str = ".tsv") -> Path:
    path = root / GLUE_TASKS[task].folder / (split + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("task", "split"), GOOD)
def test_every_task_is_read_as_the_benchmark_lays_it_out(
    task: str, split: str, packed: bool, tmp_path: Path
) -> None:
    text, wanted = GOOD[task, split]
    write(
        tmp_path,
        task,
        split,
        gzip.compress(text.encode()) if packed else text,
        ".tsv.gz" if packed else ".tsv",
    )
    found = read_glue(task, split, tmp_path, rows=len(wanted))
    assert found == [GlueRow(index=i, text=a, pair=b, label=y) for i, (a, b, y) in enumerate(wanted)]


def test_a_sentence_keeps_what_other_readers_take_for_line_ends(tmp_path: Path) -> None:
    write(tmp_path, "sst2", "dev", "sentence\tlabel\na\u2028b\x85c\x0cd\t1\nplain\t0\n")
    assert [row.text for row in read_glue("sst2", "dev", tmp_path)] == ["a\u2028b\x85c\x0cd", "plain"]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, "sst2", "dev", "\ufeffsentence\tlabel\r\nfine\t1\r\n")
    assert read_glue("sst2", "dev", tmp_path) == [GlueRow(index=0, text="fine", pair=None, label=1)]


def test_the_labelled_sts_test_set_has_no_header_and_two_widths(tmp_path: Path) -> None:
    row = "main\tMSR\t2012\t0024\t2.500\tA girl.\tA boy."
    (tmp_path / "STS-B").mkdir()
    (tmp_path / "STS-B" / "sts-test.csv").write_text(f"{row}\n{row}\tmore\tmore\n")
    assert [r.label for r in read_glue("stsb", "test", tmp_path)] == [2.5, 2.5]


def test_parquet_of_the_hugging_face_copies_is_read_too(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "MNLI").mkdir()
    for split, label in (("dev_matched", 2), ("test_matched", -1)):
        table = pa.table({"premise": ["a"], "hypothesis": ["b"], "label": [label], "idx": [0]})
        pq.write_table(table, tmp_path / "MNLI" / f"{split}.parquet")
    assert read_glue("mnli", "dev_matched", tmp_path)[0] == GlueRow(index=0, text="a", pair="b", label=2)
    assert read_glue("mnli", "test_matched", tmp_path)[0].label is None
    (tmp_path / "MNLI" / "dev_matched.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"dev_matched\.parquet: not a valid parquet file"):
        read_glue("mnli", "dev_matched", tmp_path)


BAD = [
    ("rte", "dev", "index\tsentence1\tlabel\n0\ta\tentailment\n", "line 2: no column 'sentence2'"),
    ("rte", "dev", "index\tsentence1\tsentence2\n0\ta\tb\n", "line 2: no column 'label'"),
    (
        "rte",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n",
        "line 2: label 'maybe' is not one of entailment, not_entailment",
    ),
    (
        "rte",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\n",
        "line 3: 3 columns, expected 4 .*cut off",
    ),
    (
        "rte",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tc\tentailment\n1\ta\tb\tentailment\n",
        "line 2: 5 columns",
    ),
    ("rte", "dev", "index\tsentence1\tsentence2\tlabel\n0\ta\0\tb\tentailment\n", "line 2: holds a NUL byte"),
    (
        "rte",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\ta\t \tentailment\n",
        "line 2: expected a sentence, got ' '",
    ),
    ("rte", "dev", "index\tsentence1\tsentence2\tlabel\n", "no rows"),
    ("rte", "dev", "", "the file is empty"),
    ("rte", "dev", b"index\tsentence1\tsentence2\tlabel\n0\t\xff\tb\tentailment\n", "not UTF-8 at byte"),
    (
        "cola",
        "train",
        "source\tlabel\tmark\tsentence\ngj04\t1\t\tFine.\n",
        "line 1: label 'label' is not one of 0, 1",
    ),
    ("cola", "train", "gj04\t2\t\tFine.\n", "line 1: label '2'"),
    (
        "stsb",
        "dev",
        "sentence1\tsentence2\tscore\na\tb\t5.1\n",
        "line 2: score '5.1' is not a number from 0 to 5",
    ),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2: score 'nan'"),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\thigh\n", "line 2: score 'high'"),
]


@pytest.mark.parametrize(("task", "split", "content", "message"), BAD)
def test_what_is_wrong_with_a_file_is_one_line_with_its_name(
    task: str, split: str, content: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, task, split, content)
    with pytest.raises(DataError, match=message) as caught:
        read_glue(task, split, tmp_path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_truncated_and_short_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dev\.tsv, dev\.tsv\.gz, dev\.parquet in .*RTE"):
        read_glue("rte", "dev", tmp_path)
    text = GOOD["rte", "train"][0]
    write(tmp_path, "rte", "train", gzip.compress(text.encode())[:-9], ".tsv.gz")
    with pytest.raises(DataError, match=r"train\.tsv\.gz: not a valid gzip file"):
        read_glue("rte", "train", tmp_path)
    write(tmp_path, "rte", "train", text)
    with pytest.raises(DataError, match=r"train\.tsv: 1 rows, expected 2490"):
        read_glue("rte", "train", tmp_path, rows=GLUE_TASKS["rte"].rows["train"])


def test_unknown_tasks_and_splits_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'stsb'"):
        glue_task("sts-b")
    with pytest.raises(DataError, match="no split 'dev_match'; did you mean 'dev_matched'"):
        read_glue("mnli", "dev_match", tmp_path)


def test_a_submission_names_classes_and_counts_its_rows(tmp_path: Path) -> None:
    path = write_submission("rte", [0, 1] * 1500, tmp_path)
    assert path.name == "RTE.tsv"
    assert path.read_text().splitlines()[:3] == ["index\tprediction", "0\tentailment", "1\tnot_entailment"]
    assert len(path.read_text().splitlines()) == 3001
    assert write_submission("stsb", [2.5] * 1379, tmp_path).read_text().splitlines()[1] == "0\t2.500"
    assert write_submission("cola", [1] * 1063, tmp_path).read_text().splitlines()[1] == "0\t1"
    assert write_submission("mnli", [2] * 9847, tmp_path, split="test_mismatched").name == "MNLI-mm.tsv"


@pytest.mark.parametrize(
    ("task", "predictions", "split", "message"),
    [
        ("rte", [0], "test", "1 predictions for 3000 rows"),
        ("rte", [2] * 3000, "test", "prediction 2 at position 0 is not in 0 … 1"),
        ("rte", [0.5] * 3000, "test", "prediction 0.5 at position 0"),
        ("stsb", [float("nan")] * 1379, "test", "is not a score from 0 to 5"),
        ("mnli", [0], "test", "no submission for split 'test'"),
    ],
)
def test_a_submission_the_server_would_refuse_is_refused_here(
    task: str, predictions: Any, split: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        write_submission(task, predictions, tmp_path, split=split)


def test_every_task_that_is_scored_can_be_read() -> None:
    assert {name.partition("_")[0] for name in GLUE_METRICS} == {
        name.partition("_")[0] for name in GLUE_TASKS
    }


POSITIVES = {
    ("cola", "train"): 6023,
    ("cola", "dev"): 721,
    ("mrpc", "train"): 2474,
    ("mrpc", "dev"): 279,
    ("mrpc", "test"): 1147,
}


@pytest.mark.slow
def test_the_real_files_have_their_official_rows() -> None:
    """Class counts of CoLA and MRPC are those published with the sets."""
    folder = os.environ.get("ARCH_LAB_DATA")
    root = Path(folder or ".") / "glue"
    if folder is None or not root.is_dir():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds glue/")
    read = 0
    for name, task in GLUE_TASKS.items():
        for split, rows in task.rows.items():
            if not list((root / task.folder).glob(f"{split}.*")) and not (name == "stsb" and split == "test"):
                continue
            found = read_glue(name, split, root, rows=rows)
            read += 1
            if (name, split) in POSITIVES:
                assert sum(row.label == 1 for row in found) == POSITIVES[name, split]
    assert read, f"no GLUE file in {root}"


def test_each_task_has_the_metrics_of_its_leaderboard() -> None:
    assert glue_metrics("mrpc", [1, 1, 0, 0], [1, 0, 0, 0]) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    assert glue_metrics("stsb", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(
        {"pearson": 0.5, "spearman": 0.5}
    )
    assert glue_metrics("mnli_matched", [2, 1], [2, 0]) == {"accuracy": 0.5}
