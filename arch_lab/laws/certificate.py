"""The certificate of a causal model: no score of a model is written before it is shown to ignore the future.

The model is copied in float64 with parameters of order 1 and run in both modes at the lengths that train and
are scored. docs/certificate.md says what is checked, why, and what cannot be seen;
``arch_lab.laws.examination`` runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from torch import nn

from arch_lab.laws.examination import examine
from arch_lab.laws.probe import MODES, preserved_random_state
from arch_lab.laws.scope import Failure, Leak, Scope
from arch_lab.laws.tolerances import MODEL
from arch_lab.stored import Json
from blocks.errors import UserError
from blocks.user_code import describe

__all__ = ["PROTOCOL", "Certificate", "LeakError", "certificate_line", "certify_model", "require_causal"]

PROTOCOL = 3  # raised with every change of what is probed: certificates of another protocol are not kept
UNKNOWN_LENGTH = 48  # tokens probed where nobody says how long rows are
BATCH = 4

CLAIMS = {
    "objective": (
        "hidden tokens do not appear in the input; rows, documents and padding do not affect each other"
    ),
    "images": "images of a batch do not affect each other",
    "": "no output depends on later tokens",
}


class LeakError(UserError):
    """A model whose past depends on its future (or on nothing): it gets no metric."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was checked and what came out. ``leak`` is set where the model is not causal.

    ``positions``: first changed tokens at each length, both modes together; ``flops``: of all checks, by the
    blocks' formulas.
    """

    passed: bool
    protocol: int = PROTOCOL
    lengths: tuple[int, ...]
    whole_model_lengths: tuple[int, ...] = ()  # where all layers ran, not only one of each configuration
    modes: tuple[str, ...] = tuple(mode.name for mode in MODES)
    positions: dict[str, list[int]] = field(default_factory=dict)
    least_lengths: tuple[int, ...] = ()  # where a row is so expensive that only the mixers ran
    dtype: str = "float64"
    threshold: float = MODEL.bound
    flops: float = 0.0
    leak_ratio: float
    gradient_ratio: float
    prefix_ratio: float
    live_ratio: float
    noise_in_training: bool = False
    blocks: tuple[str, ...]
    leak: Leak | None = None
    reason: str = ""

    def to_dict(self) -> Json:
        """Plain JSON values, None for a number that was not measured."""
        return {name: _finite_or_none(value) for name, value in asdict(self).items()}


def require_causal(
    model: nn.Module,
    *,
    vocabulary: int,
    lengths: Sequence[int],
    training_length: int | None = None,
    batch: int | None = None,
    name: str = "the model",
) -> Certificate:
    """The certificate of ``model``, which must pass before any score of it is shown.

    ``lengths``: tokens of the rows it is scored on; ``training_length``: of those it trains on; ``batch``:
    rows of a step. Raises: LeakError, one line with block, positions, length and mode.
    """
    certificate = certify_model(
        model,
        vocabulary=vocabulary,
        lengths=lengths,
        training_length=training_length,
        batch=batch,
    )
    if not certificate.passed:
        raise LeakError(f"refused: {name}: {certificate.reason}; no score is written")
    return certificate


def certify_model(
    model: nn.Module,
    *,
    vocabulary: int,
    lengths: Iterable[int] = (),
    training_length: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Certificate:
    """Run the protocol on copies of ``model``. A failure has ``passed`` False and a reason."""
    longest = getattr(getattr(model, "config", None), "max_tokens", None)
    targets = {*lengths, *([training_length] if training_length else [])} or {UNKNOWN_LENGTH}
    targets = {min(n, longest) if longest else n for n in targets}
    with preserved_random_state(seed):
        scope = Scope(model, targets, vocabulary=vocabulary, longest=longest, batch=batch or BATCH, seed=seed)
        failure = _failure(model, scope)
    return _certificate(model, scope, failure)


def _failure(model: nn.Module, scope: Scope) -> Failure | None:
    try:
        examine(model, scope)
    except Failure as failure:
        return failure
    except Exception as error:  # the model's own code: anything may happen in it, and none of it may train
        return Failure(f"the model raised an error{scope.findings.stage}: {describe(error)}")
    return None


def _certificate(model: nn.Module, scope: Scope, failure: Failure | None) -> Certificate:
    findings = scope.findings
    return Certificate(
        passed=failure is None,
        lengths=tuple(scope.lengths),
        whole_model_lengths=tuple(findings.whole_model_lengths),
        positions=findings.positions,
        least_lengths=tuple(findings.sparse_lengths),
        flops=findings.flops,
        leak_ratio=findings.leak,
        gradient_ratio=findings.gradient,
        prefix_ratio=findings.prefix,
        live_ratio=findings.live,
        noise_in_training=findings.noisy,
        blocks=_block_names(model),
        leak=None if failure is None else failure.leak,
        reason="" if failure is None else failure.reason,
    )


def _block_names(model: nn.Module) -> tuple[str, ...]:
    children = [child for layer in getattr(model, "layers", []) for child in layer.named_children()]
    return tuple(sorted({type(child).__name__ for name, child in children if name in ("mixer", "channel")}))


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def certificate_line(facts: Mapping[str, Any]) -> str:
    """One line about a certificate that passed: its claim, lengths and positions, and the largest change."""
    lengths, modes = facts["lengths"], facts.get("modes", ())
    longest = max(lengths)
    details = [f"{len(lengths)} lengths up to {longest} tokens" if len(lengths) > 1 else f"{longest} tokens"]
    details += [" and ".join(modes) + " mode"] if modes else []
    positions = facts.get("positions", {}).get(str(longest))
    every = "all " if positions and len(positions) == longest - 1 else ""
    details += [f"{every}{len(positions)} positions in the longest row"] if positions else []
    sparse = facts.get("least_lengths", ())
    details += [f"mixers only from {min(sparse)} tokens on"] if sparse else []
    if facts.get("flops"):
        details.append(f"{facts['flops']:.1e} FLOPs")
    details[-1] += f"; {_largest_change(facts['leak_ratio'], facts['threshold'])}"
    return f"{CLAIMS[facts.get('kind', '')]} ({', '.join(details)})"


def _largest_change(size: float, bound: float) -> str:
    if not size:
        return "not a bit changed"
    return f"largest change {size:.0e} of the scale, rounding; a leak starts at {bound:.0e}"
