"""``arch-lab score``: bits per byte and perplexities of a checkpoint on text."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from arch_lab.cli.verbs import add_trust, parser
from arch_lab.memory import keep_memory

if TYPE_CHECKING:
    from arch_lab.checkpoints.score import Band, Score

TEXT = """CHECKPOINT: the folder of a finished run (runs/<study>/runs/<arm>/lr-…), a .ckpt file or version
folder of arch-lab fit, a folder made by arch-lab convert, or a Hugging Face folder. The model is certified
causal first. Every document is preceded by the token that began documents in training, so that the score of a
held-out file equals that of arch-lab test.

  arch-lab score runs/quickstart/runs/gemma3/lr-0.008_seed-0 --text held_out.txt
  arch-lab score gemma-3-1b-pt --text 'texts/*.md' --context 1024 --json"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, TEXT)
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument(
        "--text",
        required=True,
        nargs="+",
        metavar="PATH",
        help="files, folders or patterns: txt, md, jsonl, parquet, …",
    )
    p.add_argument(
        "--context",
        type=_integer,
        metavar="N",
        help="tokens of a window (default: the training length, else the model's maximum)",
    )
    p.add_argument(
        "--stride",
        type=_integer,
        metavar="N",
        help="tokens from one window to the next (default: the context)",
    )
    p.add_argument(
        "--batch", type=_integer, metavar="N", help="windows per forward pass; does not change the score"
    )
    p.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    p.add_argument("--threads", type=_integer, metavar="N", help="CPU threads (default: chosen by torch)")
    p.add_argument(
        "--document-start",
        metavar="REGEX",
        help="regular expression that matches the first line of a document (default: as in training)",
    )
    p.add_argument(
        "--text-column",
        metavar="KEY",
        help="key of the text in jsonl and parquet rows (default: as in training)",
    )
    p.add_argument(
        "--json", action="store_true", help="print everything as JSON, the loss at each position included"
    )
    add_trust(p)
    options = p.parse_args(argv)

    keep_memory()  # before torch is imported
    from arch_lab.checkpoints.score import score
    from arch_lab.console import progress

    with progress(quiet=options.json) as bar:
        task = bar.add_task("certifying", total=1)
        result = score(
            options.checkpoint,
            options.text,
            context=options.context,
            stride=options.stride,
            batch=options.batch,
            device=options.device,
            threads=options.threads,
            trust=options.trust,
            document_start=options.document_start,
            text_column=options.text_column,
            progress=lambda scored, windows: bar.update(
                task, description="scoring windows", completed=scored, total=windows
            ),
        )
    print(json.dumps(result.to_json(), indent=2) if options.json else "\n".join(lines(result)))
    return 0


def lines(result: Score) -> list[str]:
    """The score in words, then the loss by position."""
    files = f"{len(result.text)} files" if len(result.text) != 1 else result.text[0]
    return [
        f"{result.checkpoint}: {result.architecture}, {result.parameters:,} parameters",
        f"text             {files}: {result.bytes:,} bytes and {result.tokens:,} tokens scored, "
        f"{_documents(result)}",
        f"windows          {result.context:,} tokens, one every {result.stride:,}",
        f"bits per byte    {result.bits_per_byte:.4f}",
        f"perplexity       {_number(result.perplexity)} per token, {_number(result.byte_perplexity)} per "
        f"byte, {_number(result.word_perplexity)} per word",
        "",
        f"{'tokens before':<15}{'scored':>12}{'bits per byte':>16}{'nats per token':>16}",
        *(_row(band) for band in result.bands if band.tokens),
    ]


def _row(band: Band) -> str:
    tokens_before = str(band.first) if band.first == band.last else f"{band.first}–{band.last}"
    return f"{tokens_before:<15}{band.tokens:>12,}{_number(band.bits_per_byte):>16}{_number(band.loss):>16}"


def _documents(result: Score) -> str:
    return f"{result.documents:,} document{'' if result.documents == 1 else 's'}"


def _number(value: Any) -> str:
    return (
        "-"
        if value is None
        else f"{value:.4f}"
        if value < 1000
        else f"{value:,.0f}"
        if value < 1e9
        else f"{value:.3g}"
    )


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
