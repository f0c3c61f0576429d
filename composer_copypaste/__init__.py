"""Copy-paste augmentation on the training device, and Mask R-CNN with COCO mAP, for MosaicML Composer.

The public names are loaded on first use: importing Composer takes seconds, and ``copypaste --help`` does not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer_copypaste.algorithms.copypaste import CopyPaste as CopyPaste
    from composer_copypaste.algorithms.large_scale_jitter import LargeScaleJitter as LargeScaleJitter
    from composer_copypaste.data.check_images import check_images as check_images
    from composer_copypaste.data.coco import CocoAnnotations as CocoAnnotations
    from composer_copypaste.data.coco import CocoInstances as CocoInstances
    from composer_copypaste.data.cutouts import CutOutPool as CutOutPool
    from composer_copypaste.data.loaders import SkipsWhatIsDone as SkipsWhatIsDone
    from composer_copypaste.data.loaders import evaluation_loader as evaluation_loader
    from composer_copypaste.data.loaders import training_loader as training_loader
    from composer_copypaste.data.streaming import StreamingCocoInstances as StreamingCocoInstances
    from composer_copypaste.data.transforms import LargeScaleJitterTransform as LargeScaleJitterTransform
    from composer_copypaste.functional.bank import InstanceBank as InstanceBank
    from composer_copypaste.functional.batch import NothingPastedWarning as NothingPastedWarning
    from composer_copypaste.functional.batch import copypaste_batch as copypaste_batch
    from composer_copypaste.functional.batch import plan_batch as plan_batch
    from composer_copypaste.functional.keypoints import keypoint_pairs as keypoint_pairs
    from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch as large_scale_jitter_batch
    from composer_copypaste.functional.plan import PastePlan as PastePlan
    from composer_copypaste.instances import Instances as Instances
    from composer_copypaste.metrics.coco import CocoMeanAveragePrecision as CocoMeanAveragePrecision
    from composer_copypaste.models.detector import MaskRCNN as MaskRCNN
    from composer_copypaste.settings import CopyPasteSettings as CopyPasteSettings
    from composer_copypaste.settings import ImageSettings as ImageSettings
    from composer_copypaste.settings import LargeScaleJitterSettings as LargeScaleJitterSettings
    from composer_copypaste.settings import MaskRCNNSettings as MaskRCNNSettings
    from composer_copypaste.training_pictures import TrainingPictures as TrainingPictures

__version__ = "0.1.0"

_HOMES = {
    "CocoAnnotations": "data.coco",
    "CocoInstances": "data.coco",
    "CocoMeanAveragePrecision": "metrics.coco",
    "CopyPaste": "algorithms.copypaste",
    "CopyPasteSettings": "settings",
    "InstanceBank": "functional.bank",
    "ImageSettings": "settings",
    "Instances": "instances",
    "CutOutPool": "data.cutouts",
    "LargeScaleJitter": "algorithms.large_scale_jitter",
    "LargeScaleJitterSettings": "settings",
    "LargeScaleJitterTransform": "data.transforms",
    "MaskRCNN": "models.detector",
    "MaskRCNNSettings": "settings",
    "NothingPastedWarning": "functional.batch",
    "PastePlan": "functional.plan",
    "SkipsWhatIsDone": "data.loaders",
    "StreamingCocoInstances": "data.streaming",
    "TrainingPictures": "training_pictures",
    "check_images": "data.check_images",
    "copypaste_batch": "functional.batch",
    "evaluation_loader": "data.loaders",
    "keypoint_pairs": "functional.keypoints",
    "large_scale_jitter_batch": "functional.large_scale_jitter",
    "plan_batch": "functional.batch",
    "training_loader": "data.loaders",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
