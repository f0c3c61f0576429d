#!/usr/bin/env bash
# transformers 5.24.0: masks that MaskFormer and Mask2Former train on are 255 where a picture was padded: the loss is below 0.
#
# The image processor pads the pictures of a batch to one size, and the mask of each object with ignore_index. But a mask
# has 0 and 1: ignore_index is a value of the map that the masks are made of. With 255, as is usual for it and needed where
# the background is 0 and do_reduce_labels leaves it out, all padding counts 255 times as object. The loss looks at it: it
# starts below 0, and falls without end while the model learns that padding is an object. Installing torch takes some
# gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" transformers==5.24.0 torch==2.7.0 \
  torchvision==0.22.0 numpy==2.2.6 scipy==1.16.3
CUDA_VISIBLE_DEVICES='' "$folder/venv/bin/python" -W ignore - 2> /dev/null <<'PYTHON' | tee "$folder/seen"
import numpy as np
import torch
import transformers

OPTIONS = {"size": {"shortest_edge": 32, "longest_edge": 64}, "do_reduce_labels": True, "ignore_index": 255}
PROCESSORS = (transformers.MaskFormerImageProcessor, transformers.Mask2FormerImageProcessor)


def batch_of(processor, shapes):
    """Black pictures with one object, number 1 of class 1, on 16 x 16 pixels."""
    maps = [np.zeros(shape, np.int64) for shape in shapes]
    for found in maps:
        found[8:24, 8:24] = 1
    pictures = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    return processor(pictures, maps, instance_id_to_semantic_id={1: 1}, return_tensors="pt")


def tiny_model():
    torch.manual_seed(0)
    stages = {"depths": [1] * 4, "num_heads": [1] * 4, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    backbone = transformers.SwinConfig(image_size=64, embed_dim=16, window_size=2, **stages)
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    widths = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "num_attention_heads": 2}
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_queries=5, num_labels=1, **layers, **widths)
    return transformers.Mask2FormerForUniversalSegmentation(config).train()


def losses(batch, steps=30):
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def describe(loss):
    return "above 0" if loss > 0 else "below -1000" if loss < -1000 else "below 0"


print(f"transformers {transformers.__version__}")
wide, high = (32, 64), (64, 32)
for kind in PROCESSORS:
    for name, shapes in {"two wide pictures": [wide, wide], "a wide and a high one": [wide, high]}.items():
        masks = batch_of(kind(**OPTIONS), shapes)["mask_labels"]
        values = [sorted(map(int, mask.unique())) for mask in masks]
        print(f"{kind.__name__}, {name}: values of the masks {values}")
batch = batch_of(PROCESSORS[1](**OPTIONS), [wide, high])
mended = {**batch, "mask_labels": [torch.where(mask == 255, 0, mask) for mask in batch["mask_labels"]]}
for name, trained in {"as padded": batch, "with 0 instead of 255": mended}.items():
    first, *_, last = losses(trained)
    print(f"Mask2Former, masks {name}: first loss {describe(first)}, after 30 steps {describe(last)}")
PYTHON
diff "$folder/seen" - <<'SEEN'
transformers 5.24.0
MaskFormerImageProcessor, two wide pictures: values of the masks [[0, 1], [0, 1]]
MaskFormerImageProcessor, a wide and a high one: values of the masks [[0, 1, 255], [0, 1, 255]]
Mask2FormerImageProcessor, two wide pictures: values of the masks [[0, 1], [0, 1]]
Mask2FormerImageProcessor, a wide and a high one: values of the masks [[0, 1, 255], [0, 1, 255]]
Mask2Former, masks as padded: first loss below 0, after 30 steps below -1000
Mask2Former, masks with 0 instead of 255: first loss above 0, after 30 steps above 0
SEEN
