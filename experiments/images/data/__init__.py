"""Labelled images on disk: readers, splits, storage, the order of batches and augmentation."""

from experiments.images.data.config import ImagesConfig, ImageSet
from experiments.images.data.order import ImageBatch, ImageLoader, ImageOrder, scoring_batches
from experiments.images.data.prepare import ImageSplit, PreparedImages, prepare_images

__all__ = [
    "ImageBatch",
    "ImageLoader",
    "ImageOrder",
    "ImageSet",
    "ImageSplit",
    "ImagesConfig",
    "PreparedImages",
    "prepare_images",
    "scoring_batches",
]
