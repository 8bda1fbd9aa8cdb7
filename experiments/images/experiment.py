"""Images: classification of small pictures cut into patches, scored in cross-entropy and accuracy, beside a linear model.

The learning rate is chosen on images held out from the training split, the numbers come from the test split. A token is a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from arch_lab.judge.measures import IMAGES
from arch_lab.models import require_kind
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError
from experiments.images.certificate import ImageCertificate, certify_images
from experiments.images.data import ImagesConfig, PreparedImages, prepare_images

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    import lightning.pytorch as pl

    from experiments.images.model import ImageDataModule, ImageModel


@dataclass(frozen=True, kw_only=True)
class ImageObjective(Config):
    """``label_smoothing``: the share of a label's weight that all classes share while training (0.1 in Hyena's recipe)."""

    label_smoothing: Annotated[
        float,
        Bounds(minimum=0, below=1),
        Doc("Label smoothing: share of the target spread over all classes in training."),
    ] = 0.0


class Images:
    """The experiment as the study engine sees it (arch_lab.study.experiment.Experiment)."""

    measures = IMAGES
    causal = False
    objective = ImageObjective
    data = ImagesConfig

    def resolve(self, config: Any) -> Any:
        """The length of a row is the number of patches, and every arm is built for the images of the set."""
        image_set, tokens = config.data.set, config.data.tokens
        given = config.training.sequence_length
        if given not in (tokens, type(config.training)().sequence_length):
            raise ConfigError(
                f"study {config.name!r}: training.sequence_length is {given}, but an image of {image_set.height} x {image_set.width} "
                f"pixels in patches of {config.data.patch} is {tokens} tokens; leave it out"
            )
        size = {
            "image": [image_set.height, image_set.width],
            "channels": image_set.channels,
            "patch": config.data.patch,
        }
        for arm in config.arms:
            twice = sorted(set(size) & set(arm.options))
            if any(arm.options[name] != size[name] for name in twice):
                raise ConfigError(
                    f"study {config.name!r}, arm {arm.name!r}: {twice[0]} is set by the data and is the same for every arm"
                )
            # before the arm is given the size of images, for which a recipe of text has no option
            require_kind(arm.recipe(), "image_classifier", f"experiment 'images', arm {arm.name!r}: ")
        arms = [replace(arm, options={**size, **arm.options}) for arm in config.arms]
        return replace(config, arms=arms, training=replace(config.training, sequence_length=tokens))

    def vocabulary(self, data: Any) -> int:
        return len(data.set.classes)

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> PreparedImages:
        data = prepare_images(config.data, cache, progress=progress)
        data.train.require(config.training.batch_size, f"one batch of {config.training.batch_size}")
        return data

    def certify(self, model: Any, config: Any, data: PreparedImages) -> ImageCertificate:
        return certify_images(model)

    def module(self, spec: Any) -> ImageModel:
        from experiments.images.model import ImageModel

        chosen = self.objective.from_options(spec.objective, where="objective")
        return ImageModel(label_smoothing=chosen.label_smoothing, **spec.settings())

    def datamodule(self, spec: Any, data: PreparedImages) -> ImageDataModule:
        from experiments.images.model import ImageDataModule

        return ImageDataModule(data, batch=spec.training.batch_size, seed=spec.seed, steps=spec.steps)

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        from arch_lab.training.callbacks import RunLog

        (tune,) = trainer.validate(module, datamodule=datamodule, verbose=False)
        (final,) = trainer.test(module, datamodule=datamodule, verbose=False)
        primary, speed = self.measures[0], self.measures[-1]
        log = next(callback for callback in trainer.callbacks if isinstance(callback, RunLog))  # type: ignore[attr-defined]
        images = datamodule.batch / log.median_step_seconds()  # type: ignore[attr-defined]
        scored = {m.key: final[f"final/{m.key}"] for m in self.measures if m is not speed}
        return {**scored, speed.key: images, primary.tuned: tune[f"tune/{primary.key}"]}

    def baselines(self, config: Any, data: PreparedImages) -> list[dict[str, Any]]:
        from experiments.images.baselines import image_baselines

        return image_baselines(data)


EXPERIMENT = Images()
