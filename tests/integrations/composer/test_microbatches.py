"""What a Mask R-CNN learns from a batch in parts, beside the same batch as a whole.

Torchvision draws the anchors and proposals that it trains on from torch's global generator, image by image and part by
part, so another size of microbatch draws others. Here the draw is replaced by the first ones: what is left then is how
the losses of the parts add up.
"""

import pytest
import torch
from composer import Callback, DataSpec
from composer.loggers import InMemoryLogger
from torch.utils.data import DataLoader
from toy_trainings import Toy, fit, make_image

from composer_copypaste import CopyPaste, MaskRCNN
from composer_copypaste.data.loaders import collate
from composer_copypaste.integrations.composer.data_spec import num_samples, split_batch
from composer_copypaste.integrations.composer.model import LOSSES

PARTS = [name for name in LOSSES if name != "mask"]


@pytest.fixture
def _no_draw(monkeypatch):
    def first(n, *, generator=None, device=None):
        return torch.arange(n, device=device) if generator is None else drawn(n, generator=generator)

    drawn = torch.randperm
    monkeypatch.setattr(torch, "randperm", first)


class Gradients(Callback):
    """Keeps the gradients of the last batch."""

    def after_train_batch(self, state, logger):
        weights = [weight.grad.flatten() for weight in state.model.parameters() if weight.grad is not None]
        self.found = torch.cat(weights).clone()


class Maskless(MaskRCNN):
    """Trains on all parts of the loss but that of the masks."""

    def loss(self, outputs, batch):
        return {name: loss for name, loss in super().loss(outputs, batch).items() if name != "mask"}


def different():
    """Four images, one without objects."""
    samples = [make_image(number) for number in range(4)]
    for name in ("boxes", "labels", "masks"):
        samples[2][1][name] = samples[2][1][name][:0]
    return samples


def batches(samples):
    return DataSpec(
        DataLoader(samples, batch_size=len(samples), collate_fn=collate),
        split_batch=split_batch,
        get_num_samples_in_batch=num_samples,
    )


def small_model(kind=MaskRCNN):
    torch.manual_seed(0)
    return kind(num_classes=3, backbone="small", resize_training=False)


def learned(samples, size, *algorithms, kind=MaskRCNN):
    """The logged losses and the gradients of one batch."""
    log, gradients = InMemoryLogger(), Gradients()
    options = {"device_train_microbatch_size": size, "loggers": [log], "callbacks": [gradients]}
    fit(*algorithms, model=small_model(kind), batches=batches(samples), duration="1ba", **options)
    return {name: float(log.data[f"loss/train/{name}"][0][1]) for name in LOSSES if f"loss/train/{name}" in log.data}, (
        gradients.found
    )


def assert_alike(gradients, others):
    assert (gradients - others).norm() < 1e-5 * others.norm()


@pytest.mark.usefixtures("_no_draw")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_parts_but_that_of_the_masks_and_their_gradients_are_those_of_the_whole_batch(size):
    whole, gradients = learned(different(), None, CopyPaste(p=1.0), kind=Maskless)
    parts, others = learned(different(), size, CopyPaste(p=1.0), kind=Maskless)
    assert set(parts) == set(PARTS)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert_alike(gradients, others)


@pytest.mark.usefixtures("_no_draw")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_where_images_have_as_many_matched_proposals_the_whole_loss_and_gradient_are_too(size):
    alike = [make_image(1)] * 4
    whole, gradients = learned(alike, None)
    parts, others = learned(alike, size)
    assert set(parts) == set(LOSSES)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert_alike(gradients, others)


@pytest.mark.usefixtures("_no_draw")
def test_the_loss_of_the_masks_is_a_mean_over_the_matched_proposals_of_a_microbatch():
    model, samples = small_model(), different()
    counts = []
    model.module.roi_heads.mask_roi_pool.register_forward_hook(lambda _, inputs, found: counts.append(len(found)))
    images, targets = collate(samples)
    whole = model((images, targets))["loss_mask"]
    each = torch.stack([model(part)["loss_mask"] for part in split_batch((images, targets), 1)])
    total, *numbers = counts
    assert numbers[2] == 0
    assert sum(numbers) == total
    torch.testing.assert_close((each * torch.tensor(numbers)).sum() / total, whole)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_short_last_microbatch_and_images_without_objects_count_by_their_number(size):
    samples = [*different(), make_image(5, 72)]
    model = Toy()
    log = InMemoryLogger()
    fit(model=model, batches=batches(samples), duration="1ba", device_train_microbatch_size=size, loggers=[log])
    assert [len(images) for images, _ in model.seen] == {1: [1] * 5, 2: [2, 2, 1], 4: [4, 1]}[size]
    assert [int(target["image_id"]) for _, targets in model.seen for target in targets] == [0, 1, 2, 3, 5]
    assert [len(target["boxes"]) for _, targets in model.seen for target in targets] == [2, 2, 0, 2, 2]


class Counting(Toy):
    """Its loss is the number of the microbatch's images that have objects, over that of its images."""

    def loss(self, outputs, batch, *args):
        return outputs * 0 + sum(len(target["boxes"]) > 0 for target in batch[1]) / len(batch[1])


@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_microbatches_weigh_by_their_images(size):
    log = InMemoryLogger()
    samples = [*different(), make_image(5, 72)]
    options = {"device_train_microbatch_size": size, "loggers": [log]}
    fit(model=Counting(), batches=batches(samples), duration="1ba", **options)
    assert float(log.data["loss/train/total"][0][1]) == pytest.approx(4 / 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_size_of_microbatches_can_be_found():
    model, log = small_model(), InMemoryLogger()
    options = {"device": "gpu", "device_train_microbatch_size": "auto", "loggers": [log]}
    fit(CopyPaste(p=1.0), model=model, batches=batches(different()), duration="2ba", **options)
    assert log.data["trainer/device_train_microbatch_size"][-1][1] == 4
    assert all(weights.isfinite().all() for weights in model.parameters())
