"""What a preview warns of, and that it does not where all is well."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from composer_copypaste.runs.preview.advice import percent, warnings_of
from composer_copypaste.runs.preview.measures import Copies, ImageCounts, Measures, OwnObjects, Variant
from composer_copypaste.settings import CopyPasteSettings

NAMES = ["cat", "dog"]


def rows(kind, count, **columns):
    """Rows of a table whose columns have one value each, or one for each row."""
    return kind(*(np.broadcast_to(columns[name], count).copy() for name in kind._fields))


def all_well(**settings):
    """The measures of 50 batches of 2 images: half receive two objects, of 40 pixels as the images' own."""
    variant = Variant("recipe", CopyPasteSettings(**settings))
    own = rows(
        OwnObjects, 400, label=[1, 2] * 200, area=1600.0, area_after=1600.0, side=40.0, may_be_copied=np.array([True])
    )
    copies = rows(Copies, 100, label=[1, 2] * 50, area=1600.0, side=40.0, beyond_edge=0.0)
    images = rows(ImageCounts, 100, before=4, pasted=[2, 0] * 50, after=[6, 4] * 50)
    return Measures(variant, 50, images, own, copies, Counter())


def changed(measures, table, **columns):
    """The measures with other columns in a table; a share from 0 to 1 stands for that share of the rows."""
    return replace(measures, **{table: getattr(measures, table)._replace(**columns)})


def share(count, fraction, value, other):
    """A column in which a fraction of the rows has a value."""
    return np.where(np.arange(count) < round(count * fraction), value, other)


def test_nothing_is_said_where_all_is_well():
    assert warnings_of(all_well(), NAMES) == []


def test_nothing_is_said_where_there_is_no_copy_paste():
    measures = changed(all_well(), "images", pasted=np.zeros(100, dtype=np.int64))
    assert warnings_of(replace(measures, variant=Variant("none", None)), NAMES) == []


WARNED = {
    "nothing is pasted on 62 % of the images: p=0.5 leaves 50 % as they are, and nothing arrives on another 12 %; "
    "raise copy_paste.p, or copy_paste.p_instance=0.7, with which fewer draws end with no object": (
        lambda well: changed(well, "images", pasted=share(100, 0.38, 2, 0)),
        lambda well: changed(well, "images", pasted=share(100, 0.41, 2, 0)),
    ),
    "in 3 of 50 batches nothing could be pasted: too few": (
        lambda well: replace(well, unchanged=Counter({"too few": 3})),
        lambda well: replace(well, unchanged=Counter({"too few": 2})),
    ),
    "a batch has 3.9 objects to copy from on average, so there is little to choose from; raise data.batch_size, or "
    "keep objects of earlier batches with copy_paste.bank_size=256": (
        lambda well: changed(well, "own", may_be_copied=share(400, 195 / 400, True, False)),
        lambda well: changed(well, "own", may_be_copied=share(400, 200 / 400, True, False)),
    ),
    "never copied: 'dog'; copy_paste.category_weights copies them more often": (
        lambda well: changed(well, "copies", label=np.full(100, 1)),
        lambda well: changed(well, "copies", label=share(100, 0.01, 2, 1)),
    ),
    "never copied: 'dog'; no object of these may be copied, see copy_paste.area_range and relative_area_range": (
        lambda well: changed(changed(well, "copies", label=np.full(100, 1)), "own", may_be_copied=well.own.label == 1),
        lambda well: changed(
            changed(well, "copies", label=np.full(100, 1)), "own", label=share(400, 19 / 400, 2, 1)
        ),  # fewer than 20 are not judged
    ),
    "30 % of what is drawn to be pasted is never seen: 50 % of it lies beyond the image's edge, the rest is hidden by "
    "other copies or too small; copy_paste.placement=random puts them inside the image": (
        lambda well: changed(well, "copies", area=share(100, 0.3, 0.0, 1600.0), beyond_edge=share(100, 0.15, 1.0, 0.0)),
        lambda well: changed(well, "copies", area=share(100, 0.29, 0.0, 1600.0)),
    ),
    "50 % of the pasted objects are cut off at the image's edge, with a quarter of their box or more beyond it; "
    "copy_paste.placement=random puts them inside the image, or copy_paste.scale_range=[0.1,1] makes none larger than "
    "it is": (
        lambda well: changed(well, "copies", beyond_edge=share(100, 0.5, 0.25, 0.24)),
        lambda well: changed(well, "copies", beyond_edge=share(100, 0.49, 0.25, 0.24)),
    ),
    "50 % of the pasted objects are smaller than 16 x 16 pixels where the model sees them, of the images' own 30 %; "
    "copy_paste.scale_range=[0.5,2] shrinks them less, copy_paste.min_area=256 leaves out the smallest": (
        lambda well: changed(
            changed(well, "copies", side=share(100, 0.5, 15.9, 16.0)), "own", side=share(400, 0.3, 15.9, 16.0)
        ),
        lambda well: changed(
            changed(well, "copies", side=share(100, 0.5, 15.9, 16.0)), "own", side=share(400, 0.31, 15.9, 16.0)
        ),
    ),
    "15 % of the images' own objects disappear under pasted ones; copy_paste.max_copied_instances=5 pastes fewer, "
    "copy_paste.placement=random copy_paste.max_overlap=0.3 puts them elsewhere": (
        lambda well: changed(well, "own", area_after=share(400, 0.15, 0.0, 1600.0)),
        lambda well: changed(well, "own", area_after=share(400, 0.145, 0.0, 1600.0)),
    ),
}
"""Each warning, measures that it is made of, and measures a little better that it is not."""


@pytest.mark.parametrize(("text", "measures"), [(text, worse) for text, (worse, _) in WARNED.items()])
def test_a_warning_says_the_number_and_what_to_do(text, measures):
    assert warnings_of(measures(all_well()), NAMES) == [text]


@pytest.mark.parametrize("measures", [better for _, better in WARNED.values()])
def test_just_below_its_limit_nothing_is_said(measures):
    assert warnings_of(measures(all_well()), NAMES) == []


@pytest.mark.parametrize("settings", [{"labels": (1,)}, {"label_weights": {2: 0}}])
def test_a_category_that_the_settings_leave_out_is_not_missed(settings):
    measures = changed(all_well(**settings), "copies", label=np.full(100, 1))
    assert warnings_of(measures, NAMES) == []


def test_a_probability_that_was_asked_for_is_no_surprise():
    measures = changed(all_well(p=0.2), "images", pasted=share(100, 0.2, 2, 0))
    assert warnings_of(measures, NAMES) == []


@pytest.mark.parametrize(("scale_range", "count"), [(None, 1), ((1.0, 1.0), 0)])
def test_what_loader_and_copy_paste_both_resize_is_said_with_its_size(scale_range, count):
    measures = changed(all_well(scale_range=scale_range), "copies", side=np.full(100, 20.0))
    measures = replace(measures, variant=replace(measures.variant, loader_jitters=True))
    assert warnings_of(measures, NAMES) == count * [
        "data.jitter resizes the images, and copy-paste what it copies a second time: pasted objects have 0.5 times "
        "the size of the images' own; copy_paste.scale_range=[1,1] copy_paste.p_flip=0 leaves them as jittered"
    ]


def test_what_is_known_of_the_data_beforehand_is_said_too():
    measures = all_well()
    measures = replace(measures, variant=replace(measures.variant, advice=("windows lie inside facades",)))
    assert warnings_of(measures, NAMES) == ["windows lie inside facades"]


def test_a_few_images_without_objects_may_be_chance():
    measures = all_well()
    few = ImageCounts(*(column[:10] for column in measures.images))._replace(pasted=share(10, 0.3, 2, 0))
    assert warnings_of(replace(measures, images=few), NAMES) == []


def test_batches_in_which_nothing_could_be_pasted_are_not_taken_for_bad_luck():
    measures = changed(all_well(), "images", pasted=np.zeros(100, dtype=np.int64))
    measures = replace(measures, copies=rows(Copies, 0, label=0, area=0, side=0, beyond_edge=0))
    assert warnings_of(replace(measures, unchanged=Counter({"one image": 50})), NAMES) == [
        "in 50 of 50 batches nothing could be pasted: one image"
    ]


def test_where_an_overlap_limit_keeps_objects_out_it_is_named():
    measures = changed(all_well(max_overlap=0.1), "images", pasted=np.zeros(100, dtype=np.int64))
    measures = replace(measures, copies=rows(Copies, 0, label=0, area=0, side=0, beyond_edge=0))
    (text,) = warnings_of(measures, NAMES)
    assert "copy_paste.max_overlap=0.1 leaves out what finds no place" in text


@pytest.mark.parametrize("settings", [{"bank_size": 16}, {"p": 0.0}])
def test_few_objects_in_a_batch_are_enough_with_a_bank_and_where_nothing_is_pasted(settings):
    measures = changed(all_well(**settings), "own", may_be_copied=share(400, 0.2, True, False))
    assert warnings_of(measures, NAMES) == []


def test_a_warning_does_not_advise_what_is_done_already():
    settings = {"placement": "random", "max_overlap": 0.5, "p_instance": 0.5}
    measures = changed(all_well(**settings), "own", area_after=share(400, 0.5, 0.0, 1600.0))
    measures = changed(measures, "copies", beyond_edge=np.full(100, 0.5), area=share(100, 0.3, 0.0, 1600.0))
    measures = changed(measures, "images", pasted=share(100, 0.1, 2, 0))
    texts = warnings_of(measures, NAMES)
    assert len(texts) == 4
    assert not [text for text in texts if "placement=" in text or "p_instance" in text or "max_overlap=0.3" in text]


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.034, "3.4 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %")]
)
def test_a_share_is_written_with_two_digits(share, text):
    assert percent(share) == text
