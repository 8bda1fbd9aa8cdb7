"""``arch-lab generate``: text from a checkpoint, printed as it is generated."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import UsageError, add_trust, parser

if TYPE_CHECKING:
    from arch_lab.generation import Generation

TEXT = """CHECKPOINT: the folder of a finished run (runs/<study>/runs/<arm>/lr-…), a .ckpt file or version
folder of arch-lab fit, a folder made by arch-lab convert, or a Hugging Face folder. Greedy unless
--temperature or --top-p is given. The text goes to standard output as it is chosen, speed and state to
standard error.

  arch-lab generate runs/quickstart/runs/gemma3/lr-0.008_seed-0 --prompt "The statement"
  arch-lab generate gemma-3-1b --prompt "Once" --temperature 0.8 --top-p 0.95 --seed 3 --max-tokens 200"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, TEXT)
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue")
    p.add_argument(
        "--max-tokens",
        type=_integer,
        metavar="N",
        help="new tokens (default: 64, or as many as the model has room for)",
    )
    p.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="sampling temperature: below 1 sharpens the distribution, above 1 flattens it",
    )
    p.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the smallest set of most likely tokens with total probability P",
    )
    p.add_argument("--seed", type=_integer, default=0, metavar="N", help="seed of the sampling (default: 0)")
    p.add_argument(
        "--greedy",
        action="store_true",
        help="always take the most likely token (the default without --temperature and --top-p)",
    )
    p.add_argument(
        "--json",
        action="store_true",
        help=(
            "print {prompt, text, tokens, tokens_per_second, prefill_tokens_per_second, state_bytes, "
            "seed} and nothing else"
        ),
    )
    add_trust(p)
    options = p.parse_args(argv)
    if options.greedy and (options.temperature is not None or options.top_p is not None):
        raise UsageError(
            f"{verb}: --greedy does not sample; leave it out, or leave out --temperature and --top-p"
        )

    from arch_lab.generation import generate

    result = generate(
        options.checkpoint,
        options.prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        write=None if options.json else _print_piece,
        trust=options.trust,
    )
    if options.json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(flush=True)
        print(summary(result), file=sys.stderr)
    return 0


def summary(result: Generation) -> str:
    """Why it stopped and what it took, in one line."""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f} tokens/s"

    ending = "end of text" if result.ended else "limit reached"
    prefill, decode = rate(result.prefill_tokens_per_second), rate(result.tokens_per_second)
    size = f"state {result.state_bytes:,} bytes"
    return f"{len(result.tokens)} tokens ({ending}); prefill {prefill}, decode {decode}; {size}"


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
