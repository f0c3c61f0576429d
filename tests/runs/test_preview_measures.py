"""What a preview measures: the batches of a training, and where each copy comes from."""

from collections import Counter

import pytest
import torch
from composer import Callback
from composer.loggers import InMemoryLogger
from copypaste_cases import IDENTITY, make_images, plan_of, target
from PIL import Image
from shapes_recipe import tiny_recipe
from toy_trainings import make_image

from composer_copypaste.compact_masks import as_planes
from composer_copypaste.data.cutouts import CutOutPool
from composer_copypaste.integrations.composer.from_recipe import build_algorithms, build_model, build_trainer
from composer_copypaste.runs.data import category_names, copy_paste_settings, open_data
from composer_copypaste.runs.preview import measures as preview_measures
from composer_copypaste.runs.preview import run as previewing
from composer_copypaste.runs.preview.measures import Paster, Variant, measures_of
from composer_copypaste.settings import CopyPasteSettings

WHOLE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
"""Each image receives all objects of another, where they lie there."""
RECIPES = {
    "of two epochs": (),
    "with jitter on the device, a bank and a pool": (
        "data.jitter={size: [48, 48]}",
        "data.jitter_on=device",
        "data.batch_size=2",
        "copy_paste.bank_size=20",
        "data.pool.folder=cutouts",
    ),
}


class Keeper(Callback):
    """Keeps the batches as the model gets them."""

    def __init__(self):
        self.batches = []

    def batch_start(self, state, logger):
        self.batches.append(state.batch)


def trained_batches(recipe, count):
    """The batches that a training gives its model, and what it logs of copy-paste."""
    data, keeper, log = open_data(recipe), Keeper(), InMemoryLogger()
    algorithms = build_algorithms(recipe, copy_paste_settings(recipe, category_names(data.train)), data.pool)
    model = build_model(recipe, data.val.annotations)
    trainer = build_trainer(recipe, model, data.train, data.val, algorithms=algorithms, callbacks=[log, keeper])
    trainer.fit(duration=f"{count}ba")
    trainer.close()
    return keeper.batches, {name: [value for _, value in rows] for name, rows in log.data.items()}


def previewed_batches(recipe, count):
    """The batches of a preview, as they are pasted."""
    (source,) = previewing._open_sources([("recipe", recipe)])
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        paste = Paster.paste
        patch.setattr(Paster, "paste", lambda *given: seen.append(paste(*given)) or seen[-1])
        previewing._preview_sources([source], count, 1)
    return seen


@pytest.mark.parametrize("overrides", RECIPES.values(), ids=RECIPES)
def test_batches_and_counts_are_those_of_the_training(overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cutouts" / "star").mkdir(parents=True)
    Image.new("RGBA", (9, 9), "white").save(tmp_path / "cutouts" / "star" / "1.png")
    recipe = tiny_recipe(tmp_path, "copy_paste.p=1", "data.workers=0", "training.eval_interval=9ba", *overrides)
    trained, logged = trained_batches(recipe, 3)
    previewed = previewed_batches(recipe, 3)
    assert len(trained) == len(previewed) == 3
    for (images, targets), batch in zip(trained, previewed, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(images, batch.result.images, strict=True))
        for one, other in zip(targets, batch.targets_after, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("boxes", "labels", "area", "image_id"))
            assert torch.equal(as_planes(one["masks"]), as_planes(other["masks"]))
    measures = [measures_of(batch.variant, [batch.measures()]) for batch in previewed]
    assert [each.share_of_images for each in measures] == logged["copy_paste/share_of_images"]
    assert [each.images.pasted.mean() for each in measures] == logged["copy_paste/instances_per_image"]
    assert [batch.result.dropped for batch in previewed] == logged["copy_paste/dropped"]
    assert sum(each.images.pasted.sum() for each in measures) > 0


def name_of(target):
    return f"{int(target['image_id'])}.png"


def pasted_colors(batch, image):
    """The number of the source image of each pasted object, read from its pixels: image k has the color 20 k + 100."""
    before = len(batch.result.origins(image)[0])
    masks = batch.targets_after[image]["masks"][before:].bool()
    return [(int(batch.result.images[image][0][mask].median()) - 100) // 20 for mask in masks]


def test_each_copy_is_said_to_come_from_the_image_whose_pixels_it_has():
    images, targets = zip(*(make_image(number) for number in range(3)), strict=True)
    batch = Paster(Variant("all", CopyPasteSettings(**WHOLE)), name_of).paste(0, list(images), list(targets))
    for image in range(3):
        (source,) = set(pasted_colors(batch, image))
        assert source != image
        assert batch.pasted(image) == {(f"{source}.png", 1): 1, (f"{source}.png", 2): 1}


@pytest.mark.parametrize(
    ("labels", "back"),
    [(None, {1, 2}), ((2,), {1, 2, 3})],  # of three objects, two are those of the last image; or there is one of each
)
def test_a_copy_from_the_bank_comes_from_the_image_of_an_earlier_batch(labels, back):
    paster = Paster(Variant("bank", CopyPasteSettings(**WHOLE, bank_size=3, labels=labels)), name_of)
    sources = set()
    for number in range(6):
        image, its_target = make_image(number)
        batch = paster.paste(number, [image], [its_target])
        named = Counter(name for name, _ in batch.pasted(0).elements())
        assert named == Counter(f"{source}.png" for source in pasted_colors(batch, 0))
        sources |= {number - int(name[0]) for name in named}
        assert len(paster.names_in_bank) == len(paster.bank)
        in_target = batch.targets_after[0]["labels"][len(batch.result.origins(0)[0]) :].tolist()
        assert sorted(label for _, label in batch.pasted(0).elements()) == sorted(in_target)
        assert batch.measures().copies.beyond_edge == pytest.approx(0)
    assert sources <= back
    assert max(back) in sources


def test_a_copy_from_the_pool_comes_from_the_cut_outs_file(tmp_path):
    (tmp_path / "b").mkdir()
    Image.new("RGBA", (9, 9), "white").save(tmp_path / "b" / "7.png")
    settings = CopyPasteSettings(p=1.0, p_pool=1.0, pool_instances=(1, 1), pool_scale_range=(1.0, 1.0))
    pool = CutOutPool.from_folder(tmp_path, ["a", "b"])
    image, its_target = make_image(1)
    batch = Paster(Variant("pool", settings, pool=pool), name_of).paste(0, [image], [its_target])
    assert batch.pasted(0) == {("cut-out b/7.png", 2): 1}


def pasted_by_hand(monkeypatch, targets, *rows, variant=None):
    """The batch after a hand-written plan on images of 8 x 8 pixels."""
    monkeypatch.setattr(preview_measures, "plan_batch", lambda *given, **options: plan_of(*rows))
    for number, each in enumerate(targets):
        each["image_id"] = torch.tensor(number)
    variant = variant or Variant("by hand", CopyPasteSettings())
    return Paster(variant, name_of).paste(0, make_images(len(targets)), targets)


def test_what_is_covered_partly_covered_and_lost_is_measured_in_pixels(monkeypatch):
    own = target((0, 0, 2, 2), (2, 2, 6, 6), (6, 6, 8, 8), labels=[1, 2, 3])
    given = target((0, 0, 4, 4), (5, 5, 6, 6), labels=[4, 5])
    shifted = ((1, 0, 2), (0, 1, 0))  # two pixels to the left
    beyond = ((1, 0, -6), (0, 1, 0))  # six to the right
    rows = [(0, 1, 1, beyond), (0, 1, 0, shifted), (0, 1, 0, IDENTITY)]
    found = pasted_by_hand(monkeypatch, [own, given], *rows).measures()
    assert found.own.area.tolist() == [4, 16, 4, 16, 1]
    assert found.own.area_after.tolist() == [0, 12, 4, 16, 1]
    assert found.copies.label.tolist() == [5, 4, 4]
    assert found.copies.area.tolist() == [0, 0, 16]
    assert found.copies.beyond_edge.tolist() == pytest.approx([1, 0.5, 0])
    assert [column.tolist() for column in found.images] == [[3, 2], [1, 0], [3, 2]]


def test_sizes_are_those_that_the_model_sees(monkeypatch):
    variant = Variant("twice as large", CopyPasteSettings(), model_scale=lambda size: 16 / size[0])
    plan = (0, 1, 0, IDENTITY)
    found = pasted_by_hand(monkeypatch, [target((0, 0, 2, 8)), target((4, 0, 8, 4))], plan, variant=variant).measures()
    assert found.own.side.tolist() == [8, 8]
    assert found.copies.side.tolist() == [8]


def test_crowds_are_not_counted(monkeypatch):
    crowd = target((0, 0, 2, 2), (4, 4, 8, 8), iscrowd=torch.tensor([1, 0]))
    found = pasted_by_hand(monkeypatch, [crowd, target((0, 0, 4, 4))], (0, 1, 0, IDENTITY)).measures()
    assert found.own.area.tolist() == [16, 16]
    assert [column.tolist() for column in found.images] == [[1, 1], [1, 0], [2, 1]]


def test_without_copy_paste_all_stays_as_it_is(monkeypatch):
    batch = Paster(Variant("none", None), name_of).paste(0, *map(list, zip(make_image(1), make_image(2), strict=True)))
    found = batch.measures()
    assert found.images.before.tolist() == found.images.after.tolist() == [2, 2]
    assert len(found.copies.label) == 0
