#!/usr/bin/env bash
# Composer 0.32.1's EarlyStopper begins anew in each resumed training: one that is resumed often never stops.
#
# A checkpoint holds the state of all callbacks, but EarlyStopper gives none of it: neither the best value nor when that
# was seen. The first evaluation after each resumption counts as the best, however bad, and the patience begins again
# there. A training whose score falls from the start stops as it should when it runs through, and goes on to its end when
# it is interrupted and resumed more often than the patience lasts. Installing Composer takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" mosaicml==0.32.1 torch==2.7.0 numpy==2.1.3
cd "$folder"
CUDA_VISIBLE_DEVICES='' "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON' | tee "$folder/seen"
import torch
from composer import ComposerModel, Trainer, __version__
from composer.callbacks import EarlyStopper
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric


class Model(ComposerModel):
    """One weight, from which each batch takes 0.25; its score is that weight, so it falls in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)
        self.score = MeanMetric()

    def forward(self, batch):
        return self.layer(batch)

    def loss(self, outputs, batch):
        return outputs.sum()

    def eval_forward(self, batch, outputs=None):
        return self(batch)

    def get_metrics(self, is_train=False):
        return {} if is_train else {"score": self.score}

    def update_metric(self, batch, outputs, metric) -> None:
        metric.update(outputs)


def train(folder, epochs, load_path=None):
    model, stopper = Model(), EarlyStopper("score", "eval", patience="2ep")
    trainer = Trainer(
        model=model,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.25),
        train_dataloader=DataLoader(torch.ones(1, 1)),
        eval_dataloader=DataLoader(torch.ones(1, 1)),
        max_duration=f"{epochs}ep",
        callbacks=[stopper],
        save_folder=folder,
        load_path=load_path,
        device="cpu",
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return f"{trainer.state.timestamp.epoch.value} of {epochs} epochs, best score {stopper.best.item()}"


print(f"composer {__version__}, patience of 2 epochs")
print(f"without interruption: {train('whole', 8)}")
print(f"the first 2 epochs: {train('parts', 2)}")
for epochs in (4, 6, 8):
    print(f"resumed: {train('parts', epochs, 'parts/latest-rank0.pt')}")
PYTHON
diff "$folder/seen" - <<'SEEN'
composer 0.32.1, patience of 2 epochs
without interruption: 4 of 8 epochs, best score 0.75
the first 2 epochs: 2 of 2 epochs, best score 0.75
resumed: 4 of 4 epochs, best score 0.25
resumed: 6 of 6 epochs, best score -0.25
resumed: 8 of 8 epochs, best score -0.75
SEEN
