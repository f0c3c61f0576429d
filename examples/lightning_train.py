"""Train a Mask R-CNN with Lightning, where copy-paste is a callback.

python examples/lightning_train.py photos/train train.json
"""

import click
import lightning.pytorch as pl  # pip install 'composer-copypaste[lightning]'
import torch

from composer_copypaste import CocoInstances, CopyPasteCallback, DetectorSettings, build_detector, training_dataloader


class Detector(pl.LightningModule):
    """Torchvision's Mask R-CNN; nothing in it knows of copy-paste."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = build_detector(num_classes, DetectorSettings(backbone="small"))

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        images, targets = batch
        loss = sum(self.model([image / 255 for image in images], targets).values())
        self.log("loss", loss, prog_bar=True, batch_size=len(targets))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(images: str, annotations: str, epochs: int = 1) -> pl.Trainer:
    data = CocoInstances(images, annotations)
    copy_paste = CopyPasteCallback(p=0.5, warmup="10%dur", bank_size=100, seed=0)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[copy_paste], log_every_n_steps=1)
    trainer.fit(Detector(len(data.categories) + 1), training_dataloader(data, batch_size=2))
    return trainer  # its checkpoints resume copy-paste too, with its seed and bank


if __name__ == "__main__":
    files = [click.Argument([name], type=click.Path(exists=True)) for name in ("images", "annotations")]
    click.Command(None, callback=train, params=files, help=__doc__, no_args_is_help=True)()
