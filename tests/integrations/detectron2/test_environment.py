"""That the tests beside this one meet a whole Detectron2."""

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model


def test_a_model_of_the_zoo_is_built_and_finds_objects():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PIXEL_STD = [1e4] * 3  # random weights make numbers of these images that are not finite otherwise
    image = torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        [found] = build_model(cfg).eval()([{"image": image}])
    assert len(found["instances"]) > 0
    assert found["instances"].pred_masks.shape[1:] == (96, 128)
