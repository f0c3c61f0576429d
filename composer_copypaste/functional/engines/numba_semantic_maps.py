"""Numba's kernels for maps of class ids on a CPU: the box around each class, its mask, and how it is pasted."""

from typing import no_type_check

from composer_copypaste.functional.engines.numba_memory import compiled, values_at


@compiled
@no_type_check
def class_boxes(maps, low, boxes):
    """Widen the boxes (x1, y1, x2, y2) of each map, one for each id from the lowest on, to its pixels."""
    height, width = maps.shape[1:]
    for n in range(len(maps)):
        for y in range(height):
            row = maps[n, y]
            begin = 0
            while begin < width:  # from run to run of one id
                end = begin + 1
                while end < width and row[end] == row[begin]:
                    end += 1
                box = boxes[n, row[begin] - low]
                box[0], box[1] = min(box[0], begin), min(box[1], y)
                box[2], box[3] = max(box[2], end), y + 1
                begin = end


@compiled
@no_type_check
def class_masks(ids, numbers, windows, pixels):
    """Write the masks of these numbers in their windows, one after the other."""
    end = 0
    for n in range(len(numbers)):
        number, (y1, x1, y2, x2) = ids.dtype.type(numbers[n]), windows[n]
        for y in range(y1, y2):
            row, begin, end = ids[y, x1:x2], end, end + x2 - x1
            written = pixels[begin:end]
            for k in range(len(written)):
                written[k] = row[k] == number


@compiled
@no_type_check
def paint_ids(images, pasted, labels, owners_like):
    """Write the label of each pasted object at the pixels that it owns."""
    for m in range(len(pasted)):
        each, label = pasted[m], labels[m]
        image, number, (y1, x1, y2, x2) = images[each.image], owners_like.dtype.type(each.number), each.window
        for y in range(y1, y2):
            owners = values_at(image.owners, y * image.width + x1, x2 - x1, owners_like)
            ids = values_at(image.pixels, y * image.width + x1, x2 - x1, labels)
            for k in range(len(ids)):
                before = ids[k]
                ids[k] = label if owners[k] == number else before
