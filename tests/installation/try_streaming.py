"""The extra ``streaming``: shards are written, and read like the files they are of."""

import torch
from data_set import copypaste, write_data_set

from composer_copypaste import CocoInstances, StreamingCocoInstances

if __name__ == "__main__":
    images, annotations = write_data_set()
    copypaste("shard", "shards", "--images", str(images), "--annotations", str(annotations))
    streamed = StreamingCocoInstances("shards")
    assert len(streamed) == 4
    for (image, target), (other_image, other_target) in zip(CocoInstances(images, annotations), streamed, strict=True):
        assert torch.equal(image, other_image)
        assert torch.equal(target["masks"], other_target["masks"])
