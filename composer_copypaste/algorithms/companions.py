"""Which of Composer's algorithms cannot run on detection targets, and why."""

from collections.abc import Sequence

from composer.algorithms import (
    AugMix,
    ColOut,
    CutMix,
    LabelSmoothing,
    MixUp,
    ProgressiveResizing,
    RandAugment,
    SelectiveBackprop,
)
from composer.core import Algorithm

UNFIT: dict[type[Algorithm], str] = {
    LabelSmoothing: "it smooths a tensor of class labels, and the losses of a detector take none; leave it out",
    MixUp: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    CutMix: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    AugMix: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    RandAugment: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    ColOut: "it takes rows and columns out of images, and boxes and masks would not follow; leave it out",
    ProgressiveResizing: "it resizes images, and boxes and masks would not follow; LargeScaleJitter resizes them too",
    SelectiveBackprop: "it chooses images by the loss of each, and a detector has one for the batch; leave it out",
}


def check_companions(algorithms: Sequence[Algorithm]) -> None:
    """Raise ``ValueError`` where one of them cannot run on detection targets."""
    for kind, reason in UNFIT.items():
        if any(isinstance(algorithm, kind) for algorithm in algorithms):
            raise ValueError(f"algorithms: {kind.__name__} does not go with detection targets: {reason}")
