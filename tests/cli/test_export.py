"""``arch-lab convert RUN OUT --to huggingface``: what transformers and lm-evaluation-harness read from the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from arch_lab import cli
from arch_lab.checkpoints import open_checkpoint
from tests.exports import GEMMAS, KINDS, checkpoint_with, prose, tokenizer_of
from tests.small_study import small_study

LINES = 1000


def export(source: Path, target: Path) -> Path:
    assert cli.main(["convert", str(source), str(target), "--to", "huggingface"]) == 0
    return target


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Our tokenizer, AutoTokenizer's reading of its export, the folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp(request.param)
    ours = tokenizer_of(request.param, folder)
    out = export(checkpoint_with(ours, folder), folder / "out")
    return ours, transformers.AutoTokenizer.from_pretrained(out), out


def test_auto_tokenizer_gives_our_ids_on_a_thousand_lines(pair: tuple[Any, Any, Path]) -> None:
    ours, theirs, _ = pair
    lines = prose(LINES)
    found = theirs(lines, add_special_tokens=False).input_ids
    assert len(lines) == LINES and found == [ids.tolist() for ids in ours.encode(lines)]


def test_auto_tokenizer_decodes_its_ids_to_the_text(pair: tuple[Any, Any, Path]) -> None:
    _, theirs, _ = pair
    lines = prose(LINES)
    assert theirs.batch_decode(theirs(lines).input_ids, skip_special_tokens=True) == lines


def test_auto_tokenizer_puts_the_separator_before_a_text(pair: tuple[Any, Any, Path]) -> None:
    ours, theirs, _ = pair
    assert theirs("a").input_ids == [ours.separator, *ours.encode(["a"])[0].tolist()]
    assert theirs.bos_token_id == theirs.eos_token_id == theirs.pad_token_id == ours.separator


def test_padded_texts_have_the_logits_of_each_text_alone(pair: tuple[Any, Any, Path]) -> None:
    from transformers import AutoModelForCausalLM

    _, theirs, out = pair
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    texts = ["a tall tale", "of"]
    batch = theirs(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model(**batch).logits[1, -1]
        alone = model(**theirs(texts[1], return_tensors="pt")).logits[0, -1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_an_exported_folder_converts_back_with_its_tokenizer(
    pair: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    ours, _, out = pair
    assert cli.main(["convert", str(out), str(tmp_path / "again")]) == 0
    opened = open_checkpoint(tmp_path / "again")
    assert opened.tokenizer is not None and opened.tokenizer.fingerprint == ours.fingerprint
    assert (opened.begin, opened.end) == ((ours.separator,), frozenset([ours.separator]))


@pytest.mark.parametrize("to", ["huggingface", "arch-lab"])
def test_files_of_a_conversion_have_the_mode_of_the_umask(to: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        out = export(checkpoint_with(tokenizer_of("bytes", tmp_path), tmp_path), tmp_path / "out")
        if to == "arch-lab":
            assert cli.main(["convert", str(out), str(tmp_path / "ours")]) == 0
            out = tmp_path / "ours"
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in out.iterdir()} == {"0o640"}
    assert oct(out.stat().st_mode & 0o777) == "0o750"


@pytest.mark.parametrize("leads_to", ["an empty folder", "nothing", "itself"])
def test_a_link_as_target_is_one_line(
    leads_to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "an empty folder").mkdir()
    link = tmp_path / ("itself" if leads_to == "itself" else "link")
    link.symlink_to(tmp_path / leads_to)
    source = checkpoint_with(tokenizer_of("bytes", tmp_path), tmp_path)
    assert cli.main(["convert", str(source), str(link), "--to", "huggingface"]) == 2
    assert capsys.readouterr().err == f"error: {link} is a link; name the folder it leads to, or remove it\n"


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------

CHOICES = {
    "task": "local_choices",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{label}}",
    "metric_list": [{"metric": "acc"}],
}
ROLLING = {
    "task": "local_text",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{context}}",
    "metric_list": [{"metric": "bits_per_byte"}],
}


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    contexts = ["The value of the statement is", "A class is", "Assignment to", "ü – 漢"]
    rows = [
        {"context": c, "choices": ["true", "an object", "0"], "label": i % 3} for i, c in enumerate(contexts)
    ]
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    for task in (CHOICES, ROLLING):
        content = {**task, "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}}
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(content))


def harness(out: Path, task: str, tasks: Path, **options: Any) -> list[dict[str, Any]]:
    """The samples of one task, from the command ``lm_eval --model hf``."""
    results = tasks / f"{out.name}-{task}"
    given = ",".join(
        f"{name}={value}" for name, value in {"pretrained": out, "dtype": "float32", **options}.items()
    )
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", given, "--tasks", task]
    command += ["--include_path", str(tasks), "--device", "cpu", "--batch_size", "2", "--log_samples"]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tasks / "home"),
    }
    done = subprocess.run(
        [*command, "--output_path", str(results)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (samples,) = results.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


@torch.no_grad()
def log_likelihood(opened: Any, ids: list[int], first: int) -> float:
    """Of the tokens from ``first`` on, each given all before it."""
    logits = opened.model(torch.tensor([ids])).log_softmax(-1)[0]
    return float(sum(logits[i - 1, ids[i]] for i in range(first, len(ids))))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A trained run of each Gemma, and its export."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'arch-lab[lm-eval]'")
    folder = tmp_path_factory.mktemp("runs")
    arms = [{"architecture": name, "options": options} for name, options in GEMMAS.items()]
    data = yaml.safe_load(small_study(folder / "study").read_text())["data"]
    study = small_study(
        folder / "study", arms=arms, data={**data, "tokenizer": {"kind": "bpe", "vocabulary": 400}}
    )
    assert cli.main(["compare", str(study), "--output", str(folder / "out")]) == 0
    found = {}
    for result in sorted((folder / "out").rglob("result.json")):
        name = result.parent.parent.name
        found[name] = (result.parent, export(result.parent, folder / f"{name}-hf"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GEMMAS)
def test_lm_eval_scores_choices_as_our_model_does(name: str, runs: dict[str, Any], tmp_path: Path) -> None:
    """The exported tokenizer prepends the separator: lm_eval asks it for special tokens, and adds none of its own."""
    run, out = runs[name]
    write_tasks(tmp_path / "tasks")
    opened = open_checkpoint(run)
    count = 0
    for sample in harness(out, "local_choices", tmp_path / "tasks"):
        for (score, _), asked in zip(sample["filtered_resps"], sample["arguments"].values(), strict=True):
            context, continuation = asked["arg_0"], asked["arg_1"]
            before, whole = (
                ids.tolist() for ids in opened.tokenizer.encode([context, context + continuation])
            )
            expected = log_likelihood(opened, [*opened.begin, *whole], len(opened.begin) + len(before))
            assert abs(float(score) - expected) < 1e-4
            count += 1
    assert count == 12


@pytest.mark.slow
def test_lm_eval_scores_whole_texts_as_our_model_does(runs: dict[str, Any], tmp_path: Path) -> None:
    """lm_eval prepends the separator here, so the tokenizer must not: ``add_bos_token=False`` tells it."""
    run, out = runs["gemma3"]
    write_tasks(tmp_path / "tasks")
    opened = open_checkpoint(run)
    samples = harness(out, "local_text", tmp_path / "tasks", add_bos_token=False)
    assert len(samples) == 4
    for sample in samples:
        ids = [*opened.begin, *opened.tokenizer.encode([sample["doc"]["context"]])[0].tolist()]
        score = sample["filtered_resps"][0]
        assert (
            abs(float(score[0] if isinstance(score, list) else score) - log_likelihood(opened, ids, 1)) < 1e-4
        )
