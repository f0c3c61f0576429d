"""Folders of runs with random weights, for what loads a model."""

import json

import torch

from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.settings import MaskRCNNSettings

NUT, FIG = {"id": 5, "name": "nut"}, {"id": 3, "name": "fig"}


def save_weights(path):
    """The weights of a small model of three classes."""
    torch.manual_seed(0)
    torch.save(build_mask_rcnn(3, MaskRCNNSettings(backbone="small")).state_dict(), path)


def small_run(folder, found=6):
    """A run's folder, whose labels 1 and 2 are the categories 5 and 3; its model finds ``found`` objects anywhere."""
    (folder / "checkpoints").mkdir(parents=True)
    save_weights(folder / "checkpoints/ep1-ba1-rank0.pt")
    (folder / "checkpoints/latest-rank0.pt").symlink_to("ep1-ba1-rank0.pt")
    settings = f"model: {{box_score_thresh: 0.0, detections_per_image: {found}}}\ndata: {{eval_batch_size: 2}}\n"
    (folder / "recipe.yaml").write_text(f"base: quickstart\n{settings}")
    (folder / "categories.json").write_text(json.dumps([NUT, FIG]))
    return folder
