"""Labelled images on disk: readers, splits, storage, the order of batches and augmentation."""

from arch_lab.data.images.config import ImagesConfig, ImageSet
from arch_lab.data.images.order import ImageLoader, ImageOrder, scoring_batches
from arch_lab.data.images.prepare import ImageSplit, PreparedImages, prepare_images

__all__ = [
    "ImageLoader",
    "ImageOrder",
    "ImageSet",
    "ImageSplit",
    "ImagesConfig",
    "PreparedImages",
    "prepare_images",
    "scoring_batches",
]
