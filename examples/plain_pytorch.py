"""Train a Mask R-CNN in a plain PyTorch loop, in one process or in several.

torchrun --nproc-per-node 2 examples/plain_pytorch.py photos/train train.json  # for one process, python in its place
"""

import os

import click
import torch

from composer_copypaste import CocoInstances, DetectorSettings, build_detector, copypaste_batch, training_dataloader
from composer_copypaste.functional.generators import batch_generator


def train(images: str, annotations: str, epochs: int = 1, seed: int = 0) -> None:
    rank, device = int(os.environ.get("RANK", "0")), torch.device("cpu")  # torchrun sets these variables
    if torch.cuda.is_available():
        torch.cuda.set_device(device := torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    torch.manual_seed(seed)
    data = CocoInstances(images, annotations)
    model = build_detector(len(data.categories) + 1, DetectorSettings(backbone="small")).to(device)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo" if device.type == "cpu" else "nccl")
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = training_dataloader(data, batch_size=2, seed=seed)  # each process gets its own part of the data
    for batch, (pixels, targets) in enumerate(one for _ in range(epochs) for one in loader):
        targets = [{key: values.to(device) for key, values in target.items()} for target in targets]
        generator = batch_generator(seed, rank, batch)  # other random numbers in each process and batch
        pixels, targets = copypaste_batch([image.to(device) for image in pixels], targets, generator=generator, p=0.5)
        losses = model([image / 255 for image in pixels], targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        print(f"process {rank}, batch {batch}: {sum(losses.values()):.3f}")


if __name__ == "__main__":
    files = [click.Argument([name], type=click.Path(exists=True)) for name in ("images", "annotations")]
    click.Command(None, callback=train, params=files, help=__doc__, no_args_is_help=True)()
