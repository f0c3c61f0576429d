"""Train Mask2Former of Transformers on rows of Hugging Face's datasets that have the column `objects`.

python examples/hugging_face_train.py train.parquet 80  # the number of classes
"""

import click
import torch
from datasets import Dataset  # pip install datasets transformers
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig  # pip install transformers

from composer_copypaste import copypaste_batch, large_scale_jitter_batch
from composer_copypaste.integrations.hugging_face import mask2former_labels, sample_from_row

SWIN = SwinConfig(embed_dim=24, depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"])


def collate(rows: list[dict]) -> dict:
    images, targets = zip(*map(sample_from_row, rows), strict=True)  # labels from 1
    images, targets = large_scale_jitter_batch(images, targets, size=(128, 128))  # all of one size
    images, targets = copypaste_batch(images, targets, p=0.5, scale_range=(1.0, 1.0))
    return {"pixel_values": images / 255, **mask2former_labels(targets)}  # classes from 0 again


def train(parquet: str, num_classes: int = 80) -> None:
    config = Mask2FormerConfig(backbone_config=SWIN, hidden_dim=64, num_queries=50, num_labels=num_classes)
    model = Mask2FormerForUniversalSegmentation(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows = Dataset.from_parquet(parquet)
    for batch in torch.utils.data.DataLoader(rows, batch_size=2, shuffle=True, collate_fn=collate):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{sum(map(len, batch['class_labels']))} objects, loss {loss.item():.3f}")


if __name__ == "__main__":
    file, count = click.Argument(["parquet"], type=click.Path(exists=True)), click.Argument(["num_classes"], default=80)
    click.Command(None, callback=train, params=[file, count], help=__doc__, no_args_is_help=True)()
