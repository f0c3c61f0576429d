#!/usr/bin/env bash
# Composer 0.32.1 applies a learning-rate schedule one batch late, and its LRMonitor logs one batch more than its losses.
#
# After a batch, the trainer steps the schedulers before it counts the batch, so they see the time of the batch that has
# just ended: the first two batches have the first rate of the schedule (0 in a warm-up, so the weights stand still
# twice), and the last rate is never used. LRMonitor logs after the batch is counted, the loss is logged before it: the
# loss of a batch and its rate stand under the same number, but that of the first batch has no rate, and the last rate
# logged is one that no batch used. Installing Composer takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" mosaicml==0.32.1 torch==2.7.0 numpy==2.1.3
CUDA_VISIBLE_DEVICES='' "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON' | tee "$folder/seen"
import torch
from composer import Callback, ComposerModel, Trainer, __version__
from composer.callbacks import LRMonitor
from composer.loggers import InMemoryLogger
from composer.optim import LinearScheduler
from torch.utils.data import DataLoader


class Model(ComposerModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, batch):
        return self.layer(batch)

    def loss(self, outputs, batch):
        return outputs.square().mean()


class UsedRates(torch.optim.SGD):
    """SGD that keeps the rate of each of its steps."""

    used = []

    def step(self, *args, **kwargs):
        self.used.append(round(self.param_groups[0]["lr"], 3))
        return super().step(*args, **kwargs)


model = Model()
optimizer = UsedRates(model.parameters(), lr=1.0)
log = InMemoryLogger()
trainer = Trainer(
    model=model,
    optimizers=optimizer,
    schedulers=LinearScheduler(alpha_i=0.0, alpha_f=1.0),
    train_dataloader=DataLoader(torch.ones(4, 1)),
    max_duration="4ba",
    callbacks=[LRMonitor()],
    loggers=[log],
    device="cpu",
    progress_bar=False,
)
trainer.fit()
trainer.close()
logged = {time.batch.value: round(float(rate), 3) for time, rate in log.data["lr-UsedRates/group0"]}
losses = [time.batch.value for time, _ in log.data["loss/train/total"]]
print(f"composer {__version__}")
print(f"rates of a linear schedule from 0 to 1 in 4 batches: {[batch / 4 for batch in range(4)]}")
print(f"rates that the optimizer used: {UsedRates.used}")
print(f"logged losses, by batch: {losses}")
print(f"logged rates, by batch: {logged}")
PYTHON
diff "$folder/seen" - <<'SEEN'
composer 0.32.1
rates of a linear schedule from 0 to 1 in 4 batches: [0.0, 0.25, 0.5, 0.75]
rates that the optimizer used: [0.0, 0.0, 0.25, 0.5]
logged losses, by batch: [0, 1, 2, 3]
logged rates, by batch: {1: 0.0, 2: 0.25, 3: 0.5, 4: 0.75}
SEEN
