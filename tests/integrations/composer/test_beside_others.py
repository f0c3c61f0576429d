"""Copy-paste beside Composer's own algorithms, each in a real ``Trainer`` with a Mask R-CNN."""

import warnings

import pytest
import torch
from composer import Algorithm, Callback, Event
from composer.algorithms import (
    EMA,
    SAM,
    SWA,
    AugMix,
    ChannelsLast,
    ColOut,
    CutMix,
    CutOut,
    GradientClipping,
    LabelSmoothing,
    MixUp,
    ProgressiveResizing,
    RandAugment,
    SelectiveBackprop,
)
from toy_trainings import IMAGES, Toy, as_semantic, checksum, checksums, fit, loader, pasted_in, targets_of, unsplit

from composer_copypaste import CopyPaste, LargeScaleJitter, MaskRCNN
from composer_copypaste.integrations.composer.algorithms import INCOMPATIBLE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Composer says that SAM cannot resume
    OTHERS = {
        "EMA": EMA(half_life="1ba"),
        "SAM": SAM(),
        "SWA": SWA(swa_start="0.5dur"),
        "ChannelsLast": ChannelsLast(),
        "GradientClipping": GradientClipping("norm", 0.01),
        "CutOut": CutOut(),
    }


class Watcher(Callback):
    """Notes the batches that training starts with, and the gradients that it steps by."""

    def __init__(self):
        self.batches, self.norms = [], []

    def batch_start(self, state, logger):
        self.batches.append(checksum(state.batch))

    def after_train_batch(self, state, logger):
        gradients = [weight.grad for weight in state.model.parameters() if weight.grad is not None]
        self.norms.append(torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients])))


def small_model():
    torch.manual_seed(0)
    return MaskRCNN(num_classes=3, backbone="small", resize_training=False)


def trained(*algorithms):
    """A small model after two batches, and what was seen on the way."""
    watcher = Watcher()
    return fit(*algorithms, model=small_model(), duration="2ba", callbacks=[watcher]), watcher


@pytest.fixture(scope="module")
def alone():
    return trained(CopyPaste(p=1.0))


@pytest.mark.filterwarnings("ignore:SAM has known issues", "ignore:The baseline model was replaced")
@pytest.mark.parametrize("name", OTHERS)
def test_a_mask_rcnn_trains_beside_others_on_the_same_pasted_batches(name, alone):
    model, watcher = trained(CopyPaste(p=1.0), OTHERS[name])
    before = small_model().state_dict()
    changed = [not torch.equal(weights, before[key]) for key, weights in model.state_dict().items()]
    assert sum(changed) > len(changed) / 2
    assert all(weights.isfinite().all() for weights in model.state_dict().values())
    assert (watcher.batches == alone[1].batches) == (name != "CutOut")


def test_the_averaged_weights_follow_the_trained_ones():
    average = EMA(half_life="1ba")
    model, _ = trained(CopyPaste(p=1.0), average)
    key = "module.roi_heads.box_predictor.cls_score.weight"
    trained_weights = dict(model.named_parameters())[key]
    averaged = average.ema_model.named_parameters_dict[key]
    first = dict(small_model().named_parameters())[key]
    assert 0 < (averaged - trained_weights).norm() < (first - trained_weights).norm()


def test_clipped_gradients_have_at_most_the_norm_that_was_given(alone):
    _, watcher = trained(CopyPaste(p=1.0), GradientClipping("norm", 0.01))
    assert min(alone[1].norms) > 0.02
    assert max(watcher.norms) <= 0.01 * 1.0001


def test_a_model_in_channels_last_stays_so():
    model, _ = trained(CopyPaste(p=1.0), ChannelsLast())
    weights = model.module.backbone.fpn.layer_blocks[0][0].weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert not weights.is_contiguous()


@pytest.mark.filterwarnings("ignore:SAM has known issues")
def test_both_steps_of_sharpness_aware_minimization_see_one_batch():
    model = fit(CopyPaste(p=1.0), SAM(), model=Sensitive(), duration="2ba")
    seen = checksums(model)
    assert seen[0::2] == seen[1::2] == checksums(fit(CopyPaste(p=1.0), duration="2ba"))


class Sensitive(Toy):
    """Has a gradient."""

    def loss(self, outputs, batch, *args):
        return (outputs - 1) ** 2


class Order(Algorithm):
    """Notes how many pasted objects the batch has when its turn comes, and the images' size."""

    def __init__(self):
        self.seen = []

    def match(self, event, state):
        return event == Event.AFTER_DATALOADER

    def apply(self, event, state, logger):
        images, targets = state.batch
        self.seen.append((images.shape[-1], sum(int(target["pasted"].sum()) for target in targets)))


@pytest.mark.parametrize("places", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_others_run_after_jitter_and_copy_paste_wherever_they_are_listed(places):
    other = Order()
    three = [LargeScaleJitter(size=(48, 48)), CopyPaste(p=1.0, p_instance=1.0), other]
    model = fit(*(three[place] for place in places), duration="1ba")
    assert other.seen == [(48, pasted_in(model.seen[0]))]
    assert pasted_in(model.seen[0]) > 0


NEED_LABELS = {
    "LabelSmoothing": LabelSmoothing(),
    "MixUp": MixUp(),
    "CutMix": CutMix(),
    "AugMix": AugMix(),
    "RandAugment": RandAugment(),
    "ColOut": ColOut(),
    "ProgressiveResizing": ProgressiveResizing(),
    "SelectiveBackprop": SelectiveBackprop(),
}

FIND_OUT_THEMSELVES = ("SelectiveBackprop", "AugMix", "RandAugment")
"""Which model or data set they need they check before the first batch."""


@pytest.mark.parametrize("ours", [CopyPaste, LargeScaleJitter])
@pytest.mark.parametrize("name", NEED_LABELS)
def test_what_needs_class_labels_is_refused_beside_a_detector_before_it_trains(name, ours):
    with pytest.raises(ValueError, match=f"algorithms: {name} does not go with detection targets: it ") as caught:
        fit(NEED_LABELS[name], ours(), model=small_model(), duration="0ba")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ours", [CopyPaste(), LargeScaleJitter(size=(48, 48))])
@pytest.mark.parametrize("name", [name for name in NEED_LABELS if name not in FIND_OUT_THEMSELVES])
def test_beside_another_model_it_is_refused_with_the_first_detection_batch(name, ours):
    model = Toy()
    with pytest.raises(ValueError, match=f"algorithms: {name} does not go with detection targets: it "):
        fit(ours, NEED_LABELS[name], model=model)
    assert model.seen == []


def test_every_refusal_is_tried():
    assert {kind.__name__ for kind in INCOMPATIBLE} == {*NEED_LABELS}


def test_progressive_resizing_goes_with_class_id_maps():
    batches = loader(collate=as_semantic, batch_size=IMAGES, split=unsplit, count=targets_of)
    resizing = ProgressiveResizing(resize_targets=True)
    ((images, ids),) = fit(CopyPaste(p=1.0), resizing, batches=batches, duration="1ba").seen
    assert images.shape[-2:] == ids.shape[-2:] == (32, 32)
    (whole, whole_ids), *_ = fit(CopyPaste(p=1.0), batches=batches, duration="1ba").seen
    assert torch.equal(images, whole[..., ::2, ::2])
    assert torch.equal(ids, whole_ids[..., ::2, ::2])
