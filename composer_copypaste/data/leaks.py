"""Images that several annotation files share, such as those of training and evaluation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_groups import equal_content, groups_in, locate_images
from composer_copypaste.errors import UserError, first_few


@dataclass(frozen=True)
class Leak:
    """Images of several annotation files that are equal, or of one group.

    Attributes:
        kind: "equal files": byte by byte; "group": of the same value of a key.
        value: The group's value as JSON; for equal files their checksum.
        images: For each annotation file that has such images, their file names.
    """

    kind: Literal["equal files", "group"]
    value: str
    images: tuple[tuple[Path, tuple[str, ...]], ...]

    def __str__(self) -> str:
        places = " = ".join(f"{path}: {first_few(names)}" for path, names in self.images)
        return f"{self.kind if self.kind == 'equal files' else f'group {self.value}'}  {places}"


def find_leaks(
    annotations: Sequence[Path | str], *, images: Sequence[Path | str] = (), group: str | None = None
) -> list[Leak]:
    """The images, and the groups of images, that more than one of these annotation files has.

    Args:
        annotations: two COCO files or more. Their objects are not looked at.
        images: the folder of the images of all files, or one for each. With it, equal files are found, byte by byte and
            under any names.
        group: a key of the images in the JSON files, whose values are compared.

    Raises:
        DataError: where a file is broken, or images are missing or lack the key.
        UserError: where there is nothing to compare, or a file is given twice with the same images.
    """
    if len(annotations) < 2 or not (images or group):
        raise UserError("expected two annotation files or more, and the folders of their images, or a key to group by")
    files = [AnnotationFile.read_unchecked(path) for path in annotations]
    folders = folders_of(files, images) if images else []
    check_given_once([file.path for file in files], folders)
    leaks = find_equal_images([file.annotations for file in files], folders) if images else []
    if group is not None:
        groups = [groups_in(file.content, file.path, group) for file in files]
        leaks += _shared_values("group", [file.annotations for file in files], groups)
    return leaks


def find_equal_images(sets: Sequence[CocoAnnotations], folders: Sequence[Path]) -> list[Leak]:
    """The images that more than one data set has, byte by byte; ``folders`` has the folder of each set's images.

    Raises:
        DataError: where images are missing.
    """
    located = [locate_images(annotations, folder) for annotations, folder in zip(sets, folders, strict=True)]
    return _shared_values("equal files", sets, equal_content(located))


def folders_of(files: Sequence[object], images: Sequence[Path | str]) -> list[Path]:
    """The folder of each file's images, where one is given for all, or one for each.

    Raises:
        UserError: where there are others.
    """
    if len(images) not in (1, len(files)):
        raise UserError(
            f"images: expected one folder for all files, or one for each of {len(files)}, got {len(images)}"
        )
    return [Path(folder) for folder in (images if len(images) == len(files) else [*images] * len(files))]


def check_given_once(files: Sequence[Path], folders: Sequence[Path] = ()) -> None:
    """Raise ``UserError`` where a file is given twice, under any names, with the same folder of images or without."""
    first: dict[tuple[Path, ...], Path] = {}
    for number, file in enumerate(files):
        same = (file.resolve(), *(folder.resolve() for folder in folders[number : number + 1]))
        if same in first:
            other = "" if first[same] == file else f", also as {first[same]}"
            raise UserError(f"{file}: the same file is given twice{other}; name different files, or this one once")
        first[same] = file


def _shared_values(
    kind: Literal["equal files", "group"], sets: Sequence[CocoAnnotations], values: Sequence[Mapping[int, str]]
) -> list[Leak]:
    """The values that images of more than one set have."""
    names: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for number, (annotations, of_set) in enumerate(zip(sets, values, strict=True)):
        for image in annotations.images:
            names[of_set[image.id]][number].append(image.file_name)
    return [
        Leak(kind, value, tuple((sets[number].path, tuple(same)) for number, same in found.items()))
        for value, found in names.items()
        if len(found) > 1
    ]
