"""A pool of cut-outs to paste: objects from a COCO file, or images with transparency."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import check_images, map_in_threads, with_file_names_in_folder
from composer_copypaste.data.images import read_image, read_rgba
from composer_copypaste.data.rle import cropped_mask, draw_cropped_masks
from composer_copypaste.errors import DataError, count_noun, did_you_mean, format_problems
from composer_copypaste.files import describe_missing
from composer_copypaste.functional.layout import SourceObjects, UndrawnMasks, box_windows
from composer_copypaste.functional.windows import Window
from composer_copypaste.progress import Progress
from composer_copypaste.settings import POOL_MEGABYTES, ImageSettings

MARGIN = 1
"""Number of pixels around an object's box that are kept with it."""

_THREADS = 4
_BYTES_PER_PIXEL = 4
"""Three colors and the mask."""

Pixels = tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "h w"]]


@dataclass(frozen=True)
class CutOut:
    """An object that can be pasted, before its pixels are read."""

    label: int
    box: Float[ndarray, "4"]
    """(x1, y1, x2, y2) in its image."""
    area: float
    """The number of pixels of its mask."""
    size: tuple[int, int]
    """Height and width of the image."""
    read: Callable[[Window], Pixels]
    """Gives the pixels and the mask in a window of the image. A pool can be pickled if these functions can."""
    name: str = ""
    """Where it was cut from: the file's name in its folder, and the annotation's id if there is one: "dog.png 7"."""
    has_background: bool = True
    """Whether the image shows what is around the object."""

    @property
    def window(self) -> Window:
        """The part of the image that is read: the box and a margin."""
        (row,) = box_windows(self.box[None] + MARGIN * np.array([-1, -1, 1, 1]), self.size).tolist()
        return Window(*row)

    @property
    def place(self) -> SourceObjects:
        """The object in its window; its mask is not drawn."""
        corner = np.array([self.window.x1, self.window.y1] * 2)
        masks = UndrawnMasks.anywhere(1, self.window.shape)
        return SourceObjects(masks, (self.box - corner)[None], self.has_background)


class CutOutPool:
    """Cut-outs as additional sources of copy-paste: for images without annotations, and for rare categories.

    Pixels are read when a cut-out is pasted. Those used last are kept in host memory, as uint8.

    Args:
        cut_outs: the cut-outs.
        megabytes: limit to the memory for pixels, in 10**6 bytes; the cut-out used last is kept in any case.

    Raises:
        DataError: where there are no cut-outs, or ``megabytes`` is not a size.
    """

    def __init__(self, cut_outs: Sequence[CutOut], *, megabytes: float | int = POOL_MEGABYTES) -> None:
        if not cut_outs:
            raise DataError("a pool needs at least one cut-out, got none")
        if not (isinstance(megabytes, int | float) and 0 <= megabytes < np.inf):
            raise DataError(f"megabytes: expected a number, 0 or more, got {megabytes!r}")
        corners = np.array([[cut.window.x1, cut.window.y1] * 2 for cut in cut_outs])
        self.labels: Integer[ndarray, " n"] = np.array([cut.label for cut in cut_outs])
        self.boxes: Float[ndarray, "n 4"] = np.stack([cut.box for cut in cut_outs]) - corners
        self.areas: Float[ndarray, " n"] = np.array([cut.area for cut in cut_outs], dtype=np.float64)
        self.image_pixels: Integer[ndarray, " n"] = np.array([cut.size[0] * cut.size[1] for cut in cut_outs])
        self.has_background: Bool[ndarray, " n"] = np.array([cut.has_background for cut in cut_outs])
        self._cut_outs = list(cut_outs)
        self._limit = int(megabytes * 10**6)
        self._kept: OrderedDict[int, Pixels] = OrderedDict()
        self._nbytes = 0

    @classmethod
    def from_coco(
        cls,
        annotations: Path | str | CocoAnnotations,
        images: Path | str,
        *,
        category_names: Sequence[str] | None = None,
        megabytes: float | int = POOL_MEGABYTES,
        image_settings: ImageSettings | None = None,
    ) -> "CutOutPool":
        """The annotated objects of a COCO file, without crowds.

        Args:
            annotations: a COCO instance JSON, or annotations that are already loaded.
            images: the folder that the file names are relative to.
            category_names: those of the training data, of label 1, of label 2 and so on. Objects of other categories
                are left out. None: the categories of the file.
            megabytes: see the class.
            image_settings: how the image files are read; None: the default settings.

        Raises:
            DataError: where annotations or images cannot be used, or no object has one of these categories.
        """
        if not isinstance(annotations, CocoAnnotations):
            annotations = CocoAnnotations.load(annotations)
        annotations = with_file_names_in_folder(annotations, Path(images))
        check_images(annotations, Path(images), image_settings)
        names = [category.name for category in annotations.categories]
        labels = _labels_by_name(names if category_names is None else category_names)
        cut_outs = list(_cut_outs_of_coco(annotations, Path(images), labels, image_settings))
        if not cut_outs:
            raise DataError(f"{annotations.path}: has no object of the categories {', '.join(category_names or names)}")
        return cls(cut_outs, megabytes=megabytes)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        category_names: Sequence[str],
        *,
        megabytes: float | int = POOL_MEGABYTES,
        image_settings: ImageSettings | None = None,
    ) -> "CutOutPool":
        """Images with transparency, in folders named after their categories: ``folder/dog/1.png``.

        A pixel belongs to the object if its alpha is above 127. All images are decoded now, to find the objects.

        Args:
            folder: the folder of the categories' folders.
            category_names: those of the training data, of label 1, of label 2 and so on.
            megabytes: see the class.
            image_settings: how the image files are read; None: the default settings.

        Raises:
            DataError: listing folders that have no category's name or are empty, and images that cannot be used.
        """
        folder = Path(folder)
        labels = _labels_by_name(category_names)
        problems, files = _folder_problems_and_images(folder, labels)
        found = map_in_threads(lambda file: _cut_out_of_file(file[0], file[1], image_settings), files, _THREADS)
        problems += [cut for cut in found if isinstance(cut, str)]
        if problems:
            raise DataError(format_problems(f"{folder}: cannot be used as a pool of cut-outs", problems))
        return cls([cut for cut in found if isinstance(cut, CutOut)], megabytes=megabytes)

    def filled(self, numbers: Sequence[int] | None = None, *, seed: int = 0) -> "CutOutPool":
        """A pool of as many of the cut-outs as its memory holds, read now: one of each category in turn.

        So a rare category has all of its cut-outs in it while a frequent one has some. No file is read later.

        Args:
            numbers: of the cut-outs to choose from; None: all.
            seed: which cut-outs of a category come first.

        Raises:
            DataError: naming the file that cannot be read, or where the memory does not hold one cut-out.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        allowed = set(range(len(self)) if numbers is None else numbers)
        chosen = _that_fit([self._cut_outs[number] for number in order if number in allowed], self._limit)
        if not chosen:
            raise DataError(f"megabytes: expected memory for at least one cut-out, got {self._limit / 1e6:g}")
        with Progress("reading cut-outs", "cut-outs", len(chosen)) as bar:
            pixels = map_in_threads(partial(_read_and_count, bar), chosen, _THREADS)
        pool = CutOutPool(chosen, megabytes=self._limit / 10**6)
        pool._kept.update(enumerate(pixels))
        pool._nbytes = sum(map(_pixels_nbytes, pixels))
        return pool

    def __len__(self) -> int:
        return len(self._cut_outs)

    def __repr__(self) -> str:
        return f"CutOutPool({count_noun(len(self), 'cut-out')})"

    def cut_out(self, number: int) -> CutOut:
        """A cut-out, whose pixels can be read without the pool."""
        return self._cut_outs[number]

    @property
    def nbytes(self) -> int:
        """The memory of the kept pixels, in bytes."""
        return self._nbytes

    def read(self, number: int) -> Pixels:
        """The pixels of a cut-out, and its mask of 0 and 1.

        Raises:
            DataError: naming the file, where it cannot be read any more.
        """
        if number not in self._kept:
            self._kept[number] = self._cut_outs[number].read(self._cut_outs[number].window)
            self._nbytes += _pixels_nbytes(self._kept[number])
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and self.nbytes > self._limit:
            self._nbytes -= _pixels_nbytes(self._kept.popitem(last=False)[1])
        return self._kept[number]


def _that_fit(cut_outs: Sequence[CutOut], nbytes: int) -> list[CutOut]:
    """One cut-out of each category after the other, in their order, those that fit into the memory that is left."""
    turns: Counter[int] = Counter()
    in_turn = []
    for place, cut_out in enumerate(cut_outs):
        in_turn.append((turns[cut_out.label], place, cut_out))
        turns[cut_out.label] += 1
    chosen = []
    for *_, cut_out in sorted(in_turn, key=lambda each: each[:2]):
        height, width = cut_out.window.shape
        if (size := _BYTES_PER_PIXEL * height * width) <= nbytes:
            chosen.append(cut_out)
            nbytes -= size
    return chosen


def _read_and_count(bar: Progress, cut_out: CutOut) -> Pixels:
    pixels = cut_out.read(cut_out.window)
    bar.advance()
    return pixels


def _pixels_nbytes(pixels: Pixels) -> int:
    return sum(values.numel() for values in pixels)


def _labels_by_name(names: Sequence[str]) -> dict[str, int]:
    if isinstance(names, str):  # its letters would be the names
        raise DataError(f"category_names: expected a list of names, got {names!r}")
    labels = {name: label for label, name in enumerate(names, start=1)}
    if len(labels) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise DataError(f"categories: cut-outs are told apart by names, but two categories are called {twice!r}")
    return labels


def _cut_outs_of_coco(
    annotations: CocoAnnotations, folder: Path, labels: dict[str, int], settings: ImageSettings | None
) -> Iterator[CutOut]:
    names = {category.id: category.name for category in annotations.categories}
    for image in annotations.images:
        objects = annotations.objects_of(image)
        boxes, areas = objects.boxes.double().numpy(), objects.area.tolist()
        for annotation, box, area in zip(annotations.annotations[image.id], boxes, areas, strict=True):
            label = labels.get(names[annotation["category_id"]])
            if label is not None and not annotation["iscrowd"]:
                reader = partial(_read_coco_cut_out, folder, settings, image, annotation)
                name = f"{image.file_name} {annotation['id']}"
                yield CutOut(label, box, area, (image.height, image.width), reader, name)


def _read_coco_cut_out(
    folder: Path, settings: ImageSettings | None, image: CocoImage, annotation: CocoAnnotation, window: Window
) -> Pixels:
    size = (image.height, image.width)
    pixels = read_image(folder / image.file_name, size, settings=settings)
    mask = draw_cropped_masks([cropped_mask(annotation["segmentation"], size)], size)[0]
    return _contiguous_copy(pixels[:, *window.slices]), _contiguous_copy(mask[window.slices])


def _contiguous_copy(values: UInt8[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    return values.clone(memory_format=torch.contiguous_format)


def _folder_problems_and_images(folder: Path, labels: dict[str, int]) -> tuple[list[str], list[tuple[Path, int]]]:
    """The problems of a folder of categories' folders, and its images with their labels."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {describe_missing(folder, 'folder of cut-outs')}")
    problems, files = [], []
    for entry in _non_hidden_entries(folder):
        images = _non_hidden_entries(entry) if entry.is_dir() else []
        if not entry.is_dir():
            problems.append(f"{entry.name}: expected in a folder that has the name of its category")
        elif entry.name not in labels:
            hint = did_you_mean(entry.name, labels) or f"expected one of {', '.join(labels)}"
            problems.append(f"{entry.name}: is no category; {hint}")
        elif not images:
            problems.append(f"{entry.name}: the folder is empty, expected images with transparency")
        else:
            files += [(path, labels[entry.name]) for path in images]
    if not files and not problems:
        problems.append("it is empty, expected folders that have the names of categories")
    return problems, files


def category_folder_images(folder: Path) -> list[Path]:
    """The images in a folder of categories' folders, in the order of their numbers in the pool."""
    return [path for entry in _non_hidden_entries(folder) if entry.is_dir() for path in _non_hidden_entries(entry)]


def _non_hidden_entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _cut_out_of_file(path: Path, label: int, settings: ImageSettings | None) -> CutOut | str:
    """The cut-out in a file, or what is wrong with the file."""
    try:
        opaque = read_rgba(path, settings)[3] > 127
    except DataError as error:
        return str(error).removeprefix(f"{path.parents[1]}/")
    if not opaque.any():
        return f"{path.parent.name}/{path.name}: the image is transparent: no alpha is above 127"
    rows, columns = (opaque.any(dim=dim).nonzero() for dim in (1, 0))
    y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    height, width = opaque.shape
    box, area = np.array([x1, y1, x2, y2], dtype=np.float64), float(opaque.sum())
    reader = partial(_read_cut_out_file, path, settings)
    name = f"{path.parent.name}/{path.name}"
    return CutOut(label, box, area, (height, width), reader, name, has_background=False)


def _read_cut_out_file(path: Path, settings: ImageSettings | None, window: Window) -> Pixels:
    image = read_rgba(path, settings)[:, *window.slices]
    mask = image[3] > 127
    colors = _fill_transparent_colors(image[:3].float()[None], mask.float()[None, None])[0]
    return colors.round().to(torch.uint8), mask.to(torch.uint8)


def _fill_transparent_colors(
    colors: Float[Tensor, "1 3 h w"], known: Float[Tensor, "1 1 h w"]
) -> Float[Tensor, "1 3 h w"]:
    """The colors, with those of transparent pixels replaced by about the colors of the nearest opaque ones.

    The colors of transparent pixels are arbitrary, often black: after resizing they would show as a seam around the
    object. ``known`` is 1 where a pixel is opaque.
    """
    if known.all() or colors.shape[2:] == (1, 1):
        return colors
    height, width = colors.shape[2:]
    counts, sums = (functional.avg_pool2d(values, 2, ceil_mode=True) for values in (known, colors * known))
    coarse = _fill_transparent_colors(sums / counts.clamp(min=0.01), (counts > 0).float())
    wide = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, :, :height, :width]
    return torch.where(known.bool(), colors, wide)
