"""Numba's kernels for maps of class ids on a CPU: the box around each class, and its mask."""

from typing import no_type_check

from composer_copypaste.functional.engines.numba_memory import compiled


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
def class_masks(ids, numbers, masks):
    """Set the pixels of each number's mask, which is empty before; the numbers are ascending, others have no mask."""
    height, width = ids.shape
    for y in range(height):
        begin = 0
        while begin < width:  # from run to run of one id
            end = begin + 1
            while end < width and ids[y, end] == ids[y, begin]:
                end += 1
            low, high = 0, len(numbers)
            while low < high:
                middle = (low + high) // 2
                if numbers[middle] < ids[y, begin]:
                    low = middle + 1
                else:
                    high = middle
            if low < len(numbers) and numbers[low] == ids[y, begin]:
                masks[low, y, begin:end] = 1
            begin = end
