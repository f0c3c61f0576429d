"""What is wrong with a COCO file though each of its values is in order: boxes that are not the masks', and doubles."""

from collections.abc import Mapping, Sequence

from composer_copypaste.data.box_checks import compare_boxes
from composer_copypaste.data.doubles import Groups, have_same_objects, images_of_one_file, repeated_objects
from composer_copypaste.data.records import CocoImage
from composer_copypaste.errors import DataError, first_few, warn_of_data

REPEATED_SHARE = 0.1
"""A file that repeats this fraction of its objects was put together wrongly; COCO's own has a handful."""
_FEWEST = 3


def check_objects(
    place: str, images: Mapping[int, CocoImage], groups: Groups, *, leave_out: bool, how_to_leave_out: str
) -> dict[int, str]:
    """What keeps single objects from being used, by annotation id; with ``leave_out`` also that they repeat another.

    Warns of what is probably wrong with few objects. ``how_to_leave_out`` is the setting that leaves objects out.

    Raises:
        DataError: where boxes and masks disagree on the whole, where many objects are repeated, or where the objects of
            one file are shared out between several images.
    """
    _check_images(place, images, groups)
    compared = compare_boxes(images, groups)
    if compared.of_the_file is not None:
        raise DataError(f"{place}: {compared.of_the_file}")
    if compared.doubtful:
        warn_of_data(
            f"{place}: boxes that overlap little with their masks, which are taken as they are, of the annotations "
            f"{first_few(compared.doubtful)}"
        )
    if leave_out:
        repeated = {number: f"repeats annotation {first}" for number, first in repeated_objects(images, groups).items()}
        return repeated | dict(compared.of_objects)
    _check_repeated(place, images, groups, how_to_leave_out)
    return dict(compared.of_objects)


def _check_images(place: str, images: Mapping[int, CocoImage], groups: Groups) -> None:
    """Raise ``DataError`` where a file is several images that share out its objects; warn where they repeat them."""
    same = images_of_one_file(images.values())
    torn = [ids for ids in same if not have_same_objects(ids, groups)]
    if torn:
        raise DataError(
            f"{place}: {_files(torn, images)} listed more than once, with other objects for each id: what is annotated "
            "under one is wrongly missing under the other, in training and in scores. Give all objects of a file one "
            "image_id, or file names with their folders where these are different files"
        )
    if same:
        warn_of_data(
            f"{place}: {_files(same, images)} listed more than once, with the same objects: each counts as an image of "
            "its own"
        )


def _files(same: Sequence[Sequence[int]], images: Mapping[int, CocoImage]) -> str:
    described = [f"{images[ids[0]].file_name} (images {', '.join(map(str, ids))})" for ids in same]
    return f"{first_few(described, 3)} {'is' if len(described) == 1 else 'are'}"


def _check_repeated(place: str, images: Mapping[int, CocoImage], groups: Groups, how_to_leave_out: str) -> None:
    """Raise ``DataError`` where many objects are repeated; warn where few are."""
    repeated = repeated_objects(images, groups)
    count, total = len(repeated), sum(map(len, groups.values()))
    if not count:
        return
    pairs = first_few([f"{number} of {first}" for number, first in repeated.items()], 3)
    what = (
        f"{place}: {count} of {total} annotations repeat another of their image, with its category and mask, "
        f"under another id ({pairs}): a detector that finds each object once misses them. {how_to_leave_out} leaves "
        "them out"
    )
    if count >= REPEATED_SHARE * total and count >= min(_FEWEST, total):
        raise DataError(what)
    warn_of_data(what)
