"""All that is wrong or odd in a COCO file, collected without stopping at the first of it."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_checks import (
    check_crowds,
    check_images_of_one_file,
    check_repeated,
    compare_boxes,
    find_repeated_objects,
)
from composer_copypaste.data.annotation_json import (
    Category,
    CocoAnnotation,
    CocoImage,
    ReadingOptions,
    SettingSpelling,
    python_spelling,
)
from composer_copypaste.data.coco_json import (
    Findings,
    find_lists,
    parse_annotations,
    parse_categories,
    parse_images,
    warn_of_same_names,
)
from composer_copypaste.errors import DataError, DataWarning, first_few


@dataclass(frozen=True, eq=False)
class Inspection:
    """What can be used of a COCO file, and what is wrong with the rest."""

    path: Path
    images: Mapping[int, CocoImage] = field(repr=False)
    categories: tuple[Category, ...]
    groups: Mapping[int, Sequence[CocoAnnotation]] = field(repr=False)
    """The annotations of each image id that are valid by themselves."""
    has_annotations: bool
    """Whether the file has the list, as files of test sets do not."""
    problems: Sequence[str] = field(repr=False)
    """Why a training refuses the file; none where it does not."""
    warnings: Sequence[str] = field(repr=False)


def inspect_annotations(content: object, path: Path, spelling: SettingSpelling = python_spelling) -> Inspection:
    """Read parsed JSON, and go on where something is wrong; its list of annotations is emptied on the way.

    A file of images without the list of annotations, or without categories, as of test sets, is read too. ``spelling``:
    how the user gives the settings of reading, for messages.

    Raises:
        DataError: where it is no COCO file at all.
    """
    place = str(path)
    has_annotations = not (isinstance(content, dict) and isinstance(content.get("images"), list)) or (
        "annotations" in content
    )
    if not has_annotations and isinstance(content, dict):
        content = {"categories": []} | content | {"annotations": []}
    has_boxes_alone = _has_no_outlines(content)
    options = ReadingOptions(None, "refuse", spelling, reads_images=has_annotations, outlines=not has_boxes_alone)
    lists = find_lists(content, place, options)
    found, collected = Findings(), _Collected(place)
    categories = parse_categories(lists["categories"], found) if has_annotations or lists["categories"] else {}
    images = parse_images(lists["images"], options, found)
    groups: dict[int, list[CocoAnnotation]] = {image: [] for image in images}
    if has_annotations and not lists["annotations"]:
        collected.warnings.append("the list 'annotations' is empty")
    if found.lacks_ids and lists["annotations"]:
        collected.problems.append("the annotations cannot be checked before all images and categories have ids")
    elif lists["annotations"]:
        parse_annotations(lists["annotations"], images, categories, groups, options, found)
    collected.problems += [*found.problems, *found.bad]
    if has_boxes_alone:
        collected.warnings.append(
            "no annotation has an outline ('segmentation'): masks can be neither learned nor scored"
        )
    collected.run(lambda: found.warn_of_left_out_parts(place))
    _check_together(images, groups, options, collected)
    collected.run(lambda: check_crowds(place, found.crowds, spelling))
    collected.run(lambda: warn_of_same_names(place, categories, groups))
    return Inspection(
        path,
        images,
        tuple(sorted(categories.values(), key=lambda category: category.id)),
        groups,
        has_annotations,
        collected.problems,
        collected.warnings,
    )


def _has_no_outlines(content: Any) -> bool:
    """Whether there are annotations, and none of them has an outline."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    objects = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return bool(objects) and not any(entry.get("segmentation") for entry in objects)


def _check_together(
    images: Mapping[int, CocoImage],
    groups: Mapping[int, Sequence[CocoAnnotation]],
    options: ReadingOptions,
    collected: "_Collected",
) -> None:
    """The checks of annotations against each other, all of them; those of `check_objects` end at the first."""
    place = collected.place
    collected.run(lambda: check_images_of_one_file(place, images, groups))
    compared = compare_boxes(images, groups)
    if compared.of_the_file is not None:
        collected.problems.append(compared.of_the_file)
    image_of = {a["id"]: image for image, group in groups.items() for a in group} if compared.of_objects else {}
    collected.problems += [
        f"annotation {id_} (image {image_of[id_]}): {why}" for id_, why in compared.of_objects.items()
    ]
    if compared.doubtful:
        ids = first_few(compared.doubtful)
        collected.warnings.append(f"boxes that overlap little with their masks, of the annotations {ids}")
    repeated = find_repeated_objects(images, groups)
    total = sum(map(len, groups.values()))
    collected.run(lambda: check_repeated(place, repeated, total, options.spelling("bad_objects", "leave_out")))


@dataclass
class _Collected:
    """Problems and warnings, without the place that each begins with."""

    place: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def run(self, check: Callable[[], object]) -> None:
        """Run a check, and keep what it warns of or raises."""
        with self.keeping():
            check()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the warnings and the ``DataError`` of what is inside."""
        start = f"{self.place}: "
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            try:
                yield
            except DataError as error:
                lines = str(error).removeprefix(start).splitlines()
                self.problems += lines if len(lines) == 1 else [line.strip() for line in lines[1:]]
        self.warnings += [str(each.message).removeprefix(start) for each in caught]
