"""Several COCO files as one: categories are matched by name, ids stay unique, images of two files are found."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from composer_copypaste.data.annotation_file import AnnotationFile, check_category_names
from composer_copypaste.data.annotation_json import (
    Json,
    ReadingOptions,
    SettingSpelling,
    as_whole_number,
    python_spelling,
)
from composer_copypaste.data.coco_json import garbage_collection_paused
from composer_copypaste.data.coco_write import write_new_coco
from composer_copypaste.data.image_groups import LocatedImage, equal_content, locate_images
from composer_copypaste.data.leaks import check_given_once, folders_of
from composer_copypaste.errors import DataError, as_json, count_noun, first_few, format_problems, warn_of_data

Duplicates = Literal["refuse", "first", "join"]
ImageOfFile = tuple[int, int]
"""The number of a file among those that are merged, and the id of one of its images."""

_MERGED_LISTS = ("images", "annotations", "categories", "licenses")


@dataclass(frozen=True)
class MergedAnnotations:
    """The content of several files.

    Attributes:
        content: The merged COCO file.
        images: The folder that its file names are relative to; None where no folders were given.
        changed_ids: The number of images, annotations and categories whose ids are not those of their files.
        duplicates: How many images were left out, since an earlier file has them.
    """

    content: Json
    images: Path | None
    changed_ids: Mapping[str, int]
    duplicates: int


def merge_annotations(  # noqa: PLR0913 - by name, and each of its own kind
    annotations: Sequence[Path | str | AnnotationFile],
    output: Path | str,
    *,
    images: Sequence[Path | str] = (),
    rename: Mapping[str, str] | None = None,
    renumber: bool = False,
    duplicates: Duplicates = "refuse",
    spelling: SettingSpelling = python_spelling,
) -> MergedAnnotations:
    """Write several COCO files as one, and return its content; keys that only other tools know are kept.

    Categories of the same name become one. Ids stay as they are where they are free. Of other keys of the files, such
    as "info", the first file's count. A file that holds the same already is left alone.

    Args:
        annotations: COCO files, or one file to rename or renumber.
        output: the file to write.
        images: the folder of the images of all files, or one for each. With several, file names become relative to the
            folder that holds them all. With any, files that are equal byte by byte are found.
        rename: new names of categories by their names; two that get the same name become one.
        renumber: give images, annotations and categories the ids 1, 2, 3, ... in their order.
        duplicates: what to do where a later file has an image of an earlier one: "refuse" it; take the "first" file's
            image and objects; or "join": one image with the objects of both, those that repeat one left out.
        spelling: how the user gives ``duplicates`` and ``images``, for messages.

    Raises:
        DataError: where a file is broken, images are missing, or two files have the same image or file name.
        OutputError: where ``output`` is there, and holds something else.
        UserError: where the number of folders is another one, or a file is given twice with the same images.
    """
    files = [each if isinstance(each, AnnotationFile) else AnnotationFile.read(each) for each in annotations]
    folders = folders_of(files, images) if images else []
    check_given_once([file.path for file in files], folders)
    located = [locate_images(file.annotations, folder) for file, folder in zip(files, folders, strict=False)]
    root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders])) if folders else None
    if root is None:
        _check_names(files, spelling)
        names = [{image.id: image.file_name for image in file.annotations.images} for file in files]
    else:
        names = [{image.id: _name_in(root, image) for image in of_file} for of_file in located]
    earlier = _images_of_earlier_files(equal_content(located))
    if earlier and duplicates == "refuse":
        raise DataError(_describe_duplicates(earlier, names, spelling))
    numbers = _Numbers(renumber)
    categories, category_ids = _merge_categories(files, rename or {}, numbers)
    licenses, license_ids = _merge_licenses(files, numbers)
    entries, image_ids = _merge_images(files, names, license_ids, earlier, numbers)
    if duplicates == "join":
        _check_sizes(files, earlier)
        image_ids |= {image: image_ids[first] for image, first in earlier.items()}
    objects = _merge_objects(files, image_ids, category_ids, numbers)
    lists: Json = {"images": entries, "annotations": objects, "categories": categories}
    content = _other_keys(files) | ({"licenses": licenses} if licenses else {}) | lists
    if duplicates == "join":
        content = _without_repeated(content, {image_ids[first] for first in earlier.values()}, Path(output))
    write_new_coco({Path(output): content})
    return MergedAnnotations(content, root, numbers.changed, len(earlier))


# ---- images of several files


def _check_names(files: Sequence[AnnotationFile], spelling: SettingSpelling) -> None:
    """Raise ``DataError`` where two files name the same image: without folders, none can tell if it is the same."""
    first: dict[str, Path] = {}
    problems = []
    for file in files:
        of_file = {image.file_name for image in file.annotations.images}
        problems += [f"{as_json(name)} of {file.path} is in {first[name]} too" for name in of_file & first.keys()]
        first |= dict.fromkeys(of_file - first.keys(), file.path)
    if problems:
        raise DataError(
            f"{count_noun(len(problems), 'file name')} of two files: {first_few(sorted(problems), 3)}. Give the folder "
            f"of the images ({spelling('images', 'FOLDER')}), one for each file where they differ: names then begin "
            "with their folders, and equal files are found"
        )


def _name_in(root: Path, image: LocatedImage) -> str:
    """The image's file name relative to a folder that holds its own."""
    folder = Path(os.path.abspath(image.folder)).relative_to(root)
    return image.file_name if folder == Path() else (folder / image.file_name).as_posix()


def _images_of_earlier_files(contents: Sequence[Mapping[int, str]]) -> dict[ImageOfFile, ImageOfFile]:
    """For each image that an earlier file has too, byte by byte, the first such image."""
    first: dict[str, ImageOfFile] = {}
    equal = {}
    for number, of_file in enumerate(contents):
        for id_, content in of_file.items():
            found = first.setdefault(content, (number, id_))
            if found[0] < number:
                equal[number, id_] = found
    return equal


def _describe_duplicates(
    earlier: Mapping[ImageOfFile, ImageOfFile], names: Sequence[Mapping[int, str]], spelling: SettingSpelling
) -> str:
    pairs = [f"{names[one][first]} = {names[other][id_]}" for (other, id_), (one, first) in earlier.items()]
    first, join = (spelling("duplicates", value) for value in ("first", "join"))
    number = f"{count_noun(len(pairs), 'image')} of an earlier file {'is' if len(pairs) == 1 else 'are'}"
    return (
        f"{number} in a later one too, byte by byte: {first_few(pairs, 3)}. {first} leaves the later ones out, {join} "
        "gives their objects to the earlier ones"
    )


def _check_sizes(files: Sequence[AnnotationFile], earlier: Mapping[ImageOfFile, ImageOfFile]) -> None:
    """Raise ``DataError`` where an image that is in two files has two sizes."""
    sizes = {
        (number, image.id): f"{image.width} x {image.height}"
        for number, file in enumerate(files)
        for image in file.annotations.images
    }
    problems = [
        f"image {image[1]} is {sizes[image]} (width x height), but {sizes[first]} in {files[first[0]].path}"
        for image, first in earlier.items()
        if sizes[image] != sizes[first]
    ]
    if problems:
        raise DataError(format_problems(str(files[next(iter(earlier))[0]].path), problems))


# ---- ids


class _Numbers:
    """New ids for the entries of several files, and how many of them are not those of their files."""

    def __init__(self, renumber: bool) -> None:
        self.renumber = renumber
        self.changed: Counter[str] = Counter()

    def give(self, kind: str, old: Sequence[int | None]) -> list[int]:
        """An id for each entry of a kind: the old one, where no earlier entry has it, unless all are renumbered."""
        if self.renumber:
            new = list(range(1, len(old) + 1))
        else:
            taken: set[int] = set()
            free = max((id_ for id_ in old if id_ is not None), default=0)
            new = []
            for id_ in old:
                if id_ is None or id_ in taken:
                    id_ = free = free + 1
                taken.add(id_)
                new.append(id_)
        self.changed[kind] += sum(one != other for one, other in zip(old, new, strict=True) if one is not None)
        return new


def _merge_categories(
    files: Sequence[AnnotationFile], rename: Mapping[str, str], numbers: _Numbers
) -> tuple[list[Json], dict[ImageOfFile, int]]:
    """The categories, one for each name, and the new id of each by the number of its file and its id there."""
    every = [category for file in files for category in file.annotations.categories]
    check_category_names(", ".join(str(file.path) for file in files), every, rename)
    merged: dict[str, Json] = {}
    name_of = {}
    for number, file in enumerate(files):
        for entry in file.content["categories"]:
            name = rename.get(entry["name"], entry["name"])
            merged.setdefault(name, entry if name == entry["name"] else entry | {"name": name})
            name_of[number, int(entry["id"])] = name
    ids = numbers.give("categories", [as_whole_number(entry["id"]) for entry in merged.values()])
    id_of = dict(zip(merged, ids, strict=True))
    entries = [entry | {"id": id_of[name]} for name, entry in merged.items()]
    return entries, {category: id_of[name] for category, name in name_of.items()}


def _merge_licenses(files: Sequence[AnnotationFile], numbers: _Numbers) -> tuple[list[Json], dict[ImageOfFile, int]]:
    """The licenses, each once, and the new id of each by the number of its file and its id there."""
    merged: dict[str, Json] = {}
    text_of = {}
    for number, file in enumerate(files):
        for entry in _licenses_of(file):
            text = json.dumps(entry | {"id": None}, sort_keys=True)
            merged.setdefault(text, entry)
            text_of[number, int(entry["id"])] = text
    ids = numbers.give("licenses", [as_whole_number(entry["id"]) for entry in merged.values()])
    id_of = dict(zip(merged, ids, strict=True))
    entries = [entry | {"id": id_of[text]} for text, entry in merged.items()]
    return entries, {license_: id_of[text] for license_, text in text_of.items()}


def _licenses_of(file: AnnotationFile) -> list[Json]:
    """The file's licenses, none where they are not as COCO has them: nothing checks this key."""
    found = file.content.get("licenses")
    good = isinstance(found, list) and all(
        isinstance(entry, dict) and as_whole_number(entry.get("id")) is not None for entry in found
    )
    return found if good and isinstance(found, list) else []


# ---- entries


def _merge_images(
    files: Sequence[AnnotationFile],
    names: Sequence[Mapping[int, str]],
    license_ids: Mapping[ImageOfFile, int],
    left_out: Mapping[ImageOfFile, object],
    numbers: _Numbers,
) -> tuple[list[Json], dict[ImageOfFile, int]]:
    """The images but for those left out, and the new id of each by the number of its file and its id there."""
    images = [
        ((number, int(entry["id"])), entry)
        for number, file in enumerate(files)
        for entry in file.content["images"]
        if (number, int(entry["id"])) not in left_out
    ]
    ids = numbers.give("images", [image[1] for image, _ in images])
    merged = []
    for (image, entry), id_ in zip(images, ids, strict=True):
        changed: Json = {"id": id_}
        if name := names[image[0]][image[1]]:  # images without objects need none
            changed["file_name"] = name
        license_ = as_whole_number(entry.get("license"))
        if license_ is not None and (image[0], license_) in license_ids:
            changed["license"] = license_ids[image[0], license_]
        merged.append(entry | changed)
    return merged, {image: id_ for (image, _), id_ in zip(images, ids, strict=True)}


@garbage_collection_paused()
def _merge_objects(
    files: Sequence[AnnotationFile],
    image_ids: Mapping[ImageOfFile, int],
    category_ids: Mapping[ImageOfFile, int],
    numbers: _Numbers,
) -> list[Json]:
    """The annotations of the images that have a new id."""
    objects = []
    for number, file in enumerate(files):
        for entry in file.content["annotations"]:
            image = image_ids.get((number, int(entry["image_id"])))
            if image is not None:
                objects.append((entry, image, category_ids[number, int(entry["category_id"])]))
    ids = numbers.give("annotations", [as_whole_number(entry.get("id")) for entry, *_ in objects])
    return [
        entry | {"id": id_, "image_id": image, "category_id": category}
        for id_, (entry, image, category) in zip(ids, objects, strict=True)
    ]


def _other_keys(files: Sequence[AnnotationFile]) -> Json:
    """All other keys of the files, with the value of the first that has them; warns of other values but of "info"."""
    kept: Json = {}
    for file in files:
        for key, value in file.content.items():
            if key not in _MERGED_LISTS and kept.setdefault(key, value) != value and key != "info":
                warn_of_data(f"{file.path}: {as_json(key)} is not that of an earlier file, whose value is kept")
    return kept


def _without_repeated(content: Json, image_ids: set[int], place: Path) -> Json:
    """The content, where of the objects of these images those are left out that repeat another one, with a warning."""
    joined = content | {
        "images": [image for image in content["images"] if image["id"] in image_ids],
        "annotations": [annotation for annotation in content["annotations"] if annotation["image_id"] in image_ids],
    }
    good = AnnotationFile.of_content(joined, place, ReadingOptions("ignore", "leave_out"))
    kept = {annotation["id"] for annotation in good.content["annotations"]}
    return content | {
        "annotations": [
            annotation
            for annotation in content["annotations"]
            if annotation["image_id"] not in image_ids or annotation["id"] in kept
        ]
    }
