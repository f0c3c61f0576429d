#!/usr/bin/env bash
# Composer 0.32.1's EMA, averaging once an epoch, changes the training itself where checkpoints are saved within epochs.
#
# EMA lets the model have the averaged weights while a checkpoint is saved, and takes the trained ones back only when the
# next batch starts. At an epoch's last batch the average is computed in between: it then pulls the trained weights towards
# the averaged ones, instead of the other way round. Nothing warns of it, and how often one saves decides what is trained.
# For the same reason the model has averaged weights after the training where something was saved last, and else not.
# Installing Composer takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" mosaicml==0.32.1 torch==2.7.0 numpy==2.1.3
cd "$folder"
CUDA_VISIBLE_DEVICES='' "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON' | tee "$folder/seen"
import torch
from composer import Callback, ComposerModel, Trainer, __version__
from composer.algorithms import EMA
from torch.utils.data import DataLoader


class Model(ComposerModel):
    """One weight, from which each batch takes 0.25."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def forward(self, batch):
        return self.layer(batch)

    def loss(self, outputs, batch):
        return outputs.sum()


class Weights(Callback):
    """Keeps the weight that each batch is computed with."""

    def __init__(self) -> None:
        self.seen = []

    def before_forward(self, state, logger) -> None:
        self.seen.append(state.model.layer.weight.item())


def train(save_interval):
    model, weights = Model(), Weights()
    saving = {} if save_interval is None else {"save_folder": save_interval, "save_interval": save_interval}
    trainer = Trainer(
        model=model,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.25),
        train_dataloader=DataLoader(torch.ones(2, 1)),
        max_duration="4ep",
        algorithms=[EMA(half_life="1ep")],
        callbacks=[weights],
        device="cpu",
        progress_bar=False,
        **saving,
    )
    trainer.fit()
    trainer.close()
    return weights.seen, model.layer.weight.item()


print(f"composer {__version__}, 4 epochs of 2 batches, half-life of the average: 1 epoch")
for save_interval, name in {None: "nothing saved", "1ep": "saved each epoch", "1ba": "saved each batch"}.items():
    seen, last = train(save_interval)
    print(f"{name}: trained {seen}, afterwards {last}")
PYTHON
diff "$folder/seen" - <<'SEEN'
composer 0.32.1, 4 epochs of 2 batches, half-life of the average: 1 epoch
nothing saved: trained [1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5, -0.75], afterwards -1.0
saved each epoch: trained [1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5, -0.75], afterwards -0.5625
saved each batch: trained [1.0, 0.75, 0.5, 0.25, 0.25, 0.0, 0.125, -0.125], afterwards 0.5
SEEN
