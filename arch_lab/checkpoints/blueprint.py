"""Settings of a stored model, validated before any memory is allocated.

A header can be edited or damaged. So each value is checked first, the model is laid out without memory, and
its parameters are compared with the tensors of the file; only then is memory taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.models import Decoder, Model, Recipe, Shape, recipe, require_kind
from blocks.errors import ConfigError, UserError
from blocks.registry import TrustError

LARGEST = 2**31 - 1  # of any whole number in a header
MOST_OPTIONS, DEEPEST = 10_000, 20  # values in the options, and how deep they may be nested
SPARE = 2**28  # bytes of buffers a model may hold beyond what its file does
SIZES = ("width", "depth", "ffn_width")


def read_blueprint(content: Mapping[str, Any], origin: str) -> Blueprint:
    """The settings of a model, each of the right type and size.

    Raises: CheckpointError naming the first that is not.
    """
    for name in ("architecture", "options", *SIZES, "vocabulary", "max_tokens"):
        if name not in content:
            raise CheckpointError(f"{origin}: its settings lack {name!r}, so the model cannot be rebuilt")
    architecture, options = content["architecture"], content["options"]
    if not isinstance(architecture, str) or len(architecture) > 100:
        raise CheckpointError(f"{origin}: architecture {_short(architecture)} is not a name")
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise CheckpointError(f"{origin}: options {_short(options)} are not a mapping")
    _check_options(options, origin)
    numbers = {name: _integer(content[name], name, origin) for name in (*SIZES, "vocabulary", "max_tokens")}
    return Blueprint(
        architecture=architecture,
        options=options,
        shape=Shape(**{name: numbers[name] for name in SIZES}),
        vocabulary=numbers["vocabulary"],
        max_tokens=numbers["max_tokens"],
    )


def recipe_of(blueprint: Blueprint, origin: str) -> Recipe:
    """The architecture with the stored options.

    Raises: ConfigError for an unknown name or option.
    """
    try:
        return recipe(blueprint.architecture, blueprint.options)
    except UserError as error:
        raise _with_origin(error, origin) from None
    except Exception as error:
        raise _no_model(origin, error) from None


def lay_out(blueprint: Blueprint, origin: str, tensors: int) -> Model:
    """The model on the meta device.

    ``tensors``: number of tensors in the file; each layer needs at least one.
    Raises: UserError, one line, for settings that describe no model, or a deeper one than the file can fill.
    """
    model_recipe = recipe_of(blueprint, origin)
    encoder = blueprint.options.get("encoder")  # of an encoder-decoder with a stack of another size
    for depth in (blueprint.shape.depth, encoder.get("depth") if isinstance(encoder, dict) else None):
        if isinstance(depth, (int, float)) and depth > max(tensors, 1):
            raise CheckpointError(
                f"{origin}: depth {depth:,} does not fit the file, which holds {tensors} tensors"
            )
    try:
        config = model_recipe.config(
            blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens
        )
        return config.build("meta")
    except UserError as error:
        raise _with_origin(error, origin) from None
    # an option of the right type may still make no model: a head of 0 channels, a negative window
    except Exception as error:
        raise _no_model(origin, error) from None


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Compare the tensors of a file with the parameters of a model.

    Raises: CheckpointError for the first tensor that is missing, superfluous, or of another shape or kind.
    """
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise CheckpointError(
                f"{origin}: tensor {name!r} is missing ({len(expected)} needed, {len(tensors)} present)"
            )
        stored = tensors[name]
        if stored.shape != value.shape:
            raise CheckpointError(
                f"{origin}: tensor {name!r} has shape {list(stored.shape)}, "
                f"its settings say {list(value.shape)}"
            )
        if (stored.is_floating_point(), stored.is_complex()) != (
            value.is_floating_point(),
            value.is_complex(),
        ):
            raise CheckpointError(f"{origin}: tensor {name!r} is {_dtype(stored)}, expected {_dtype(value)}")
    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise CheckpointError(f"{origin}: tensor {extra[0]!r} is not part of this model ({len(extra)} such)")


def build_filled(blueprint: Blueprint, tensors: Mapping[str, Tensor], origin: str) -> Model:
    """The model in evaluation mode with these weights.

    Raises: UserError, one line, when they do not fit each other.
    """
    layout = lay_out(blueprint, origin, len(tensors))
    check_tensors(layout, tensors, origin)
    _check_memory(layout, tensors, origin)
    try:
        # initial values are drawn and replaced; nobody's random numbers move
        with torch.random.fork_rng(devices=[]):
            model_recipe = recipe_of(blueprint, origin)
            model = model_recipe.model(
                blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens
            )
        model.load_state_dict(dict(tensors))
    except UserError as error:
        raise _with_origin(error, origin) from None
    except Exception as error:
        raise _no_model(origin, error) from None
    return model.eval()


def refuse_non_decoder(model_recipe: Recipe, origin: str) -> None:
    """Raises: ConfigError unless the architecture predicts the next token of a text."""
    require_kind(model_recipe, "decoder", f"{origin}: ")


def require_decoder(model: Model, origin: str) -> Decoder:
    """``model``, which must predict the next token. Raises: ConfigError."""
    if not isinstance(model, Decoder) or not model.causal:
        raise ConfigError(
            f"{origin}: {type(model).__name__} is bidirectional: it sees the tokens it would have to predict"
        )
    return model


def _check_memory(layout: Model, tensors: Mapping[str, Tensor], origin: str) -> None:
    needed = sum(value.numel() * value.element_size() for value in (*layout.parameters(), *layout.buffers()))
    stored = sum(value.numel() * max(4, value.element_size()) for value in tensors.values())
    if needed > stored + SPARE:
        raise CheckpointError(
            f"{origin}: its settings need {needed:,} bytes of memory, but its tensors have only {stored:,}"
        )


def _check_options(options: dict[Any, Any], origin: str) -> None:
    pending: list[tuple[Any, int]] = [(options, 0)]
    for count in range(MOST_OPTIONS):
        if not pending:
            return
        value, depth = pending.pop()
        if depth > DEEPEST:
            raise CheckpointError(f"{origin}: options are nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            _check_names(value, origin)
            pending += [(inner, depth + 1) for inner in list(value.values())[: MOST_OPTIONS - count]]
        elif isinstance(value, (list, tuple)):
            pending += [(inner, depth + 1) for inner in value[: MOST_OPTIONS - count]]
        else:
            _check_option(value, origin)
    raise CheckpointError(f"{origin}: options hold more than {MOST_OPTIONS:,} values")


def _check_names(options: dict[Any, Any], origin: str) -> None:
    wrong = [name for name in options if not isinstance(name, str)]
    if wrong:
        raise CheckpointError(f"{origin}: option {_short(wrong[0])} is not a name")


def _check_option(value: Any, origin: str) -> None:
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise CheckpointError(f"{origin}: options hold a {type(value).__name__}, expected plain values")
    if (isinstance(value, int) and abs(value) > LARGEST) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise CheckpointError(
            f"{origin}: options hold {_short(value)}, expected finite numbers up to {LARGEST:,}"
        )


def _integer(value: Any, name: str, origin: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise CheckpointError(f"{origin}: {name} {_short(value)} is not a whole number from 1 to {LARGEST:,}")
    return value


def _with_origin(error: UserError, origin: str) -> UserError:
    """The same refusal, beginning with the file it is about."""
    kind = type(error) if isinstance(error, (TrustError, CheckpointError)) else ConfigError
    return kind(f"{origin}: {error}")


def _no_model(origin: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(
        f"{origin}: its settings describe no model that can be built ({type(error).__name__}: {reason})"
    )


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, endless nesting
        text = f"a {type(value).__name__} too large to print"
    return text if len(text) <= 60 else f"{text[:57]}…"
