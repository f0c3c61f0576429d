"""Parts of a COCO file, written as COCO files: some of its images, some of its categories, or a fraction."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_write import write_new_coco
from composer_copypaste.data.splits import draw_fractions
from composer_copypaste.errors import DataError, as_json, first_few, format_problems
from composer_copypaste.files import check_regular_file


def write_subset(annotations: Path | str | AnnotationFile, image_ids: Collection[int], output: Path | str) -> None:
    """Write the file's images of these ids with their annotations; all else stays as it is in the file.

    Ids, categories, all keys, and the order of images and annotations are kept; objects are not checked. The same input
    gives the same bytes, and a file that holds these already is left alone.

    Args:
        annotations: a COCO file.
        image_ids: the ids of its images to be kept, in any order.
        output: the file to write.

    Raises:
        DataError: where the file is broken, or has no image of an id.
        OutputError: where ``output`` is there, and holds something else.
    """
    file = annotations if isinstance(annotations, AnnotationFile) else AnnotationFile.read_unchecked(annotations)
    write_new_coco({Path(output): file.with_images(image_ids).content})


def subset_annotations(  # noqa: PLR0913 - by name, and each of its own kind
    annotations: Path | str | AnnotationFile,
    output: Path | str,
    *,
    images: Sequence[str | int] | Path | None = None,
    categories: Collection[str] | None = None,
    empty_images: bool = False,
    fraction: float | None = None,
    group: str | None = None,
    seed: int = 0,
) -> AnnotationFile:
    """Write a part of a COCO file, and return its content; all else stays as it is in the file.

    The choices apply in the order below. Ids do not change. A file that holds the subset already is left alone.

    Args:
        annotations: a COCO file.
        output: the file to write.
        images: ids or file names of the images to be kept, or a text file with one in each line. A name may lack its
            folder, or its extension too.
        categories: names of the categories to be kept. Images that show none of them are left out.
        empty_images: keep these too, if ``categories`` are given.
        fraction: of the images, stratified by category as ``draw_fractions`` does it.
        group: with ``fraction``, a key of the images: those with the same value are drawn together.
        seed: with ``fraction``, 0 or more; another seed draws other images.

    Raises:
        DataError: where the file is broken, has no such images or categories, or nothing would be left.
        OutputError: where ``output`` is there, and holds something else.
        ValueError: where the fraction or the seed is out of range.
    """
    file = annotations if isinstance(annotations, AnnotationFile) else AnnotationFile.read(annotations)
    if images is not None:
        file = file.with_images(find_images(file, images))
    if categories is not None:
        file = file.with_categories(categories)
        if not empty_images:
            file = file.with_images([image for image, objects in file.annotations.annotations.items() if objects])
    if fraction is not None:
        file = file.with_images(draw_fractions(file, [fraction], seed=seed, group=group)[fraction])
    if not file.annotations.images:
        raise DataError(f"{file.path}: no image is left")
    write_new_coco({Path(output): file.content})
    return file


def read_image_list(path: Path | str) -> dict[int, str]:
    """The ids or file names in the lines of a text file, by the number of the line.

    Raises:
        DataError: where there is no such text file.
    """
    try:
        check_regular_file(path)
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: no list of images: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text file with an id or a file name in each line") from None
    return {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}


def find_images(file: AnnotationFile, wanted: Sequence[str | int] | Path) -> list[int]:
    """The ids of images that are given as ids or as file names, in a list or in a text file.

    Raises:
        DataError: listing those that the file does not have, and names that several images have, with their lines.
    """
    ids_by_name = _ids_by_name(file.annotations.images)
    found, problems = [], []
    for place, given in _listed_images(wanted):
        ids = _ids_of(given, ids_by_name, file)
        if len(ids) == 1:
            found += ids
        elif ids:
            problems.append(f"{place}{as_json(given)} is the name of several images: {first_few(ids)}; give ids")
        else:
            problems.append(f"{place}no image has the id or file name {as_json(given)}")
    if problems:
        raise DataError(format_problems(str(file.path), problems))
    return found


def _listed_images(wanted: Sequence[str | int] | Path) -> list[tuple[str, str]]:
    """Where each image is named, as a message begins with it, and its id or file name."""
    if isinstance(wanted, Path):
        return [(f"{wanted}:{number}: ", given) for number, given in read_image_list(wanted).items()]
    return [("", str(given).strip()) for given in wanted]


def _ids_of(given: str, ids_by_name: dict[str, list[int]], file: AnnotationFile) -> list[int]:
    if given.isdecimal() and int(given) in file.annotations.annotations:
        return [int(given)]
    return ids_by_name.get(given, [])


def _ids_by_name(images: Sequence[CocoImage]) -> dict[str, list[int]]:
    """The ids of images by file name, without its folder too, and without its extension: as lists of VOC have them."""
    ids: dict[str, list[int]] = defaultdict(list)
    for image in images:
        path = PurePosixPath(image.file_name.replace("\\", "/"))
        for name in {image.file_name, path.name, path.stem, str(path.with_suffix("")) if path.name else ""}:
            ids[name].append(image.id)
    return ids
