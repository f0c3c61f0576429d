"""Train the same batches with torchvision's and Detectron2's Mask R-CNN, in Composer and in Detectron2's own loop.

    python benchmarks/detectron2.py [--images 2] [--size 128] [--objects 10] [--steps 2] [--rounds 3]

Detectron2 has to be installed. Each way trains with and without copy-paste. The two models have the same layers: a
ResNet and FPN with frozen normalisation and standard heads, random weights, all trained. On a GPU it is a ResNet-50 at
1024 pixels; on a CPU, on one thread, a ResNet-18 at 128 pixels. Seconds are those of the whole loop, without loading
images: of Composer's ``Trainer.fit`` and of Detectron2's ``SimpleTrainer.train``, with SGD. The two still differ in how
features are pooled: torchvision takes 2 x 2 samples for each, Detectron2 as many as a box has pixels there.

On one CPU thread, torch 2.7, 2 x 128 x 10, best of 3 rounds (processor time; ratios vary by a tenth):

                                       images/s  ratio  peak MiB  ratio
    torchvision, Composer                  0.44   0.54       663   1.26
    Detectron2, Composer                   0.95   1.17       500   0.95
    Detectron2, its own loop               0.81   1.00       528   1.00
    torchvision, Composer, copy-paste      0.37   0.45      1125   2.13
    Detectron2, Composer, copy-paste       0.76   0.93       598   1.13
    Detectron2, its own loop, copy-paste   0.76   0.93       443   0.84

It has not been run on a GPU.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import torch
from batches import LABELS, Batch, Case, draw_batch
from composer import DataSpec, Trainer
from measure import Way, best_seconds, keep_freed_memory, peak_bytes

from composer_copypaste import CopyPaste, MaskRCNN
from composer_copypaste.integrations.composer.data_spec import num_samples, split_batch
from composer_copypaste.integrations.composer.model import InstanceSegmentationModel

OWN_LOOP = "Detectron2, its own loop"
HEADER = f"{'':38}{'images/s':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}"


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=8 if on_gpu else 2, help="in a batch (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1024 if on_gpu else 128, help="pixels (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=20 if on_gpu else 10, help="in an image (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 2, help="timed at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="take the best of so many (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.disable(logging.WARNING)  # Detectron2 logs the end of each training
    compare(Case(options.images, options.size, options.objects), options.steps, options.rounds)


def compare(case: Case, steps: int, rounds: int) -> None:
    """Measure all ways on the same batches, and print a table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    depth = 50 if device.type == "cuda" else 18
    batches = [draw_batch(case, torch.device("cpu"), seed) for seed in range(steps)]
    ways: dict[str, Way] = {}
    for pasting in (False, True):
        torch.manual_seed(0)
        ways[_name("torchvision, Composer", pasting)] = in_composer(
            torchvision_model(depth, case.side), batches, pasting
        )
        ways[_name("Detectron2, Composer", pasting)] = in_composer(detectron2_model(depth, case.side), batches, pasting)
        ways[_name(OWN_LOOP, pasting)] = in_detectron2(detectron2_model(depth, case.side), batches, pasting)
    seconds = best_seconds(ways, rounds)
    memory = {name: peak_bytes(way) for name, way in ways.items()}
    place = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    print(
        f"torch {torch.__version__}, {place}, ResNet-{depth}, batches of {case}, best of {rounds} rounds of "
        f"{steps} steps"
    )
    print(HEADER)
    first, most = seconds[OWN_LOOP], memory[OWN_LOOP]
    for name, took in seconds.items():
        speed = f"{steps * case.images / took:9.2f}{first / took:7.2f}"
        print(f"{name:38}{speed}{_peak(memory[name], most)}")


def _name(way: str, pasting: bool) -> str:
    return f"{way}, copy-paste" if pasting else way


def _peak(peak: int | None, most: int | None) -> str:
    return f"{'-':>10}{'-':>7}" if peak is None or not most else f"{peak / 2**20:10.0f}{peak / most:7.2f}"


def torchvision_model(depth: int, side: int) -> MaskRCNN:
    """Torchvision's, for images of this side, which are not resized."""
    return MaskRCNN(LABELS + 1, backbone=f"resnet{depth}", norm="frozen_batch", min_size=side, max_size=side)


def detectron2_model(depth: int, side: int) -> InstanceSegmentationModel:
    """Detectron2's with the same layers and numbers of samples."""
    from composer_copypaste import Detectron2Model

    overrides = {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if depth >= 50 else 64,
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    }
    return Detectron2Model(num_classes=LABELS + 1, overrides=overrides, weights="none", resize_training=False)


class Loader(list):
    """Batches that are in memory."""

    batch_size = 1


class Endless(Loader):
    """Batches that begin again, as those of Detectron2's loaders do."""

    def __iter__(self) -> Iterator[object]:
        return cycle(super().__iter__())


def in_composer(model: InstanceSegmentationModel, batches: Sequence[Batch], pasting: bool) -> Way:
    """Trains on all batches in Composer's trainer."""
    loader = Loader((batch.images, batch.targets) for batch in batches)
    loader.batch_size = len(batches[0].images)
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(loader, get_num_samples_in_batch=num_samples, split_batch=split_batch),
        optimizers=torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5),
        algorithms=[CopyPaste(p=1.0)] if pasting else [],
        max_duration="1ep",
        device="gpu" if torch.cuda.is_available() else "cpu",
        progress_bar=False,
    )
    trainer.fit()
    return lambda: trainer.fit(duration="1ep")


def in_detectron2(model: InstanceSegmentationModel, batches: Sequence[Batch], pasting: bool) -> Way:
    """Trains on all batches in Detectron2's ``SimpleTrainer``, whose model moves them to its device."""
    from detectron2.engine import SimpleTrainer

    from composer_copypaste.integrations.detectron2.inputs import training_inputs
    from composer_copypaste.integrations.detectron2.trainers import CopyPasteHook

    module = model.module.to("cuda" if torch.cuda.is_available() else "cpu").train()
    entries = [training_inputs(batch.images, batch.targets, "BGR", None) for batch in batches]
    optimizer = torch.optim.SGD([weight for weight in module.parameters() if weight.requires_grad], lr=1e-5)
    trainer = SimpleTrainer(module, Endless(entries), optimizer)
    if pasting:
        trainer.register_hooks([CopyPasteHook(p=1.0, seed=0)])
    return lambda: trainer.train(0, len(entries))


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # where this file would be taken for Detectron2
    main()
