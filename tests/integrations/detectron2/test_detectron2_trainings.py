"""Detectron2's own trainers, with a small Mask R-CNN and drawn data, with and without copy-paste."""

import json
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, hooks
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.modeling.backbone import ResNet
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter
from forked_runs import leave_process_group
from small_detectron2 import SIDE, small_cfg
from torch.nn.parallel import DistributedDataParallel

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.integrations.detectron2.trainers import CopyPasteHook
from composer_copypaste.settings import ShapesSettings

ITERATIONS = 10
TRAIN, VAL = "trainings_train", "trainings_val"
LOSSES = ("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
CALM = {"SOLVER.BASE_LR": 1e-4, "MODEL.PIXEL_STD": [1e3] * 3}
"""Random weights, without the statistics of a trained backbone, make large numbers of images."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Drawn data, in Detectron2's catalog."""
    folder = draw_shapes(
        ShapesSettings(folder=str(tmp_path_factory.mktemp("data") / "shapes"), train=8, val=2, size=64)
    )
    for name, split in ((TRAIN, "train"), (VAL, "val")):
        register_coco_instances(name, {}, str(folder / f"annotations/instances_{split}.json"), str(folder / split))
    yield folder
    for name in (TRAIN, VAL):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(shapes, tmp_path):
    cfg = small_cfg(4)
    cfg.merge_from_list([part for pair in CALM.items() for part in pair])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,)
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.MASK_FORMAT = 0, "bitmask"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, ITERATIONS
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SEED = 3
    return cfg


class Evaluated(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def losses(folder):
    """The parts of the loss of each iteration, as Detectron2 wrote them."""
    rows = [json.loads(line) for line in (Path(folder) / "losses.json").read_text().splitlines()]
    return torch.tensor([[row[name] for name in LOSSES] for row in rows if LOSSES[0] in row])


def writer(folder):
    return hooks.PeriodicWriter([JSONWriter(str(Path(folder) / "losses.json"), window_size=1)], period=1)


def by_default_trainer(cfg, *added):
    seed_all_rng(3)
    trainer = Evaluated(cfg)
    trainer.register_hooks([*added, writer(cfg.OUTPUT_DIR)])
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == ITERATIONS


def by_simple_trainer(cfg, *added, kind=SimpleTrainer, wrapped=lambda model: model):
    seed_all_rng(3)
    model = build_model(cfg)
    loader = build_detection_train_loader(cfg)
    trainer = kind(wrapped(model), loader, torch.optim.SGD(model.parameters(), lr=1e-4))
    trainer.register_hooks([*added, writer(cfg.OUTPUT_DIR)])
    trainer.train(0, ITERATIONS)


def by_amp_trainer(cfg, *added):
    by_simple_trainer(cfg, *added, kind=AMPTrainer)


def by_distributed_model(cfg, *added):
    if torch.distributed.is_initialized():  # by a training of Composer before
        leave_process_group()
    store = Path(cfg.OUTPUT_DIR) / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        by_simple_trainer(cfg, *added, wrapped=lambda model: DistributedDataParallel(model, broadcast_buffers=False))
    finally:
        leave_process_group()


def by_lazy_configuration(cfg, *added):
    """As tools/lazyconfig_train_net.py does it, with a baseline of large-scale jitter made small."""
    configs = Path(detectron2.__file__).parent / "model_zoo/configs"
    lazy = LazyConfig.load(str(configs / "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"))
    stages = LazyCall(ResNet.make_default_stages)(depth=18, norm="BN")
    lazy.model.backbone.bottom_up.update(stages=stages, stem={**lazy.model.backbone.bottom_up.stem, "norm": "BN"})
    mapper = lazy.dataloader.train.mapper
    mapper.augmentations[0].update(target_height=SIDE, target_width=SIDE)
    mapper.augmentations[1].update(crop_size=(SIDE, SIDE), seg_pad_value=0)
    overrides = [
        f"dataloader.train.dataset.names={TRAIN}",
        "dataloader.train.mapper.instance_mask_format=bitmask",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.backbone.norm=BN",
        "model.proposal_generator.head.conv_dims=[-1]",
        "model.roi_heads.num_classes=4",
        "model.roi_heads.batch_size_per_image=32",
        "model.roi_heads.box_head.conv_dims=[]",
        "model.roi_heads.box_head.fc_dims=[32]",
        "model.roi_heads.box_predictor.input_shape.channels=32",
        "model.roi_heads.mask_head.conv_dims=[16,16]",
        "optimizer.lr=0.0001",
        "train.device=cpu",
        f"train.max_iter={ITERATIONS}",
    ]
    lazy = LazyConfig.apply_overrides(lazy, overrides)
    lazy.model.roi_heads.mask_head.conv_norm = ""
    seed_all_rng(3)
    model = instantiate(lazy.model).to(lazy.train.device)
    lazy.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(lazy.dataloader.train), instantiate(lazy.optimizer))
    schedule = hooks.LRScheduler(scheduler=instantiate(lazy.lr_multiplier))
    trainer.register_hooks([*added, schedule, writer(cfg.OUTPUT_DIR)])
    trainer.train(0, lazy.train.max_iter)


TRAINERS = [by_default_trainer, by_simple_trainer, by_amp_trainer, by_distributed_model, by_lazy_configuration]


@pytest.mark.parametrize("train", TRAINERS)
def test_every_trainer_pastes_and_one_that_does_not_paste_learns_as_before(train, cfg, tmp_path, monkeypatch):
    if train is by_amp_trainer and not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # its steps run on a CPU, without scaling
    found = {}
    for name, added in (("without", []), ("p=0", [CopyPasteHook(p=0.0)]), ("p=1", [CopyPasteHook(p=1.0)])):
        cfg.OUTPUT_DIR = str(tmp_path / name)
        Path(cfg.OUTPUT_DIR).mkdir()
        train(cfg, *added)
        found[name] = losses(cfg.OUTPUT_DIR)
        assert found[name].shape == (ITERATIONS, len(LOSSES))
        assert found[name].isfinite().all()
    torch.testing.assert_close(found["p=0"], found["without"], rtol=0, atol=1e-5)
    assert not torch.allclose(found["p=1"], found["without"], rtol=1e-2)
