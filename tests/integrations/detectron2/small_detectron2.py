"""A small Mask R-CNN of Detectron2, and a data set for it."""

import torch
from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file

NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SIDE = 64
SMALL = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "INPUT.MIN_SIZE_TRAIN": (SIDE,),
    "INPUT.MIN_SIZE_TEST": SIDE,
    "TEST.DETECTIONS_PER_IMAGE": 20,
}


def small_cfg(num_classes):
    """The configuration as Detectron2's users make it."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(NAME))
    cfg.merge_from_list([part for pair in SMALL.items() for part in pair])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def rectangles(size, boxes, labels):
    """The target of objects that fill their boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
    }


def small_batch():
    """Two images of unequal sizes, the second without objects."""
    pixels = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=pixels) for size in ((64, 80), (70, 64))]
    targets = [
        rectangles((64, 80), [(20, 10, 50, 30), (5, 40, 25, 60)], [2, 3]),
        rectangles((70, 64), [], []),
    ]
    return images, targets
