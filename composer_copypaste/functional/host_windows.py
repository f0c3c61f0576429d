"""A kernel for the host, compiled by Numba: which objects' windows meet those of what lands on their image."""

from typing import no_type_check

from composer_copypaste.functional.host_memory import compiled


@compiled
@no_type_check
def mark_touched(objects, windows, landings, landed, found):
    """Mark, of each image's objects, those whose window (y1, x1, y2, x2) shares a pixel with one of its landings'.

    ``objects`` and ``landings`` hold the first of each image, and one past the last, in the rows of their windows.
    """
    for i in range(len(objects)):
        for g in range(objects[i, 0], objects[i, 1]):
            y1, x1, y2, x2 = windows[g]
            for m in range(landings[i, 0], landings[i, 1]):
                other = landed[m]
                if max(y1, other[0]) < min(y2, other[2]) and max(x1, other[1]) < min(x2, other[3]):
                    found[g] = True
                    break
