"""Measure the share of copy-paste in a training step of Mask R-CNN.

    python benchmarks/step.py [--backbone small] [--size 128] [--batch-size 4] [--instances 10] [--rounds 5] [--bf16]

A step is forward, backward and the optimizer's step, on the GPU if there is one: by default a ResNet-50 at 1024 pixels,
16 images, 20 objects each. On a CPU, a small model on one thread is measured. The model trains on the result of
copy-paste, with up to twice as many objects. Images and masks are on the device from the start.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from batches import LABELS, Case, draw_batch
from measure import best_seconds, keep_freed_memory

from composer_copypaste import CopyPasteSettings, MaskRCNN, copypaste_batch

WAYS = {
    "no jitter": CopyPasteSettings(p=1.0, scale_range=(1.0, 1.0), p_flip=0.0),
    "paper's jitter": CopyPasteSettings(p=1.0),
}


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="resnet50" if on_gpu else "small", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=1024 if on_gpu else 128, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16 if on_gpu else 4, help="default: %(default)s")
    parser.add_argument("--instances", type=int, default=20 if on_gpu else 10, help="default: %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=5, help="take the best of this many rounds (default: %(default)s)"
    )
    parser.add_argument("--bf16", action="store_true", help="train under autocast to bfloat16")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure a training step and copy-paste on one batch, and print the shares."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = draw_batch(Case(options.batch_size, options.size, options.instances), device)
    pasted = copypaste_batch(
        batch.images, batch.targets, settings=WAYS["no jitter"], generator=torch.Generator().manual_seed(0)
    )
    model = MaskRCNN(LABELS + 1, backbone=options.backbone, min_size=options.size, max_size=options.size).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            losses = model.loss(model(pasted), pasted)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    ways = {name: partial(copypaste_batch, batch.images, batch.targets, settings=how) for name, how in WAYS.items()}
    seconds = best_seconds({"training step": step, **ways}, options.rounds)
    print(
        f"{options.backbone}, {options.batch_size} x {options.size} x {options.size} x {options.instances} objects, "
        f"{device.type}, {'bfloat16' if options.bf16 else 'float32'}"
    )
    print(f"training step             {seconds['training step'] * 1e3:9.2f} ms")
    for name in WAYS:
        share = seconds[name] / (seconds[name] + seconds["training step"])
        print(f"copy-paste, {name:14}{seconds[name] * 1e3:9.2f} ms, {share:.1%} of both")


if __name__ == "__main__":
    main()
