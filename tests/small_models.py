"""Small models with random weights that find something."""

import torch

from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.settings import DetectorSettings, MaskRCNNSettings


def detectron2_module():
    """A model of Detectron2's style that finds objects; its colors are not those of noise, nor its scores alike."""
    torch.manual_seed(0)
    settings = MaskRCNNSettings(
        backbone="resnet18", style="detectron2", norm="frozen_batch", min_size=64, detections_per_image=9
    )
    module = build_mask_rcnn(3, settings).eval()
    with torch.no_grad():
        module.backbone.body.bn1.weight.mul_(0.02)
        module.roi_heads.box_predictor.cls_score.weight.mul_(20)
    return module


BOXES_ALONE = ("faster_rcnn", "retinanet", "fcos")


def box_detector(name, **settings):
    """A detector of two categories that finds boxes alone, in every image nine."""
    torch.manual_seed(0)
    chosen = {"box_score_thresh": 0.0, "detections_per_image": 9} | settings
    return build_detector(3, DetectorSettings(name=name, backbone="small", **chosen)).eval()
