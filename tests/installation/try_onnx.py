"""The extra ``onnx``: a model is exported, checked by onnxruntime, and read again without torch's model."""

from pathlib import Path

import torch
from data_set import batch

from composer_copypaste import DetectorSettings, build_detector, export_onnx, load_predictor

if __name__ == "__main__":
    torch.manual_seed(0)
    settings = DetectorSettings(name="mask_rcnn", backbone="small", min_size=64, max_size=64, box_score_thresh=0.0)
    model = build_detector(3, settings).eval()
    differences = export_onnx(model, Path("model.onnx"), categories=["nut", "fig"], images=list(batch()[0]))
    print(differences)
    predictor = load_predictor(Path("model.onnx"))
    assert [category.name for category in predictor.categories.values()] == ["nut", "fig"]
