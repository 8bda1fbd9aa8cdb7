"""``arch-lab convert``: checkpoints of other projects into ours, and back."""

from __future__ import annotations

import json

from arch_lab.cli.verbs import add_trust, parser

TEXT = """SOURCE: a Hugging Face folder of Gemma 1, 2 or 3 or T5Gemma (config.json and safetensors, sharded or
not). Of a Gemma 3 with vision, the text part is converted. With --to huggingface, SOURCE is a folder made by
this command, or a run or checkpoint trained with arch-lab; AutoTokenizer then puts the separator before each
text. TARGET must not exist. Tensors are copied bit for bit. If a field of config.json asks for a function
that arch-lab does not compute, the error names the field.
With --from m2-bert, SOURCE is the state dict of a released M2-BERT (BertForMaskedLM: a .bin or .pt file, or
the folder of pytorch_model.bin); --to m2-bert writes one.

  arch-lab convert gemma-3-1b-pt gemma-3-1b
  arch-lab generate gemma-3-1b --prompt "Once"
  arch-lab convert runs/quickstart/runs/gemma3/lr-0.008_seed-0 for-transformers --to huggingface
  arch-lab convert --from m2-bert pytorch_model.bin m2-bert-80m"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, TEXT)
    p.add_argument("source", metavar="SOURCE")
    p.add_argument("target", metavar="TARGET")
    formats = ("huggingface", "m2-bert")
    p.add_argument(
        "--from",
        dest="source_format",
        choices=formats,
        default="huggingface",
        help="format to read (default: huggingface)",
    )
    p.add_argument(
        "--to", choices=("arch-lab", *formats), default="arch-lab", help="format to write (default: arch-lab)"
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print {source, target, to, architecture, tensors, parameters, dtype}",
    )
    add_trust(p)
    options = p.parse_args(argv)

    from arch_lab.checkpoints.convert import convert

    conversion = convert(
        options.source,
        options.target,
        to=options.to,
        source_format=options.source_format,
        trust=options.trust,
    )
    if options.json:
        print(json.dumps(conversion.to_dict(), indent=2))
    else:
        size = f"{conversion.parameters:,} parameters in {conversion.tensors} tensors ({conversion.dtype})"
        print(f"{conversion.target}: {conversion.architecture}, {size}")
    return 0
