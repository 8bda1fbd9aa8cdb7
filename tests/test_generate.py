"""``arch-lab generate``: every checkpoint arch-lab writes, text as it is chosen, one line for what cannot be done.

Legend: T tokens, w window.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import arch_lab
from arch_lab import cli
from arch_lab.checkpoints import Checkpoint, open_checkpoint
from arch_lab.checkpoints.checkpoint import Blueprint
from arch_lab.checkpoints.folder import Manifest, write_manifest
from arch_lab.checkpoints.tensors import write_tensors
from arch_lab.data import ByteTokenizer, train_bpe
from arch_lab.generation import generate
from arch_lab.generation.generate import Speaker
from arch_lab.models import Decoder, Shape, recipe
from blocks.contract import tensors_nbytes
from blocks.errors import ConfigError

KEYS = {"prompt", "text", "tokens", "tokens_per_second", "prefill_tokens_per_second", "state_bytes", "seed"}
SHAPE, LONGEST = Shape(width=32, depth=2, ffn_width=32), 48
DECODERS: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 8},
    "gemma3": {"window": 8, "pattern": "LG"},
    "m2_gpt": {},
    "custom": {"mixer": "gated_long_conv"},
}


def fit_file(folder: Path, architecture: str, options: dict[str, Any], **changes: Any) -> Path:
    """A checkpoint as ``arch-lab fit`` leaves it, of an untrained model."""
    torch.manual_seed(0)
    model = recipe(architecture, options).model(SHAPE, vocabulary=257, max_tokens=LONGEST)
    settings = {
        **vars(SHAPE),
        "architecture": architecture,
        "options": options,
        "vocabulary": 257,
        "max_tokens": LONGEST,
    }
    kept = {
        "hyper_parameters": settings,
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "tokenizer": ByteTokenizer().to_dict(),
    }
    path = folder / f"{architecture}.ckpt"
    torch.save({k: v for k, v in {**kept, **changes}.items() if v is not None}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return fit_file(tmp_path, "gemma3", DECODERS["gemma3"])


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line a command that must fail prints."""
    capsys.readouterr()
    assert cli.main(["generate", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@torch.no_grad()
def by_forward(model: Decoder, ids: list[int], new: int) -> list[int]:
    """Greedy decoding without a state: the whole text through the model for every token."""
    for _ in range(new):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-new:]


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_continues_as_its_parallel_forward_says(name: str, tmp_path: Path) -> None:
    path = fit_file(tmp_path, name, DECODERS[name])
    opened = open_checkpoint(path)
    result = generate(opened, "The tide", max_tokens=30)
    assert result.tokens == by_forward(opened.model, [256, *b"The tide"], 30)


@pytest.mark.parametrize("name", DECODERS)
def test_state_bytes_are_those_of_the_formula_after_the_last_token_that_was_fed(
    name: str, tmp_path: Path
) -> None:
    opened = open_checkpoint(fit_file(tmp_path, name, DECODERS[name]))
    # separator and 8 bytes; the last token is chosen and not fed. A long convolution holds one number a channel for each token
    # that may follow the prompt, and its mixer the last two inputs of a short one
    settled = {"m2_gpt": 2 * 32 * (19 + 3 * 2) * 4, "custom": 2 * 32 * 19 * 4}
    assert generate(opened, "The tide", max_tokens=1).state_bytes == opened.model.state_bytes(9)
    assert generate(opened, "The tide", max_tokens=20).state_bytes == settled.get(
        name, opened.model.state_bytes(9 + 19)
    )


def test_json_holds_the_documented_keys_and_the_text_of_its_tokens(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            [
                "generate",
                str(checkpoint),
                "--prompt",
                "The",
                "--max-tokens",
                "12",
                "--temperature",
                "1.5",
                "--seed",
                "3",
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS
    assert len(found["tokens"]) == 12 and found["text"] == ByteTokenizer().decode(found["tokens"])
    assert (found["prompt"], found["seed"]) == ("The", 3)
    assert found["tokens_per_second"] > 0 and found["prefill_tokens_per_second"] > 0


def test_the_text_goes_to_standard_output_and_what_it_took_to_standard_error(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(checkpoint), "--prompt", "The", "--max-tokens", "12"]) == 0
    printed = capsys.readouterr()
    result = arch_lab.generate(checkpoint, "The", max_tokens=12)
    assert printed.out == result.text + "\n"
    assert printed.err.startswith("12 tokens (limit reached); prefill ") and printed.err.count("\n") == 1
    assert printed.err.count("tokens/s") == 2 and printed.err.endswith(
        f"state {result.state_bytes:,} bytes\n"
    )


def test_a_seed_repeats_its_text_and_another_one_does_not(checkpoint: Path) -> None:
    texts = [generate(checkpoint, "The", temperature=2.0, max_tokens=20, seed=s).tokens for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_top_p_alone_draws_at_temperature_one(checkpoint: Path) -> None:
    options = {"max_tokens": 20, "seed": 5}
    assert (
        generate(checkpoint, "The", top_p=0.9, **options).tokens
        == generate(checkpoint, "The", top_p=0.9, temperature=1.0, **options).tokens
    )


def test_one_token_has_no_decoding_rate(checkpoint: Path) -> None:
    result = generate(checkpoint, "The", max_tokens=1)
    assert result.tokens_per_second is None and result.prefill_tokens_per_second


# --- the end, and pieces of characters ---------------------------------------------------------------------------------


class Scripted:
    """A model whose next token is written down: its state is how many tokens it has read."""

    def __init__(self, script: list[int]) -> None:
        self.script = script

    def to(self, device: torch.device) -> Scripted:
        return self

    def init_state(self, batch: int, max_tokens: int | None = None, *, reserve: bool = False) -> int:
        return 0

    def prefill(self, tokens: Tensor, state: int, *, last_only: bool = False) -> tuple[Tensor, int]:
        return self._logits(0)[:, None], 1

    def settle(self, state: int, tokens: int) -> int:
        return state

    def step(self, tokens: Tensor, state: int) -> tuple[Tensor, int]:
        assert int(tokens[0]) == self.script[state - 1]  # what was chosen is what is fed
        return self._logits(state), state + 1

    def _logits(self, place: int) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor([self.script[place]]), 257).double()


def scripted(script: list[int]) -> Checkpoint:
    model: Any = Scripted(script)
    return Checkpoint(
        path=Path("scripted"),
        model=model,
        tokenizer=ByteTokenizer(),
        begin=(256,),
        end=frozenset([256]),
        blueprint=Blueprint(architecture="gemma1", options={}, shape=SHAPE, vocabulary=257, max_tokens=64),
    )


def test_the_end_of_text_ends_it_and_is_no_part_of_it() -> None:
    result = generate(scripted([*b"over", 256, *b"never"]), "It is ", max_tokens=9)
    assert (result.text, result.ended, len(result.tokens)) == ("over", True, 4)


def test_a_text_may_end_at_once() -> None:
    result = generate(scripted([256]), "Nothing")
    assert (result.text, result.tokens, result.ended) == ("", [], True)


def test_a_character_of_several_tokens_arrives_whole() -> None:
    pieces: list[str] = []
    result = generate(scripted([*"a€😀".encode(), 256]), "x", max_tokens=20, write=pieces.append)
    assert [p for p in pieces if p] == ["a", "€", "😀"] and result.text == "a€😀"


def test_bytes_that_never_become_a_character_are_shown_as_such() -> None:
    assert generate(scripted([0x61, 0xE2, 0x82]), "x", max_tokens=3).text == "a\ufffd"


def test_an_id_beyond_the_tokenizer_says_nothing() -> None:
    assert Speaker(ByteTokenizer()).text_of(300) == ""


# --- what cannot be done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (
            ["--prompt", "x" * 60],
            "the prompt takes 61 tokens and the model was built for 48; shorten it to at most 47",
        ),
        (["--prompt", "x", "--max-tokens", "47"], "ask for at most 46"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens must be at least 1"),
        (["--prompt", "x", "--max-tokens", "many"], "expected a whole number"),
        (["--prompt", "x", "--temperature", "0"], "temperature must be a positive number, got 0.0"),
        (["--prompt", "x", "--temperature", "-2"], "temperature must be a positive number"),
        (["--prompt", "x", "--top-p", "0"], "top_p must be above 0 and at most 1"),
        (["--prompt", "x", "--top-p", "1.5"], "top_p must be above 0 and at most 1"),
        (["--prompt", "x", "--seed", "-1"], "seed must be"),
        (["--prompt", "x", "--greedy", "--temperature", "1"], "--greedy does not sample"),
        ([], "--prompt"),
        (["--promt", "x"], "--prompt"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_one_line(
    options: list[str], part: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in failure(capsys, str(checkpoint), *options)


def test_an_unknown_checkpoint_is_answered_with_the_nearest(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'gemma3.ckpt'?" in failure(
        capsys, str(checkpoint.with_name("gema3.ckpt")), "--prompt", "x"
    )
    assert "no such file or folder" in failure(
        capsys, str(checkpoint.with_name("zzzzzzzzzzzzz")), "--prompt", "x"
    )


def test_a_damaged_checkpoint_is_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    assert "not a readable checkpoint" in failure(capsys, str(checkpoint), "--prompt", "x")


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fit_file(tmp_path, "gemma1", {}, tokenizer=None)
    assert "holds no tokenizer" in failure(capsys, str(path), "--prompt", "x")


def test_an_encoder_has_no_text_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        **vars(SHAPE),
        "architecture": "m2_bert",
        "options": {},
        "vocabulary": 257,
        "max_tokens": LONGEST,
    }
    path = tmp_path / "encoder.ckpt"
    torch.save({"hyper_parameters": settings, "state_dict": {}}, path)
    assert "'m2_bert' is a bidirectional encoder" in failure(capsys, str(path), "--prompt", "x")


def test_a_bidirectional_mixer_in_a_decoder_refuses_to_decode(tmp_path: Path) -> None:
    options = {"mixer": "gemma1_attention", "mixer_options": {"causal": False}}
    with pytest.raises(ConfigError, match="bidirectional"):
        generate(fit_file(tmp_path, "custom", options), "x")


def test_a_folder_of_several_checkpoints_asks_which(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(checkpoint.parent, "x", max_tokens=2).tokens  # one is no question
    shutil.copy(checkpoint, checkpoint.with_name("other.ckpt"))
    assert "holds 2 checkpoints, give one: gemma3.ckpt, other.ckpt" in failure(
        capsys, str(checkpoint.parent), "--prompt", "x"
    )


def test_a_folder_without_any_says_what_would_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no checkpoint" in failure(capsys, str(tmp_path), "--prompt", "x")


# --- what arch-lab writes -----------------------------------------------------------------------------------------------


def test_a_checkpoint_of_fit_carries_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"text": f"Paragraph {i} of {name} says little."}) for i in range(300))
        )
    data = {
        "source": "files",
        "train": "train.jsonl",
        "validation": "held_out.jsonl",
        "root": str(tmp_path),
        "sequence_length": "16",
    }
    data |= {"batch_size": "4", "tokenizer": "bpe", "vocabulary": "300"}
    options = [part for key, value in data.items() for part in (f"--data.{key}", value)]
    model = [
        "--model.width",
        "32",
        "--model.depth",
        "1",
        "--model.ffn_width",
        "64",
        "--model.max_tokens",
        "16",
    ]
    trainer = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.max_steps",
        "2",
    ]
    assert cli.main(["fit", *options, *model, *trainer, "--trainer.limit_val_batches", "1"]) == 0
    result = generate("runs/fit/version_0", "Paragraph", max_tokens=4)
    opened = open_checkpoint("runs/fit/version_0")
    assert opened.tokenizer is not None and opened.tokenizer.vocabulary == 300
    assert result.text == opened.tokenizer.decode(result.tokens)


def test_a_converted_folder_with_a_tokenizer_speaks(tmp_path: Path) -> None:
    tokenizer = train_bpe(["the tide comes in and the tide goes out " * 20], 270)
    options = {"window": 8, "pattern": "LG"}
    model = recipe("gemma3", options).model(
        SHAPE, vocabulary=300, max_tokens=LONGEST
    )  # a table padded beyond the tokenizer
    blueprint = Blueprint(
        architecture="gemma3", options=options, shape=SHAPE, vocabulary=300, max_tokens=LONGEST
    )
    write_manifest(tmp_path, Manifest(blueprint=blueprint, begin_text=0, end_text=[0, 1]))
    write_tensors(tmp_path / "model.safetensors", dict(model.state_dict()))
    tokenizer.save(tmp_path)
    ids = [0, *tokenizer.encode(["the tide"])[0].tolist()]
    opened = open_checkpoint(tmp_path)
    assert (opened.begin, opened.end) == ((0,), frozenset([0, 1]))
    found = generate(opened, "the tide", max_tokens=5).tokens
    assert found == by_forward(model.eval(), ids, 5)[: len(found)]


def test_a_reserved_state_of_a_model_holds_what_it_says() -> None:
    model = recipe("gemma2", {"window": 8}).model(SHAPE, vocabulary=257, max_tokens=LONGEST)
    assert tensors_nbytes(model.init_state(2, 30, reserve=True)) == 2 * model.state_bytes(30)
