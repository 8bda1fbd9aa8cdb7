"""``arch-lab cost``: what a model of a given size costs, part by part, without building it in memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.cli.verbs import UsageError, parser

if TYPE_CHECKING:
    from arch_lab.accounting import Ledger
    from arch_lab.models import Recipe, Shape
    from arch_lab.report.section import Table
    from arch_lab.stored import Json

VOCABULARY, CLASSES = 32_768, 1000
STATELESS = {  # kinds of model that keep nothing while decoding, and why
    "encoder": "a bidirectional encoder does not decode, so it keeps no state",
    "image_classifier": "an image classifier reads whole images, so it keeps no state",
}
DESCRIPTION = """Parameters are four lines: embedding (a tied table counts here, once), head, body, total.
FLOPs per token are of the FORWARD pass: matmul and fft make the canonical number, elementwise is shown separately. Training is
3 x the canonical forward. The conventions of other papers (palm, six_nd, kaplan, chinchilla) are TRAINING FLOPs per token.
State bytes: what one sequence keeps while decoding, after --seq-len tokens, in float32.
An encoder-decoder splits the --seq-len tokens in two: the first half is its source, the second its target.
An image model's tokens are the patches of one image (options image, channels, patch), so --seq-len is left out; V counts its classes.

  arch-lab cost gemma2 --preset 2b --seq-len 8192
  arch-lab cost m2_gpt --width 512 --depth 8 --seq-len 1024 --batch 8
  arch-lab cost t5gemma --preset 2b-2b --seq-len 8192
  arch-lab cost m2_vit --preset b
  arch-lab cost vit --width 128 --depth 4 --vocabulary 10 --options image=[32,32] patch=4
  arch-lab cost custom --options mixer=gated_long_conv --width 512 --depth 8 --seq-len 1024"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, DESCRIPTION)
    p.add_argument(
        "architecture",
        metavar="ARCH",
        help="gemma1 … gemma4, gemma_encoder, t5gemma, m2_bert, m2_gpt, hybrid, m2_vit, vit, custom, …",
    )
    p.add_argument("--preset", metavar="SIZE", help="a published size: 2b, 270m, 80m, b, …")
    p.add_argument("--width", type=_count, metavar="W", help="model width")
    p.add_argument("--depth", type=_count, metavar="L", help="number of layers")
    p.add_argument(
        "--ffn-width",
        type=_count,
        metavar="F",
        help="hidden width of one branch (default: the architecture's ratio times W)",
    )
    p.add_argument(
        "--vocabulary",
        type=_count,
        metavar="V",
        help=f"rows of the table, or classes (default: as published, else {VOCABULARY} or {CLASSES})",
    )
    p.add_argument("--seq-len", type=_count, metavar="T", help="tokens of a sequence")
    p.add_argument(
        "--batch",
        type=_count,
        default=1,
        metavar="B",
        help="sequences per forward pass; shared work is counted once (default: 1)",
    )
    p.add_argument(
        "--options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of the architecture, as in a study",
    )
    p.add_argument("--json", action="store_true", help="print as JSON")
    arguments = p.parse_args(argv)
    if not _is_built_in(arguments.architecture):
        _check_architecture(arguments.architecture)
    _check_shape(arguments)

    from arch_lab.accounting import AccountingError, ledger, prove
    from arch_lab.accounting.proof import Uncountable

    recipe, shape, vocabulary, published = _model(arguments)
    _set_length(arguments, recipe)
    built_for = max(arguments.seq_len, published)
    config = recipe.config(shape, vocabulary=vocabulary, max_tokens=built_for)
    model = config.build("meta")
    try:
        prove(model, arguments.seq_len, batch=arguments.batch, built_in=False)
    except Uncountable as error:
        print(f"warning: {error}", file=sys.stderr)
    book = ledger(config, tokens=arguments.seq_len, batch=arguments.batch, model=model)
    if book.training == 0:
        raise AccountingError(
            f"accounting: architecture {arguments.architecture!r} reports zero cost; "
            "correct the cost() of its blocks"
        )
    quote = Quote(
        architecture=arguments.architecture,
        preset=arguments.preset.lower() if arguments.preset else None,
        recipe=recipe,
        shape=shape,
        vocabulary=vocabulary,
        built_for=built_for,
        book=book,
    )
    if arguments.json:
        print(json.dumps(quote.to_json(), indent=2))
    else:
        _print(quote, published)
    return 0


def _count(text: str) -> int:
    try:
        value = int(text.replace("_", "").replace(",", ""))
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return value


def _set_length(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Take the length of an image from its patches. Raises: UsageError for a missing or another length."""
    image = recipe.image_size
    if image is not None:
        if arguments.seq_len not in (None, image.tokens):
            raise UsageError(
                f"cost: an image of {image.height} x {image.width} pixels in patches of {image.patch} "
                f"is {image.tokens} tokens, not {arguments.seq_len}: leave out --seq-len, "
                "or change the options image and patch"
            )
        arguments.seq_len = image.tokens
    elif arguments.seq_len is None:
        raise UsageError("cost: give --seq-len T, the tokens of a sequence: FLOPs and state depend on it")


def _is_built_in(architecture: str) -> bool:
    """Whether one of our sources registers the name; read, because a wrong option must not wait for torch."""
    folder = Path(__file__).resolve().parents[1] / "models"
    return any(
        f'@register_architecture("{architecture}"' in file.read_text(encoding="utf-8")
        for file in folder.glob("*.py")
    )


def _check_architecture(name: str) -> None:
    """Raises: ConfigError with the nearest name."""
    from arch_lab.models import architectures
    from blocks.errors import ConfigError, did_you_mean

    if ":" not in name and name not in architectures():
        raise ConfigError(f"cost: unknown architecture {name!r}{did_you_mean(name, architectures())}")


def _check_shape(arguments: argparse.Namespace) -> None:
    """Raises: UsageError unless the shape is given, once. A vocabulary may go with either kind of shape."""
    dials = [
        f"--{name}"
        for name in ("width", "depth", "ffn-width")
        if getattr(arguments, name.replace("-", "_")) is not None
    ]
    if arguments.preset and dials:
        raise UsageError(f"cost: --preset already fixes the shape; leave out {', '.join(dials)}")
    if not arguments.preset and (arguments.width is None or arguments.depth is None):
        missing = "--depth" if arguments.width is not None else "--width"
        raise UsageError(f"cost: give --preset SIZE, or --width and --depth ({missing} is missing)")


def _model(arguments: argparse.Namespace) -> tuple[Recipe, Shape, int, int]:
    """Recipe, shape, vocabulary, and the longest sequence the published model takes (0 without a preset)."""
    from arch_lab.budget import ShapeRule
    from arch_lab.models import Shape, recipe
    from arch_lab.models.presets import preset

    options = _options(arguments.options)
    if arguments.preset:
        published = preset(arguments.architecture, arguments.preset)
        recipe_ = recipe(arguments.architecture, {**published.options, **options})
        # an image model is built for its image, whatever size the published one has
        longest = 0 if recipe_.image_size else published.max_tokens
        return recipe_, published.shape, arguments.vocabulary or published.vocabulary, longest
    recipe_ = recipe(arguments.architecture, options)
    step = recipe_.ffn_multiple
    vocabulary = arguments.vocabulary or (CLASSES if recipe_.image_size else VOCABULARY)
    ffn = arguments.ffn_width or max(step, round(ShapeRule.hidden_ratio * arguments.width / step) * step)
    return recipe_, Shape(width=arguments.width, depth=arguments.depth, ffn_width=ffn), vocabulary, 0


def _options(pairs: list[str]) -> dict[str, Any]:
    from arch_lab.yaml_files import parse_yaml

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"cost: --options {pair!r}: expected key=value, e.g. window=1024")
        options[key] = parse_yaml(text, origin=f"cost: --options {key}")
    return options


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A model and its ledger. ``built_for``: tokens that its tables are built for."""

    architecture: str
    preset: str | None
    recipe: Recipe
    shape: Shape
    vocabulary: int
    built_for: int
    book: Ledger

    @property
    def halves(self) -> tuple[int, int] | None:
        """Source and target tokens of an encoder-decoder; None for other models."""
        from arch_lab.models.encoder_decoder import halves

        return halves(self.book.tokens) if self.recipe.kind == "encoder_decoder" else None

    @property
    def training(self) -> int | float:
        """Canonical training FLOPs per token."""
        return _plain(self.book.training)

    @property
    def forward_by_kind(self) -> dict[str, int | float]:
        return {kind: _plain(flops) for kind, flops in self.book.forward_by_kind.items()}

    @property
    def stateless(self) -> str:
        """Why it keeps no state while decoding; '' where it keeps one."""
        return STATELESS.get(self.recipe.kind, "")

    def to_json(self) -> Json:
        book, image, halves = self.book, self.recipe.image_size, self.halves
        reason: Json = {"state_reason": self.stateless} if self.stateless else {}
        split: Json = {"source_tokens": halves[0], "target_tokens": halves[1]} if halves else {}
        pixels: Json = {}
        if image:
            pixels = {"image": [image.height, image.width], "channels": image.channels, "patch": image.patch}
        return {
            "architecture": self.architecture,
            "preset": self.preset,
            **vars(self.shape),
            "vocabulary": self.vocabulary,
            "seq_len": book.tokens,
            "max_tokens": self.built_for,
            "batch": book.batch,
            "parameters": book.parameters,
            "flops_per_token": self.forward_by_kind,
            "training_flops_per_token": self.training,
            "conventions": book.conventions,
            "state_bytes": None if self.stateless else book.state_bytes,
            **reason,
            **split,
            **pixels,
            "components": [vars(component) for component in book.components],
        }


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _print(quote: Quote, published: int) -> None:
    from arch_lab.console import console, say
    from arch_lab.report.section import Table

    out, book = console(), quote.book
    for line in _head(quote, published):
        out.print(line)
    say(out)
    out.print(_parts(quote))
    say(out)
    out.print(
        Table(headers=["parameters", ""], rows=[[name, f"{n:,}"] for name, n in book.parameters.items()])
    )
    say(out)
    out.print(_conventions(quote))
    say(out)
    if quote.stateless:
        out.print(f"state: none; {quote.stateless}")
    else:
        out.print(f"state: {book.state_bytes:,} bytes a sequence after {book.tokens:,} tokens (float32)")


def _head(quote: Quote, published: int) -> Iterator[str]:
    """What is counted, in a line or more."""
    shape, book, image, halves = quote.shape, quote.book, quote.recipe.image_size, quote.halves
    size = f" {quote.preset}" if quote.preset else ""
    yield (
        f"{quote.architecture}{size}: width {shape.width}, depth {shape.depth}, ffn_width {shape.ffn_width}, "
        f"{'classes' if image else 'vocabulary'} {quote.vocabulary:,}; {book.batch} x {book.tokens:,} tokens"
    )
    if image:
        yield (
            f"a token is a patch of {image.patch} x {image.patch} of {image.height} x {image.width} pixels"
        )
    if halves:
        yield f"of each row {halves[0]:,} tokens are source and {halves[1]:,} target"
    if 0 < published < book.tokens:
        yield (
            f"built for {book.tokens:,} tokens, published for {published:,}: "
            "tables that grow with length are counted as built"
        )


def _parts(quote: Quote) -> Table:
    """Forward FLOPs per token by part and kind."""
    from arch_lab.report.section import Table
    from arch_lab.units import short

    def row(name: str, count: int | str, parameters: int, flops: Iterable[float], share: float) -> list[Any]:
        return [name, count, f"{parameters:,}", *map(short, flops), f"{share:.1%}"]

    rows = [
        row(
            c.name,
            c.count,
            c.parameters,
            (c.matmul, c.fft, c.elementwise),
            c.flops_per_token / quote.training,
        )
        for c in quote.book.components
    ]
    rows.append(row("total", "", quote.book.parameters["total"], quote.forward_by_kind.values(), 1.0))
    columns = ["part", "count", "parameters", "matmul", "fft", "elementwise", "of training"]
    drop = ("elementwise", "fft")
    return Table(title="forward FLOPs per token", headers=columns, rows=rows, drop=drop)


def _conventions(quote: Quote) -> Table:
    """Training FLOPs per token, by our rule and those of other papers."""
    from arch_lab.report.section import Table
    from arch_lab.units import short

    training = quote.training
    rows = [["canonical (3 x forward)", short(training, digits=4), ""]]
    rows += [
        [name, short(flops, digits=4), f"{flops / training - 1:+.1%}"]
        for name, flops in quote.book.conventions.items()
    ]
    return Table(headers=["training FLOPs per token", "", "off canonical"], rows=rows)
