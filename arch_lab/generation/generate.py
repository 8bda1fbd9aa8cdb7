"""Text from a checkpoint: ``arch_lab.generate``, the twin of ``arch-lab generate``."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from arch_lab.checkpoints import Checkpoint, CheckpointError, open_decoder
from arch_lab.data import Tokenizer
from arch_lab.generation.decode import Meter, decode
from arch_lab.generation.sampling import Sampling
from arch_lab.stored import Json
from blocks.errors import UserError

DEFAULT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was written and what it took.

    ``tokens``: the new ids; rates in tokens per second, prompt and new text apart.
    """

    prompt: str
    text: str
    tokens: list[int]
    tokens_per_second: float | None  # None: there was no second token to time
    prefill_tokens_per_second: float | None
    state_bytes: int
    seed: int
    ended: bool  # by the end-of-text token, not by the limit

    def to_dict(self) -> Json:
        """What ``--json`` prints."""
        return {name: value for name, value in vars(self).items() if name != "ended"}


def generate(
    checkpoint: str | Path | Checkpoint,
    prompt: str,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
    write: Callable[[str], None] | None = None,
    trust: Sequence[str] = (),
) -> Generation:
    """Continue ``prompt``, greedily or by sampling.

    Sampling needs ``temperature`` or ``top_p``; the other one is then 1.

    ``max_tokens``: new tokens, 64 or as many as the model has room for. ``write`` receives the text piece by
    piece, as it is chosen; a character of several tokens arrives whole. ``trust``: modules that the
    checkpoint's options may name.
    Raises: UserError (one line) for impossible options, an empty or too long prompt, or a path that is no
    decoder's checkpoint.
    """
    if temperature is None and top_p is not None:
        temperature = 1.0
    sampling = Sampling(temperature=temperature, top_p=1.0 if top_p is None else top_p)
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens must be at least 1, got {max_tokens}")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed}")
    if not prompt:
        raise UserError("the prompt is empty; give at least one character to continue")
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_decoder(checkpoint, trust)
    tokenizer = opened.tokenizer
    if tokenizer is None:
        raise CheckpointError(
            f"{opened.path} holds no tokenizer, so a prompt cannot be encoded; "
            "put the model's tokenizer.json there"
        )
    ids = [*opened.begin, *(int(i) for i in tokenizer.encode([prompt])[0])]
    if max(ids) >= opened.vocabulary:
        raise CheckpointError(
            f"{opened.path}: the tokenizer gives id {max(ids)}, the model has only {opened.vocabulary}; "
            "they do not belong together"
        )
    limit = _room(len(ids), max_tokens, opened.max_tokens)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    meter, speaker, tokens, pieces = Meter(), Speaker(tokenizer), [], []
    written = decode(
        opened.model.to(device),
        ids,
        max_tokens=limit,
        sampling=sampling,
        seed=seed,
        end=opened.end,
        meter=meter,
        device=device,
    )
    for token in written:
        tokens.append(token)
        pieces.append(speaker.text_of(token))
        if write is not None:
            write(pieces[-1])
    pieces.append(speaker.close())
    if write is not None:
        write(pieces[-1])
    return Generation(
        prompt=prompt,
        text="".join(pieces),
        tokens=tokens,
        tokens_per_second=meter.step_rate,
        prefill_tokens_per_second=meter.prefill_rate,
        state_bytes=meter.state_bytes,
        seed=seed,
        ended=meter.ended,
    )


def _room(prompt: int, requested: int | None, longest: int) -> int:
    """New tokens to write.

    Raises: UserError when prompt and new tokens exceed what the model was built for.
    """
    room = longest - prompt
    if room < 1:
        raise UserError(
            f"the prompt takes {prompt} tokens and the model was built for {longest}; "
            f"shorten it to at most {longest - 1}"
        )
    if requested is not None and requested > room:
        raise UserError(
            f"the prompt takes {prompt} tokens and {requested} more exceed the {longest} this model was "
            f"built for; ask for at most {room}"
        )
    return min(room, DEFAULT_TOKENS) if requested is None else requested


class Speaker:
    """Text of ids, piece by piece.

    Bytes of an unfinished character wait for the tokens that complete it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pieces = tokenizer.pieces()
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def text_of(self, token: int) -> str:
        # a table padded beyond its tokenizer has ids that mean nothing
        return self.decoder.decode(self.pieces[token] if token < len(self.pieces) else b"")

    def close(self) -> str:
        return self.decoder.decode(b"", final=True)
