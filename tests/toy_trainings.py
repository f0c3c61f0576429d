"""Trainings of a model that learns nothing, on made images, for the tests of algorithms and callbacks."""

import hashlib

import torch
from composer import Callback, DataSpec, Event, Trainer
from composer.models import ComposerModel
from torch.utils.data import DataLoader

from composer_copypaste.integrations.composer.data_spec import num_samples, split_batch

SIZE = 64
IMAGES = 8


class Toy(ComposerModel):
    """Learns nothing, and keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.evaluated = []

    def forward(self, batch):
        self.seen.append(batch)
        return self.weight * 1.0

    def loss(self, outputs, batch, *args):
        return outputs

    def eval_forward(self, batch, outputs=None):
        self.evaluated.append(batch)
        return torch.zeros(())

    def get_metrics(self, is_train):
        return {}

    def update_metric(self, batch, outputs, metric):
        pass


class Watcher(Callback):
    """Notes at which events the batch changes."""

    def __init__(self):
        self.batches = {}

    def run_event(self, event, state, logger):
        if state.batch is not None and event in (Event.AFTER_DATALOADER, Event.BATCH_START, Event.BATCH_END):
            self.batches[event] = state.batch


def make_image(number, size=SIZE):
    """An image of its own color with two squares, the second a little smaller."""
    image = torch.full((3, size, size), 20 * number, dtype=torch.uint8)
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[0, 4:20, 4 + number : 20 + number] = 1
    masks[1, 40:50, 30 + number : 44 + number] = 1
    boxes = torch.tensor([[4.0 + number, 4.0, 20.0 + number, 20.0], [30.0 + number, 40.0, 44.0 + number, 50.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks, "image_id": torch.tensor(number)}
    return image + 100 * masks.amax(0), target


def as_pair(samples):
    """Images in one tensor, and targets."""
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


def as_list(samples):
    return list(as_pair(samples))


def unsplit(batch, size):
    return [batch]


def targets_of(batch):
    return len(batch[1])


def loader(batch_size=4, *, collate=as_pair, split=split_batch, count=num_samples, images=IMAGES, crowds=False):
    """Batches of made images."""
    samples = [make_image(number) for number in range(images)]
    for _, target in samples:
        target["iscrowd"] = torch.full((2,), int(crowds))
    return DataSpec(
        DataLoader(samples, batch_size=batch_size, collate_fn=collate),
        split_batch=split,
        get_num_samples_in_batch=count,
    )


def fit(*algorithms, model=None, batches=None, duration="4ba", **options):
    """The model after a training; the trainer's options may be replaced."""
    model = model or Toy()
    trainer = Trainer(
        model=model,
        train_dataloader=batches or loader(),
        optimizers=torch.optim.SGD(model.parameters(), lr=0.01),
        algorithms=list(algorithms),
        max_duration=duration,
        progress_bar=False,
        **{"device": "cpu", "seed": 5, "loggers": [], **options},
    )
    trainer.fit()
    trainer.close()
    return model


def checksum(batch):
    """Of the bytes of its images, boxes, labels and masks."""
    images, targets = batch
    tensors = list(images) + [target[key] for target in targets for key in ("boxes", "labels", "masks")]
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def checksums(model):
    return [checksum(batch) for batch in model.seen]


def pasted_in(batch):
    """The number of pasted objects."""
    return sum(int(target["pasted"].sum()) for target in batch[1])


def of_two_sizes(samples):
    """Images in a list, every other one larger, and targets."""
    other = [make_image(int(target["image_id"]), SIZE + 8 * (i % 2)) for i, (_, target) in enumerate(samples)]
    return [image for image, _ in other], [target for _, target in other]


def as_semantic(samples):
    """Images and maps of class ids, each in one tensor."""
    images, targets = as_pair(samples)
    return images, torch.stack([(t["masks"] * t["labels"][:, None, None]).amax(0).long() for t in targets])
