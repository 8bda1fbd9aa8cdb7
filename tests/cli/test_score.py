"""``arch-lab score``: one number for any checkpoint, the same that training and ``test`` print."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab import cli
from arch_lab.checkpoints.score import Score
from arch_lab.data import ByteTokenizer, train_bpe
from arch_lab.models import Shape, recipe
from arch_lab.study.study import Study
from tests.small_study import small_study

Trained = tuple[Path, Study]
RUN = "runs/small/runs/{}/lr-0.004_seed-0"
HELD_OUT = "\n".join(f"# {key}\n{topics[key]}" for key in sorted(topics)[30:34])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of a study of two arms on files of its own, and the study."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "held_out.txt").write_text(HELD_OUT, encoding="utf-8")
    path = small_study(folder)
    changes = ["data.files.validation=held_out.txt", "budget.train_flops=4e8", "budget.allow_unmatched=true"]
    changes += ["data.tokenizer.kind=bpe", "data.tokenizer.vocabulary=300"]
    study = arch_lab.compare(
        str(path), overrides=changes, output=folder / "runs", cache=folder / "cache", quiet=True
    )
    return folder, study


@pytest.fixture(scope="module")
def reference(trained: Trained) -> Score:
    """The Gemma arm on its held-out file, through Python."""
    return arch_lab.score(trained[0] / RUN.format("gemma3"), trained[0] / "held_out.txt")


def scored(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """What ``score --json`` prints."""
    capsys.readouterr()
    assert cli.main(["score", *map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def failure(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a ``score`` that must fail."""
    capsys.readouterr()
    assert cli.main(["score", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("arm", ["gemma3", "m2_gpt"])
def test_a_run_scores_on_its_held_out_file_as_in_study_json(
    arm: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = trained
    (result,) = study.records(arm=arm)
    found = scored(capsys, folder / RUN.format(arm), "--text", folder / "held_out.txt")
    for name in ("bits_per_byte", "perplexity", "word_perplexity"):
        assert found[name] == pytest.approx(result.scores[name], rel=1e-6, abs=1e-6)


def test_a_fit_scores_on_its_held_out_file_as_test_does(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {
        "source": "files",
        "root": str(trained[0]),
        "sequence_length": "24",
        "batch_size": "2",
        "steps": "2",
    }
    options = [part for key, value in data.items() for part in (f"--data.{key}", value)]
    options += list(FILES)
    model = [
        "--model.width",
        "32",
        "--model.depth",
        "1",
        "--model.ffn_width",
        "32",
        "--model.max_tokens",
        "32",
    ]
    quick = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    limits = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"]
    assert cli.main(["fit", *options, *model, *quick, *limits]) == 0
    (checkpoint,) = Path("runs/fit/version_0").rglob("*.ckpt")
    capsys.readouterr()
    assert cli.main(["test", "--ckpt_path", str(checkpoint), *options, *quick]) == 0
    printed = re.search(r"bits_per_byte\W+([\d.]+)", capsys.readouterr().out)
    assert printed is not None
    digits = len(printed[1].partition(".")[2])
    found = scored(capsys, "runs/fit/version_0", "--text", trained[0] / "held_out.txt")
    assert found["bits_per_byte"] == pytest.approx(float(printed[1]), abs=max(1e-6, 0.51 * 10**-digits))
    assert found["context"] == 24  # as trained, not as long as the model takes


# keys of ``fit`` for the files of a split
FILES = (
    "--data.files.train",
    "text.txt",
    "--data.files.validation",
    "held_out.txt",
    "--data.document_start",
    "^# ",
)


def test_every_form_of_one_model_has_one_score(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = trained[0] / RUN.format("gemma3"), trained[0] / "held_out.txt"
    same = ["--text", text, "--document-start", "^# ", "--context", 32]
    first = scored(capsys, run, *same)
    assert first["bytes"] > first["tokens"]  # tokens of several bytes
    for source, target, to in ((run, "theirs", "huggingface"), (tmp_path / "theirs", "ours", "arch-lab")):
        arch_lab.convert(source, tmp_path / target, to=to)
        other = scored(capsys, tmp_path / target, *same)
        assert other["bits_per_byte"] == pytest.approx(first["bits_per_byte"], abs=1e-6)
        assert (other["tokens"], other["bytes"], other["documents"]) == (
            first["tokens"],
            first["bytes"],
            first["documents"],
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ours",
        "theirs",
    ]  # no folder is left behind by a score


@torch.no_grad()
def test_the_sums_are_those_of_a_plain_loop_over_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model, tokenizer = _bpe_checkpoint(tmp_path)
    (tmp_path / "text.txt").write_text("the tide goes out and the tide comes in again", encoding="utf-8")
    ids = [tokenizer.separator, *tokenizer.encode([(tmp_path / "text.txt").read_text()])[0].tolist()]
    nats = 0.0
    for start in range(0, len(ids) - 1, 8):
        window = ids[start : start + 9]
        logits = model(torch.tensor([window[:-1]]))[0].double().log_softmax(-1)
        nats -= sum(float(logits[i, target]) for i, target in enumerate(window[1:]))
    found = scored(capsys, path, "--text", tmp_path / "text.txt", "--context", 8)
    assert found["nats"] == pytest.approx(nats, rel=1e-6)
    assert (found["tokens"], found["bytes"]) == (len(ids) - 1, 45)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 45, rel=1e-6)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / 10), rel=1e-5)


def test_positions_add_up_to_the_whole(reference: Score) -> None:
    assert [p.first for p in reference.positions] == list(range(1, 33))
    for parts in (reference.positions, reference.bands):
        assert (
            sum(p.tokens for p in parts) == reference.tokens
            and sum(p.bytes for p in parts) == reference.bytes
        )
        assert math.fsum(p.nats for p in parts) == pytest.approx(reference.nats)


@torch.no_grad()
def test_a_stride_scores_each_token_once_with_more_context(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model, tokenizer = _bpe_checkpoint(tmp_path)
    (tmp_path / "text.txt").write_text("the tide goes out and the tide comes in again", encoding="utf-8")
    ids = [tokenizer.separator, *tokenizer.encode([(tmp_path / "text.txt").read_text()])[0].tolist()]
    nats = 0.0
    for target in range(1, len(ids)):  # a stride of one: as many tokens before each as the window holds
        window = torch.tensor([ids[max(0, target - 8) : target]])
        nats -= float(model(window)[0, -1].double().log_softmax(-1)[ids[target]])
    found = scored(capsys, path, "--text", tmp_path / "text.txt", "--context", 8, "--stride", 1)
    assert found["nats"] == pytest.approx(nats, rel=1e-6) and found["tokens"] == len(ids) - 1


def test_batches_change_no_score(trained: Trained, reference: Score) -> None:
    other = arch_lab.score(trained[0] / RUN.format("gemma3"), trained[0] / "held_out.txt", batch=3)
    assert other.nats == pytest.approx(reference.nats, rel=1e-6) and other.tokens == reference.tokens


def test_folders_and_patterns_stand_for_their_files(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, "gemma1", {}, ByteTokenizer())[0]
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"texts/{name}.txt").write_text(f"words of {name}\n", encoding="utf-8")
    found = [arch_lab.score(path, text, context=4) for text in (tmp_path / "texts", tmp_path / "texts/*.txt")]
    assert found[0] == found[1] and found[0].documents == 2 and len(found[0].text) == 2


def test_the_table_holds_the_score_and_bands_of_positions(
    trained: Trained, reference: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            ["score", str(trained[0] / RUN.format("gemma3")), "--text", str(trained[0] / "held_out.txt")]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert f"bits per byte    {reference.bits_per_byte:.4f}" in printed and "\n16–31 " in printed
    assert all(len(line) <= 80 for line in printed.splitlines()[3:])


def test_python_returns_what_the_command_prints(
    trained: Trained, reference: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference.to_json() == scored(
        capsys, trained[0] / RUN.format("gemma3"), "--text", trained[0] / "held_out.txt"
    )
    assert "positions" not in repr(reference) and f"{reference.bits_per_byte:.4f} bits per byte" in str(
        reference
    )


def test_a_leaking_model_gets_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"mixer": "tests.leaky_blocks:CircularConvolution"}
    path = _checkpoint(tmp_path, "custom", options, ByteTokenizer())[0]
    (tmp_path / "text.txt").write_text("the tide", encoding="utf-8")
    message = failure(capsys, path, "--text", tmp_path / "text.txt", "--trust", "tests.leaky_blocks")
    assert "refused" in message and "is not causal" in message


def test_what_cannot_be_scored_is_one_line(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = trained[0] / RUN.format("gemma3"), trained[0] / "held_out.txt"
    encoder = _checkpoint(tmp_path, "gemma_encoder", {}, ByteTokenizer())[0]
    assert "'gemma_encoder' is a bidirectional encoder" in failure(capsys, encoder, "--text", text)
    assert "holds no tokenizer" in failure(
        capsys, _checkpoint(tmp_path, "gemma1", {}, None)[0], "--text", text
    )
    assert "did you mean 'held_out.txt'?" in failure(capsys, run, "--text", text.with_name("hold_out.txt"))
    assert "context must be from 1 to 32" in failure(capsys, run, "--text", text, "--context", 33)
    assert "stride must be from 1 to the context, 32" in failure(capsys, run, "--text", text, "--stride", 0)
    assert "device 'gpu'" in failure(capsys, run, "--text", text, "--device", "gpu")
    assert "is a study of 2 runs; give one of them" in failure(
        capsys, trained[0] / "runs/small", "--text", text
    )
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/model.ckpt").write_bytes(b"PK")
    assert "does not match its checksum" in failure(capsys, tmp_path / "copy", "--text", text)


def _checkpoint(folder: Path, architecture: str, options: dict[str, Any], tokenizer: Any) -> tuple[Path, Any]:
    """A checkpoint as ``fit`` leaves it, of an untrained model, and the model."""
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "ffn_width": 32}
    rows = 257 if tokenizer is None else tokenizer.vocabulary
    model = recipe(architecture, options).model(Shape(**sizes), vocabulary=rows, max_tokens=16)
    settings = {
        **sizes,
        "architecture": architecture,
        "options": options,
        "vocabulary": rows,
        "max_tokens": 16,
    }
    content = {
        "hyper_parameters": settings,
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
    }
    path = folder / f"{architecture}.ckpt"
    torch.save(content if tokenizer is None else {**content, "tokenizer": tokenizer.to_dict()}, path)
    return path, model.eval()


def _bpe_checkpoint(folder: Path) -> tuple[Path, Any, Any]:
    tokenizer = train_bpe(["the tide comes in and the tide goes out " * 20], 270)
    return *_checkpoint(folder, "gemma1", {}, tokenizer), tokenizer
