"""Trainings of a model that learns nothing by Detectron2's loop, on made images."""

import torch
from detectron2.engine import SimpleTrainer
from toy_trainings import make_image

from composer_copypaste.integrations.detectron2.batches import detectron2_batch

IMAGES = 8
BATCH_SIZE = 4


class Seen(torch.nn.Module):
    """Keeps what it is given, and has a weight that changes by what it saw."""

    input_format = "BGR"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, batch):
        self.batches.append(batch)
        return {"loss": self.weight * sum(entry["image"].float().mean() for entry in batch)}


def made_batches(first=0):
    """Endless batches of two squares an image, from this iteration on."""
    while True:
        made = [make_image((BATCH_SIZE * first + i) % IMAGES) for i in range(BATCH_SIZE)]
        yield detectron2_batch(*zip(*made, strict=True))
        first += 1


def train(*hooks, iterations=4, start=0, model=None, batches=None, wrapped=lambda model: model):
    """The model after a training by Detectron2's ``SimpleTrainer``."""
    model = model or Seen()
    batches = made_batches(start) if batches is None else batches
    trainer = SimpleTrainer(wrapped(model), batches, torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.register_hooks(list(hooks))
    trainer.train(start, start + iterations)
    return model


def fields_of(entry):
    """Image, boxes, classes and planes of masks of an entry."""
    instances = entry["instances"]
    return entry["image"], instances.gt_boxes.tensor, instances.gt_classes, instances.gt_masks.tensor


def same_batches(one, other):
    """Whether two lists of batches hold the same images and objects."""
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for batch, others in zip(one, other, strict=True)
        for entry, counterpart in zip(batch, others, strict=True)
        for a, b in zip(fields_of(entry), fields_of(counterpart), strict=True)
    )
