"""Train or evaluate a model of Detectron2, with copy-paste: Detectron2's tools/train_net.py and one line more.

It takes what that script takes, and the settings of copy-paste as keys of the configuration:

    python examples/detectron2_train.py --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml \
        --num-gpus 8 SOLVER.MAX_ITER 90000 COPY_PASTE.P 0.5

    python examples/detectron2_train.py --config-file ... --num-gpus 8 --resume
    python examples/detectron2_train.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth

Data sets of your own, as COCO files, get names for DATASETS.TRAIN and DATASETS.TEST:

    python examples/detectron2_train.py --data fruits annotations/train.json images/train --config-file ... \
        DATASETS.TRAIN '("fruits",)' MODEL.ROI_HEADS.NUM_CLASSES 3
"""

import os
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from detectron2.checkpoint import DetectionCheckpointer  # built from source: https://detectron2.readthedocs.io
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, verify_results
from detectron2.utils import comm

from composer_copypaste import CopyPasteSettings
from composer_copypaste.integrations.detectron2.trainers import CopyPasteHook


class Trainer(DefaultTrainer):
    """Detectron2's trainer, with COCO's metrics."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """What scores the detections on a data set."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def argument_parser() -> ArgumentParser:
    """Detectron2's arguments, and data sets by name."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--data",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "ANNOTATIONS", "IMAGES"),
        help="a COCO data set",
    )
    return parser


def configuration(args: Namespace) -> CfgNode:
    """Detectron2's configuration, with a section COPY_PASTE that holds copy-paste's settings in upper case."""
    cfg = get_cfg()
    cfg.COPY_PASTE = CfgNode({name.upper(): value for name, value in asdict(CopyPasteSettings()).items()})
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args: Namespace) -> object:
    """Train, or evaluate, in one of the processes; what the evaluation found."""
    for name, annotations, images in args.data:
        register_coco_instances(name, {}, annotations, images)
    cfg = configuration(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.register_hooks([CopyPasteHook(**{name.lower(): value for name, value in cfg.COPY_PASTE.items()})])
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
