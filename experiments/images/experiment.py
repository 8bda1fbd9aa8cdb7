"""Images: classification of small pictures cut into patches, scored in cross-entropy and accuracy, beside a
linear model.

The learning rate is chosen on images held out from the training split, the numbers come from the test split.
A token is a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Baseline
from arch_lab.study.training_study import TrainingExperiment
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError
from experiments.images.certificate import ImageCertificate, certify_images
from experiments.images.data import ImagesConfig, PreparedImages, prepare_images

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    import lightning.pytorch as pl

    from experiments.images.model import ImageDataModule, ImageModel


@dataclass(frozen=True, kw_only=True)
class ImageObjective(Config):
    """``label_smoothing``: the share of a label's weight that all classes share while training (0.1 in
    Hyena's recipe).
    """

    label_smoothing: Annotated[
        float,
        Bounds(minimum=0, below=1),
        Doc("Label smoothing: share of the target spread over all classes in training."),
    ] = 0.0


MEASURES = (
    Measure(
        key="cross_entropy",
        name="nats per image",
        short="nats",
        meaning="The cross-entropy: minus the natural logarithm of the probability that the model gives the right class, averaged "
        "over the images; guessing among ten classes gives 2.303. Lower is better.",
    ),
    Measure(
        key="top1_accuracy",
        name="top-1 accuracy",
        short="top-1 ↑",
        higher_is_better=True,
        meaning="The share of images whose class scores highest. Higher is better.",
    ),
    Measure(
        key="top5_accuracy",
        name="top-5 accuracy",
        short="top-5 ↑",
        higher_is_better=True,
        meaning="The share of images whose class is among the five that score highest. Higher is better.",
    ),
    Measure(
        key="images_per_second",
        name="training images per second",
        short="images/s ↑",
        higher_is_better=True,
        meaning="From the median training step, with the optimizer and without data loading. Higher is better.",
    ),
)


class Images(TrainingExperiment):
    """Classification of pictures that are cut into patches."""

    measures = MEASURES
    kind = "image_classifier"
    objective = ImageObjective
    data = ImagesConfig

    def resolve(self, config: Any) -> Any:
        """The length of a row is the number of patches, and every arm is built for the images of the set."""
        image_set, tokens = config.data.set, config.data.tokens
        length = config.training.sequence_length
        if length not in (tokens, type(config.training)().sequence_length):
            raise ConfigError(
                f"study {config.name!r}: training.sequence_length is {length}, but an image of {image_set.height} x {image_set.width} "
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

        options = ImageObjective.from_options(spec.objective, where="objective")
        return ImageModel(label_smoothing=options.label_smoothing, **spec.settings())

    def datamodule(self, spec: Any, data: PreparedImages) -> ImageDataModule:
        from experiments.images.model import ImageDataModule

        return ImageDataModule(data, batch=spec.training.batch_size, seed=spec.seed, steps=spec.steps)

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        from arch_lab.training.callbacks import RunLog

        speed = self.measures[-1]
        log = next(callback for callback in trainer.callbacks if isinstance(callback, RunLog))  # type: ignore[attr-defined]
        images = datamodule.batch / log.median_step_seconds()  # type: ignore[attr-defined]
        return {**super().scores(trainer, module, datamodule), speed.key: images}

    def baselines(self, config: Any, data: PreparedImages) -> list[Baseline]:
        from experiments.images.baselines import image_baselines

        return image_baselines(data)


EXPERIMENT = Images()
