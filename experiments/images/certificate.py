"""The certificate of an image classifier: no metric for a model whose answer about one image depends on
another.

Legend: B images, C channels, H x W pixels.
Float64, on a copy of the built model with parameters re-drawn at order 1, in evaluation and in training mode:
the scores of an image are the same alone, in a batch and beside other images (statistics over a batch would
break this), they are finite, and they react to every patch (a dead or a half-blind model cannot pass). That
train and test images differ is not its business: the data's summary counts those that are the same.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from arch_lab.laws.moves import TINY
from arch_lab.laws.probe import EVALUATION, MODES, TRAINING, preserved_random_state, redraw
from arch_lab.laws.tolerances import MODEL, MODEL_LIVE
from arch_lab.models.image import ImageClassifier


@dataclass(frozen=True, kw_only=True)
class ImageCertificate:
    """``leak_ratio``: how far other images move the scores of one; ``live_ratio``: how far its least heard
    patch does.
    """

    passed: bool
    kind: str = "images"
    lengths: tuple[int, ...]
    modes: tuple[str, ...] = tuple(mode.name for mode in MODES)
    dtype: str = "float64"
    threshold: float = MODEL.bound
    leak_ratio: float
    live_ratio: float
    reason: str = ""

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@torch.no_grad()
def certify_images(model: ImageClassifier) -> ImageCertificate:
    """Run the protocol on a copy of ``model``. A failure has ``passed`` False and a reason."""
    probe = copy.deepcopy(model).double().eval()
    config, embedding = model.config, model.config.embedding
    with preserved_random_state(0):
        redraw(probe)
        images = torch.randn(3, embedding.channels, *config.image, dtype=torch.float64)
        others = torch.cat([images[:1], torch.randn(2, *images.shape[1:], dtype=torch.float64)])
        # calls of one shape start from the same random numbers: dropout is the same before and after
        trained = [_seeded(probe.train(), batch) for batch in (images, others)]
    probe.eval()
    scores = probe(images)
    leak = max(
        _moved(probe(images[:1]), scores[:1]),
        _moved(probe(others)[:1], scores[:1]),
        _moved(probe(images.flip(0)).flip(0), scores),
    )
    training_leak = _moved(trained[1][:1], trained[0][:1])
    live, patch = _least_heard(probe, images[:1], embedding.patch)
    reason = _reason(scores, leak, training_leak, live, patch)
    return ImageCertificate(
        passed=not reason,
        lengths=(config.max_tokens,),
        leak_ratio=max(leak, training_leak),
        live_ratio=live,
        reason=reason,
    )


def _reason(scores: Tensor, leak: float, training_leak: float, live: float, patch: int) -> str:
    """Why the model does not pass; empty when it does."""
    worst = max(leak, training_leak)
    if not scores.isfinite().all():
        return "scores are not finite"
    if not worst <= MODEL.bound:
        mode = TRAINING if leak <= MODEL.bound else EVALUATION
        return (
            f"scores of an image depend on the other images of its batch ({worst:.1e} of the scale, {mode})"
        )
    if not live >= MODEL_LIVE.bound:
        return f"scores do not react to patch {patch}: the model ignores it"
    return ""


def _seeded(model: ImageClassifier, images: Tensor) -> Tensor:
    torch.manual_seed(0)
    scores: Tensor = model(images)
    return scores


def _moved(scores: Tensor, expected: Tensor) -> float:
    largest = torch.nan_to_num((scores - expected).abs(), nan=float("inf")).max().item()
    return largest / max(expected.abs().max().item(), TINY)


def _least_heard(model: ImageClassifier, image: Tensor, patch: int) -> tuple[float, int]:
    """(how far the scores move, number of the patch) for the patch that moves them least, all patches in one
    batch.
    """
    h, w = image.shape[-2] // patch, image.shape[-1] // patch
    changed = image.repeat(h * w, 1, 1, 1)
    for t in range(h * w):
        y, x = divmod(t, w)
        changed[t, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] += 1
    base = model(image)
    moved = torch.nan_to_num((model(changed) - base).abs().amax(dim=1), nan=0.0) / max(
        base.abs().max().item(), TINY
    )
    least = int(moved.argmin())
    return moved[least].item(), least
