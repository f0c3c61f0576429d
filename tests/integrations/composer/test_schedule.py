"""Copy-paste in Composer's time: its warm-up and its end, in a ``Trainer``."""

import pytest
import torch
from composer.loggers import InMemoryLogger
from torch.utils.data import DataLoader, IterableDataset
from toy_trainings import checksum, checksums, fit, loader, pasted_in

from composer_copypaste import CopyPaste, CopyPasteSettings, copypaste_batch


def logged_p(*, duration, batches=None, **settings):
    """The probability at each batch, and the model, which has seen them."""
    log = InMemoryLogger()
    model = fit(CopyPaste(**settings), batches=batches, duration=duration, loggers=[log])
    return [value for _, value in log.data["copy_paste/p"]], model


# a loader of 8 images gives 2 batches an epoch with 4 in each
@pytest.mark.parametrize(
    ("warmup", "duration", "expected"),
    [
        (None, "3ba", [0.8, 0.8, 0.8]),
        ("0ba", "3ba", [0.8, 0.8, 0.8]),
        ("4ba", "6ba", [0, 0.2, 0.4, 0.6, 0.8, 0.8]),
        ("2ep", "3ep", [0, 0.2, 0.4, 0.6, 0.8, 0.8]),
        ("0.5dur", "4ba", [0, 0.4, 0.8, 0.8]),
        ("50%dur", "2ep", [0, 0.4, 0.8, 0.8]),
        ("50%dur", "16sp", [0, 0.4, 0.8, 0.8]),  # samples, 4 a batch
    ],
)
def test_p_rises_linearly_from_nothing_over_the_warm_up(warmup, duration, expected):
    seen, _ = logged_p(p=0.8, warmup=warmup, duration=duration)
    assert seen == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("stop", "duration", "first_without"),
    [
        ("3ba", "5ba", 3),
        ("1ep", "2ep", 2),
        ("0.7dur", "10ba", 7),
        ("70%dur", "10ba", 7),
        ("0.75dur", "2ep", 3),  # in the middle of an epoch
        ("90%dur", "3ep", 6),  # 5.4 batches: the last one begins before that
        ("1dur", "3ba", 3),
        ("0ba", "3ba", 0),
    ],
)
def test_nothing_is_pasted_from_the_stop_on(stop, duration, first_without):
    seen, model = logged_p(p=1.0, p_instance=1.0, scale_range=(1.0, 1.0), stop=stop, duration=duration)
    pasted = [pasted_in(batch) > 0 for batch in model.seen]
    assert pasted == [number < first_without for number in range(len(seen))]
    assert seen == [float(number < first_without) for number in range(len(seen))]


def test_from_the_stop_on_a_batch_is_what_the_loader_gave():
    _, model = logged_p(stop="2ba", duration="4ba")
    assert checksums(model)[2:] == [checksum(batch) for batch in loader().dataloader]


def test_warm_up_and_stop_go_together():
    seen, _ = logged_p(p=0.5, warmup="2ba", stop="4ba", duration="5ba")
    assert seen == [0, 0.25, 0.5, 0.5, 0]


DARK, BRIGHT = (
    (
        torch.full((3, 8, 8), color, dtype=torch.uint8),
        {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.ones(len(boxes)).long(), "masks": masks},
    )
    for color, boxes, masks in (
        (0, [], torch.zeros(0, 8, 8, dtype=torch.uint8)),
        (200, [[2.0, 3.0, 6.0, 5.0]], torch.zeros(1, 8, 8, dtype=torch.uint8)),
    )
)
BRIGHT[1]["masks"][0, 3:5, 2:6] = 1


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, "####"),
        ({"warmup": "1ba"}, ".###"),
        ({"stop": "3ba"}, "###."),
        ({"warmup": "1ba", "stop": "3ba"}, ".##."),
        ({"warmup": "25%dur", "stop": "0.5dur"}, ".#.."),
    ],
)
def test_a_dark_image_shows_the_bright_object_from_warm_up_to_stop(times, expected):
    batches = loader()
    batches.dataloader = DataLoader([DARK, BRIGHT] * 4, batch_size=2, collate_fn=batches.dataloader.collate_fn)
    copy_paste = CopyPaste(p=1.0, p_instance=1.0, scale_range=(1.0, 1.0), p_flip=0.0, **times)
    dark = torch.stack([images[0, 0] for images, _ in fit(copy_paste, batches=batches, duration="4ba").seen])
    shown = torch.tensor([sign == "#" for sign in expected])[:, None, None]
    assert torch.equal(dark == 200, shown & BRIGHT[1]["masks"][0].bool())


class Endless(IterableDataset):
    """Images from a loader that does not know its length."""

    def __iter__(self):
        return iter([sample for batch in loader().dataloader for sample in zip(*batch, strict=True)])


def test_epochs_of_unknown_length_count_when_they_are_over():
    spec = loader()
    spec.dataloader = DataLoader(Endless(), batch_size=4, collate_fn=spec.dataloader.collate_fn)
    seen, _ = logged_p(p=0.8, warmup="2ep", batches=spec, duration="6ba")
    assert seen == [0, 0, 0.4, 0.4, 0.8, 0.8]


def test_a_resumed_run_goes_on_where_it_was_in_time(tmp_path):
    settings = CopyPasteSettings(p=1.0, warmup="3ba", stop="5ba")
    uninterrupted = checksums(fit(CopyPaste(settings), duration="6ba"))
    start = fit(CopyPaste(settings), duration="3ba", save_folder=str(tmp_path), save_latest_filename="latest.pt")
    rest = fit(CopyPaste(settings), duration="6ba", load_path=str(tmp_path / "latest.pt"), seed=None)
    assert checksums(start) + checksums(rest)[-3:] == uninterrupted


def test_a_batch_alone_has_no_time():
    images, targets = next(iter(loader().dataloader))
    (timed, _), (plain, _) = (
        copypaste_batch(
            images, targets, generator=torch.Generator().manual_seed(0), settings=CopyPasteSettings(p=1.0, **times)
        )
        for times in ({"warmup": "9ba", "stop": "0ba"}, {})
    )
    assert torch.equal(timed, plain)
    assert not torch.equal(plain, images)
