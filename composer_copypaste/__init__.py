"""Copy-paste augmentation on the training device, and Mask R-CNN with COCO mAP, for MosaicML Composer and other loops.

The public names are loaded on first use: importing torch takes seconds, and ``copypaste --help`` does not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer_copypaste.compact_masks import CompactMasks as CompactMasks
    from composer_copypaste.data.annotation_file import AnnotationFile as AnnotationFile
    from composer_copypaste.data.category_weights import rare_category_weights as rare_category_weights
    from composer_copypaste.data.coco_json import CocoAnnotations as CocoAnnotations
    from composer_copypaste.data.collate import CopyPasteTransform as CopyPasteTransform
    from composer_copypaste.data.cutouts import CutOutPool as CutOutPool
    from composer_copypaste.data.dataset import CocoInstances as CocoInstances
    from composer_copypaste.data.image_files import check_images as check_images
    from composer_copypaste.data.leaks import find_leaks as find_leaks
    from composer_copypaste.data.loaders import evaluation_dataloader as evaluation_dataloader
    from composer_copypaste.data.loaders import training_dataloader as training_dataloader
    from composer_copypaste.data.merge import merge_annotations as merge_annotations
    from composer_copypaste.data.splits import draw_fractions as draw_fractions
    from composer_copypaste.data.splits import split_annotations as split_annotations
    from composer_copypaste.data.streaming.dataset import StreamingCocoInstances as StreamingCocoInstances
    from composer_copypaste.data.subsets import subset_annotations as subset_annotations
    from composer_copypaste.data.subsets import write_subset as write_subset
    from composer_copypaste.data.transforms import LargeScaleJitterTransform as LargeScaleJitterTransform
    from composer_copypaste.functional.bank import InstanceBank as InstanceBank
    from composer_copypaste.functional.copypaste import NothingPastedWarning as NothingPastedWarning
    from composer_copypaste.functional.copypaste import copypaste_batch as copypaste_batch
    from composer_copypaste.functional.copypaste import plan_batch as plan_batch
    from composer_copypaste.functional.info import PasteInfo as PasteInfo
    from composer_copypaste.functional.keypoints import keypoint_pairs as keypoint_pairs
    from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch as large_scale_jitter_batch
    from composer_copypaste.functional.plan import PastePlan as PastePlan
    from composer_copypaste.instances import Instances as Instances
    from composer_copypaste.integrations.composer.algorithms import CopyPaste as CopyPaste
    from composer_copypaste.integrations.composer.algorithms import LargeScaleJitter as LargeScaleJitter
    from composer_copypaste.integrations.composer.callbacks import SkipTrainedSamples as SkipTrainedSamples
    from composer_copypaste.integrations.composer.callbacks import TrainingPictures as TrainingPictures
    from composer_copypaste.integrations.composer.data_spec import evaluation_data_spec as evaluation_data_spec
    from composer_copypaste.integrations.composer.data_spec import training_data_spec as training_data_spec
    from composer_copypaste.integrations.composer.model import Detector as Detector
    from composer_copypaste.integrations.composer.model import MaskRCNN as MaskRCNN
    from composer_copypaste.integrations.detectron2.model import Detectron2Model as Detectron2Model
    from composer_copypaste.integrations.detectron2.trainers import CopyPasteHook as CopyPasteHook
    from composer_copypaste.integrations.detectron2.trainers import LargeScaleJitterHook as LargeScaleJitterHook
    from composer_copypaste.integrations.lightning import CopyPasteCallback as CopyPasteCallback
    from composer_copypaste.metrics.bootstrap import bootstrap_difference as bootstrap_difference
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision as CocoMeanAveragePrecision
    from composer_copypaste.metrics.matches import EvaluationMatches as EvaluationMatches
    from composer_copypaste.models.detectors import build_detector as build_detector
    from composer_copypaste.models.prediction import Prediction as Prediction
    from composer_copypaste.models.predictor import Predictor as Predictor
    from composer_copypaste.recipes.ablation import load_ablation as load_ablation
    from composer_copypaste.runs.ablation.run import run_ablation as run_ablation
    from composer_copypaste.runs.augment.run import AugmentedData as AugmentedData
    from composer_copypaste.runs.augment.run import augment_data_set as augment_data_set
    from composer_copypaste.runs.evaluation.results import evaluate_predictions as evaluate_predictions
    from composer_copypaste.runs.export import export_onnx as export_onnx
    from composer_copypaste.runs.export import export_torchscript as export_torchscript
    from composer_copypaste.runs.export_detectron2 import export_detectron2 as export_detectron2
    from composer_copypaste.runs.info.describe import describe_file as describe_file
    from composer_copypaste.runs.predict.predict import predict as predict
    from composer_copypaste.runs.predict.run import predict_files as predict_files
    from composer_copypaste.runs.predictor import load_predictor as load_predictor
    from composer_copypaste.runs.preview.run import preview as preview
    from composer_copypaste.runs.preview.run import preview_batches as preview_batches
    from composer_copypaste.settings import AugmentSettings as AugmentSettings
    from composer_copypaste.settings import CopyPasteSettings as CopyPasteSettings
    from composer_copypaste.settings import DetectorSettings as DetectorSettings
    from composer_copypaste.settings import ExportSettings as ExportSettings
    from composer_copypaste.settings import ImageSettings as ImageSettings
    from composer_copypaste.settings import LargeScaleJitterSettings as LargeScaleJitterSettings
    from composer_copypaste.settings import MaskRCNNSettings as MaskRCNNSettings
    from composer_copypaste.settings import OfflineCopyPasteSettings as OfflineCopyPasteSettings
    from composer_copypaste.settings import PredictSettings as PredictSettings


__version__ = "0.1.0"

_HOMES = {
    "AnnotationFile": "data.annotation_file",
    "augment_data_set": "runs.augment.run",
    "AugmentedData": "runs.augment.run",
    "AugmentSettings": "settings",
    "bootstrap_difference": "metrics.bootstrap",
    "build_detector": "models.detectors",
    "check_images": "data.image_files",
    "CocoAnnotations": "data.coco_json",
    "CocoInstances": "data.dataset",
    "CocoMeanAveragePrecision": "metrics.coco_map",
    "CompactMasks": "compact_masks",
    "CopyPaste": "integrations.composer.algorithms",
    "copypaste_batch": "functional.copypaste",
    "CopyPasteCallback": "integrations.lightning",
    "CopyPasteHook": "integrations.detectron2.trainers",
    "CopyPasteSettings": "settings",
    "CopyPasteTransform": "data.collate",
    "CutOutPool": "data.cutouts",
    "describe_file": "runs.info.describe",
    "Detector": "integrations.composer.model",
    "DetectorSettings": "settings",
    "Detectron2Model": "integrations.detectron2.model",
    "draw_fractions": "data.splits",
    "evaluate_predictions": "runs.evaluation.results",
    "evaluation_data_spec": "integrations.composer.data_spec",
    "evaluation_dataloader": "data.loaders",
    "EvaluationMatches": "metrics.matches",
    "export_detectron2": "runs.export_detectron2",
    "export_onnx": "runs.export",
    "export_torchscript": "runs.export",
    "ExportSettings": "settings",
    "find_leaks": "data.leaks",
    "ImageSettings": "settings",
    "InstanceBank": "functional.bank",
    "Instances": "instances",
    "keypoint_pairs": "functional.keypoints",
    "large_scale_jitter_batch": "functional.large_scale_jitter",
    "LargeScaleJitter": "integrations.composer.algorithms",
    "LargeScaleJitterHook": "integrations.detectron2.trainers",
    "LargeScaleJitterSettings": "settings",
    "LargeScaleJitterTransform": "data.transforms",
    "load_ablation": "recipes.ablation",
    "load_predictor": "runs.predictor",
    "MaskRCNN": "integrations.composer.model",
    "MaskRCNNSettings": "settings",
    "merge_annotations": "data.merge",
    "NothingPastedWarning": "functional.copypaste",
    "OfflineCopyPasteSettings": "settings",
    "PasteInfo": "functional.info",
    "PastePlan": "functional.plan",
    "plan_batch": "functional.copypaste",
    "predict": "runs.predict.predict",
    "predict_files": "runs.predict.run",
    "Prediction": "models.prediction",
    "Predictor": "models.predictor",
    "PredictSettings": "settings",
    "preview": "runs.preview.run",
    "preview_batches": "runs.preview.run",
    "rare_category_weights": "data.category_weights",
    "run_ablation": "runs.ablation.run",
    "SkipTrainedSamples": "integrations.composer.callbacks",
    "split_annotations": "data.splits",
    "StreamingCocoInstances": "data.streaming.dataset",
    "subset_annotations": "data.subsets",
    "training_data_spec": "integrations.composer.data_spec",
    "training_dataloader": "data.loaders",
    "TrainingPictures": "integrations.composer.callbacks",
    "write_subset": "data.subsets",
}

_NEED = {
    ("composer",): {
        "CopyPaste",
        "Detector",
        "Detectron2Model",
        "evaluation_data_spec",
        "LargeScaleJitter",
        "MaskRCNN",
        "run_ablation",
        "SkipTrainedSamples",
        "training_data_spec",
        "TrainingPictures",
    },
    ("detectron2",): {"CopyPasteHook", "Detectron2Model", "LargeScaleJitterHook"},
    ("lightning", "pytorch_lightning"): {"CopyPasteCallback"},
}
"""Packages, one of which not every installation has, and the names that need it: ``from composer_copypaste import *``
leaves these out where the package is missing; when one of them is asked for, one line says what brings it."""


def __getattr__(name: str) -> object:
    if name == "__all__":  # here, so that importing this package looks for no other
        return _available_names()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _available_names() -> list[str]:
    from composer_copypaste.extras import is_installed

    lacking = set[str]().union(*(names for packages, names in _NEED.items() if not any(map(is_installed, packages))))
    return [name for name in _HOMES if name not in lacking]


def __dir__() -> list[str]:
    return [*globals(), *_available_names()]
