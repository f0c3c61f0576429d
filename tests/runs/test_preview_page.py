"""The page and the sheets of a preview, and what a preview refuses."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from shapes_recipe import on_files, tiny
from toy_trainings import loader

from composer_copypaste import CopyPasteSettings, preview, preview_batches
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import DataError, OutputError, RecipeError, UserError
from composer_copypaste.recipes.comparisons import split_comparison
from composer_copypaste.runs.preview import page as preview_page
from composer_copypaste.settings import ShapesSettings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    draw_shapes(ShapesSettings(folder=str(folder / "shapes"), train=8, val=4, size=64))
    return folder


def shown(place, *overrides, plots=False, **options):
    """A preview of the tiny recipe, with small images that are loaded without processes, and mostly without plots."""
    name, *given = tiny(place, "data.workers=0", "copy_paste.p=1", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview_page, "IMAGE_SIZE", 96)
        if not plots:
            patch.setattr(preview_page, "_plots", lambda variants: [])
        return preview(name, given, **{"output": place / "out", "batches": 2, "images": 3, **options})


@pytest.fixture(scope="module")
def compared(place):
    """A preview of the recipe, of two settings beside it, and of other batches."""
    compare = ["p_instance=1 scale_range=[1, 1]", "copy_paste=null", "seed=3"]
    return shown(place, compare=compare, output=place / "compared", plots=True)


def test_the_page_has_every_setting_with_its_numbers_and_images(compared):
    page = compared.page.read_text()
    headers = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', page.replace("<wbr>", ""))
    assert headers[:5] == [
        "", "recipe", "p_instance=1 scale_range=[1, 1]", "copy_paste=null", "seed=3"
    ]  # fmt: skip
    # an image before, after in four settings, and before with another seed, whose batches are others
    assert page.count("<img ") == 3 * (1 + 4 + 1)
    assert page.count("<svg ") == 3


def test_captions_say_what_was_pasted_and_where_it_comes_from(compared):
    page = compared.page.read_text()
    all_of_another, nothing = compared.variants[1].images[0], compared.variants[2].images[0]
    assert all_of_another.pasted.total() > 0
    for source in {name for name, _ in all_of_another.pasted}:
        assert f" from {source}" in page
    assert nothing.pasted.total() == 0
    assert f"After (copy_paste=null): {nothing.objects_before} objects. Nothing pasted." in page


def test_settings_may_show_different_numbers_of_images(place):
    # where no object may be copied, only the first batch is shown, here of one image
    compare = ["data.batch_size=1 bank_size=1 area_range=[0,0]"]
    found = shown(place, compare=compare, images=3)
    first, second = found.variants
    assert (len(first.images), len(second.images)) == (3, 1)
    assert found.page.read_text().count("<img ") == 6 + 1


def test_settings_with_the_same_batches_show_the_same_images_before(compared):
    recipe, other, none, seed = compared.variants
    for one, same, plain in zip(recipe.images, other.images, none.images, strict=True):
        assert torch.equal(one.before, same.before)
        assert torch.equal(one.before, plain.after)
    assert not torch.equal(recipe.images[0].before, seed.images[0].before)


def test_each_setting_has_a_sheet_of_its_images(compared):
    assert [path.name for path in compared.sheets] == [f"sheet_{number}.png" for number in (1, 2, 3, 4)]
    for path, variant in zip(compared.sheets, compared.variants, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert torch.equal(pixels, variant.sheet())


def test_printed_it_is_the_table_and_the_warnings(compared):
    lines = str(compared).splitlines()
    header = " ".join(lines[: next(number for number, line in enumerate(lines) if line.startswith("---"))]).split()
    assert sorted(header) == sorted(["recipe", "p_instance=1", "scale_range=[1,", "1]", "copy_paste=null", "seed=3"])
    (row,) = [line for line in lines if line.startswith("objects pasted per image")]
    assert row.split()[-2] == "0.0"
    warnings = [f"warning: {v.name}: {text}" for v in compared.variants for text in v.warnings]
    assert [line for line in lines if line.startswith("warning: ")] == warnings


def test_a_notebook_shows_the_table_and_the_warnings_and_not_all_numbers(compared):
    assert repr(compared) == f"Preview('{compared.page}')"
    shown_there = compared._repr_html_()
    assert shown_there.count("<tr>") == 1 + 14
    assert shown_there.count('class="warning"') == sum(len(variant.warnings) for variant in compared.variants) > 0


def test_the_same_preview_gives_the_same_bytes(place):
    first, again = (shown(place, output=place / name) for name in ("a", "b"))
    assert first.page.read_bytes() == again.page.read_bytes()
    assert first.sheets[0].read_bytes() == again.sheets[0].read_bytes()


def test_after_the_first_batch_only_images_that_receive_objects_are_shown(place):
    found = shown(place, "copy_paste.p=0.4", "data.batch_size=2", images=6, batches=8)
    places = [image.place for image in found.variants[0].images]
    assert places[:2] == ["batch 1, image 1", "batch 1, image 2"]
    assert len(set(places)) == 6
    assert all(image.pasted.total() for image in found.variants[0].images[2:])
    assert places[-1] > "batch 4"  # of 12 images, not all received some


def test_without_copy_paste_it_says_so_and_shows_images_and_jitter(place):
    found = shown(place, "copy_paste=null", "data.jitter={size: [32, 32]}", "data.jitter_on=device")
    assert "The recipe has no copy-paste" in found.page.read_text()
    assert [len(variant.warnings) for variant in found.variants] == [0]
    assert len(found.variants[0].images) == 3
    assert found.variants[0].images[0].before.shape == (3, 96, 96)


def test_by_default_at_least_200_images_are_measured(place):
    found = shown(place, "data.batch_size=7", batches=None, images=1)
    assert (found.variants[0].measures.batches, len(found.variants[0].measures.images.before)) == (29, 203)


def test_a_warm_up_is_left_out_and_the_page_says_so(place):
    found = shown(place, "copy_paste.warmup=500ba")
    assert "Its warm-up is left out: p is 1 from the start, in the training after 500ba." in found.page.read_text()
    assert found.variants[0].measures.share_of_images > 0


def test_names_are_shown_as_they_are(place, tmp_path):
    hostile = '<script>"&$x$</script>'
    text = (place / "shapes" / "annotations" / "instances_train.json").read_text()
    (tmp_path / "train.json").write_text(text.replace('"disc"', '"<script>\\"&$x$</script>"'))
    files = [f"data.{split}.annotations={tmp_path / 'train.json'}" for split in ("train", "val")]
    files += [f"data.{split}.images={place / 'shapes' / 'train'}" for split in ("train", "val")]
    page = shown(place, "data.shapes=null", *files, output=tmp_path / "out", plots=True).page.read_text()
    assert hostile not in page
    assert "&lt;script&gt;&quot;&amp;$x$&lt;/script&gt;" in page


# ---- batches of one's own


@pytest.fixture
def without_plots(monkeypatch):
    """Plots take most of the time of a small preview."""
    monkeypatch.setattr(preview_page, "_plots", lambda variants: [])
    monkeypatch.setattr(preview_page, "IMAGE_SIZE", 96)


@pytest.mark.usefixtures("without_plots")
def test_batches_of_any_loader_are_shown_by_their_image_ids(tmp_path):
    settings = {"all": CopyPasteSettings(p=1.0, p_instance=1.0), "none": CopyPasteSettings(p=0.0)}
    found = preview_batches(loader().dataloader, settings, output=tmp_path / "out", category_names=["a", "b"])
    assert [variant.name for variant in found.variants] == ["all", "none"]
    assert [variant.measures.batches for variant in found.variants] == [2, 2]
    assert found.variants[0].images[1].name == "image 1"
    assert found.variants[1].measures.share_of_images == 0


@pytest.mark.usefixtures("without_plots")
def test_names_of_categories_are_those_that_are_given(tmp_path):
    settings = CopyPasteSettings(p=1.0, p_instance=1.0, categories=("b",))
    found = preview_batches(loader().dataloader, settings, output=tmp_path, category_names=["a", "b"], seed=5)
    assert set(found.variants[0].measures.copies.label.tolist()) == {2}


def test_no_batches_cannot_be_shown(tmp_path):
    with pytest.raises(ValueError, match=r"^batches: expected at least one, got none$"):
        preview_batches([], output=tmp_path / "out", category_names=["a"])
    assert not (tmp_path / "out").exists()


# ---- settings to compare


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("p=0.5", ["copy_paste.p=0.5"]),
        (" p=0.5   rotation=30 ", ["copy_paste.p=0.5", "copy_paste.rotation=30"]),
        ("scale_range=[0.8, 1.25] data.batch_size=4", ["copy_paste.scale_range=[0.8, 1.25]", "data.batch_size=4"]),
        ("copy_paste=null", ["copy_paste=null"]),
        ("seed=3", ["seed=3"]),
        ("category_weights={my car: 5}", ["copy_paste.category_weights={my car: 5}"]),
        ("category_weights.car=5", ["copy_paste.category_weights.car=5"]),
    ],
)
def test_settings_of_copy_paste_need_no_section(text, overrides):
    assert split_comparison(text) == overrides


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"compare": ["rotatoin=30"]},
            RecipeError,
            r"^copy_paste\.rotatoin: unknown key; did you mean '.*rotation'",
        ),
        ({"compare": ["p=2"]}, RecipeError, r"^copy_paste\.p: expected at most 1, got 2 \(command line\)$"),
        ({"compare": ["p"]}, RecipeError, r"^command line: expected KEY=VALUE such as .*, got 'p'$"),
        ({"compare": ["p=0.5", "p=0.5"]}, RecipeError, r"^compare: 'p=0\.5' is given twice; each setting once .*$"),
        ({"compare": [f"p=0.{n}" for n in range(1, 9)]}, RecipeError, r"^compare: expected at most 7 .*, got 8$"),
        ({"images": 0}, UserError, r"^images and batches: expected 1 or more, got 0$"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(place, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        shown(place, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_wrong_data_is_refused_before_anything_is_written(place, tmp_path):
    files = on_files(place / "shapes")
    with pytest.raises(DataError, match=r"missing\.json: there is no such annotation file$"):
        shown(place, *files, f"data.train.annotations={tmp_path / 'missing.json'}", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes.txt", "sheet_1.png", "preview.html"])
def test_a_folder_that_holds_something_else_is_left_as_it_is(place, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=rf": holds {name}, which is no preview's; name another folder .*"):
        shown(place, output=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_file_is_no_folder(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"file: expected a folder for the preview, found a file; give"):
        shown(place, output=tmp_path / "file")


def test_an_earlier_preview_is_replaced(place, tmp_path):
    shown(place, output=tmp_path, compare=["p=0.5"])
    (tmp_path / ".preview.html.unfinished").touch()  # a killed preview left it
    shown(place, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".preview.html.unfinished"} == {"preview.html", "sheet_1.png"}
