"""What the tests of exported folders share: tokenizers of each kind, and a checkpoint that carries one."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import torch

from arch_lab.data import ByteTokenizer, Tokenizer, train_bpe
from arch_lab.data.tokenizer import read_tokenizer
from arch_lab.models import Shape, recipe

GEMMAS = {"gemma1": {}, "gemma2": {"window": 8}, "gemma3": {"window": 8, "pattern": "LG"}}
KINDS = ("bytes", "bpe", "file")
AWKWARD = (
    "é 漢字 🙂",
    "<|document|> <bos> [MASK]",
    "\ttab  two  spaces ",
    " lead",
    "trail  ",
    "a\r\nb",
    "nul \x00 \u200b",
)


def prose(count: int) -> list[str]:
    """``count`` lines of English, those that break tokenizers among them."""
    lines = [line for key in sorted(topics) for line in topics[key].splitlines() if line]
    return [*AWKWARD, *lines][:count]


def sentencepiece_like(path: Path) -> None:
    """Write the tokenizer.json of a Gemma in small: spaces as U+2581, byte fallback, <bos> put first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    letters = sorted({*"▁etaoinshrdlucmfwypvbgkjqxz.,"})
    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        *(f"<0x{value:02X}>" for value in range(256)),
        *letters,
        "th",
        "▁th",
        "▁the",
        "he",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("h", "e")]
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True))
    inner.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    inner.save(str(path))


def tokenizer_of(kind: str, folder: Path) -> Tokenizer:
    """A tokenizer of one of ``KINDS``."""
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "bpe":
        return train_bpe(prose(400), 400)
    sentencepiece_like(folder / "spm.json")
    return read_tokenizer(folder / "spm.json")


def checkpoint_with(
    tokenizer: Tokenizer, folder: Path, architecture: str = "gemma3", max_tokens: int = 96
) -> Path:
    """A checkpoint as ``arch-lab fit`` leaves it, of an untrained model that reads this tokenizer."""
    torch.manual_seed(0)
    options = GEMMAS[architecture]
    shape = Shape(width=32, depth=2, ffn_width=32)
    model = recipe(architecture, options).model(shape, vocabulary=tokenizer.vocabulary, max_tokens=max_tokens)
    settings = {
        "architecture": architecture,
        "options": options,
        "vocabulary": tokenizer.vocabulary,
        "max_tokens": max_tokens,
    }
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    path = folder / f"{architecture}.ckpt"
    torch.save(
        {
            "hyper_parameters": {**vars(shape), **settings},
            "state_dict": state,
            "tokenizer": tokenizer.to_dict(),
        },
        path,
    )
    return path
