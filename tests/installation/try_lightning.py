"""The extra ``lightning``: the callback pastes in a training of Lightning's ``Trainer``."""

import torch
from data_set import batch
from lightning.pytorch import LightningModule, Trainer

from composer_copypaste import CopyPasteCallback


class Recorder(LightningModule):
    """Learns nothing, and keeps how many objects each image has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.objects: list[int] = []

    def training_step(self, batch: list, batch_idx: int) -> torch.Tensor:
        """The loss, which is always 0."""
        self.objects += [len(target["labels"]) for target in batch[1]]
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    module, callback = Recorder(), CopyPasteCallback(p=1.0, p_instance=1.0, scale_range=(1.0, 1.0), p_flip=0.0)
    loader = torch.utils.data.DataLoader([batch()], batch_size=None)
    Trainer(max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False).fit(module, loader)
    assert module.objects == [2, 2], module.objects
