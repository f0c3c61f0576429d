"""Copy-paste a second time, slowly: whole images in NumPy, one step after the other, no windows and no views."""

from fractions import Fraction

import numpy as np
import torch

ONE = 1 << 33  # half steps of 2**-32 pixels: pixel centres are whole numbers of them


def reference(images, targets, plan, settings, crops=(), no_background=()):
    """Images and targets after the plan; images keep their type, target fields come as NumPy arrays.

    ``crops`` are sources beyond the batch: images, each with the target of its one object. ``no_background`` are the
    numbers of sources that show nothing but their object.
    """
    if targets and "masks" not in targets[0]:
        pasted, results = reference(images, filled(images, targets), plan, settings, crops)
        return pasted, [{key: values for key, values in result.items() if key != "masks"} for result in results]
    sources, batch = [*images, *(image for image, _ in crops)], targets
    targets = [*targets, *(target for _, target in crops)]
    pasted, results = [], []
    for i, (image, target) in enumerate(zip(images, batch, strict=True)):
        rows = [row for row in range(len(plan)) if plan.target[row] == i]
        canvas, landed = image.detach(), []
        for row in rows:
            source, to_source = int(plan.source[row]), fixed(plan.to_source[row])
            given = numpy(targets[source]["masks"])[plan.instance[row]] != 0
            mask = eroded(given, to_source, image.shape[1:], settings.erosion)
            sigma = as_drawn(plan.blend_sigma[row], settings.blend_sigma)
            alpha = softened(mask, sigma) if sigma else mask.astype(float)
            change = None
            if settings.color_transfer:
                box = numpy(targets[source]["boxes"])[plan.instance[row]]
                near = surroundings(mask, box, plan.to_source[row].numpy())
                strength = as_drawn(plan.transfer_strength[row], settings.transfer_strength)
                change = (settings.color_transfer, mask, numpy(image.double())[:, near], strength)
            if settings.blend_mode == "poisson" and source not in no_background:
                change = (change, mask, numpy(image.double()))
                canvas = blended(canvas, sources[source].detach(), to_source, plan.color[row].tolist(), change)
            else:
                canvas = painted(canvas, sources[source].detach(), to_source, alpha, plan.color[row].tolist(), change)
            landed.append(mask)
        pasted.append(canvas)
        results.append(accounted(i, rows, landed, targets, plan, settings) if any(m.any() for m in landed) else target)
    return pasted, results


def as_drawn(drawn, setting):
    return float(setting if drawn.isnan() else drawn)


def filled(images, targets):
    """Targets of boxes alone with rectangles for masks."""
    return [{**target, "masks": rectangles(target, image)} for target, image in zip(targets, images, strict=True)]


def bank_crops(images, targets, settings, size):
    """The last objects of a batch that may be copied: images that end a pixel beyond their box, and targets."""
    by_box = targets and "masks" not in targets[0]
    if by_box:
        targets = filled(images, targets)
    crops = []
    for image, target in zip(images, targets, strict=True):
        height, width = image.shape[1:]
        for j, (x1, y1, x2, y2) in enumerate(numpy(target["boxes"]).astype(float)):
            area = (x2 - x1) * (y2 - y1) if by_box else (numpy(target["masks"])[j] != 0).sum()
            area = float(target["area"][j]) if "area" in target else area
            if not may_be_copied(int(target["labels"][j]), area, height * width, settings):
                continue
            left, top = max(0, int(np.floor(x1 - 1))), max(0, int(np.floor(y1 - 1)))
            right, bottom = min(width, int(np.ceil(x2 + 1))), min(height, int(np.ceil(y2 + 1)))
            fields = {key: values[j : j + 1] for key, values in target.items() if key != "image_id"}
            fields["masks"] = fields["masks"][:, top:bottom, left:right]
            fields["boxes"] = fields["boxes"].double() - torch.tensor([left, top, left, top])
            if "keypoints" in fields:
                fields["keypoints"] = fields["keypoints"] - torch.tensor([left, top, 0])
            if not crowds(fields)[0]:
                crops.append((image[:, top:bottom, left:right], fields))
    return crops[-size:]


def cut_outs(pool, dtype):
    """The sources of a pool, as a batch of that type has them; keypoints of two points that are not labelled."""
    crops = []
    for label, image, mask in pool.cut_outs:
        fields = {
            "boxes": torch.tensor([box_around(numpy(mask))]),
            "labels": torch.tensor([label]),
            "masks": mask[None],
        }
        fields |= {"area": torch.zeros(1), "iscrowd": torch.zeros(1), "keypoints": torch.zeros(1, 2, 3)}
        crops.append(((image / 255).to(dtype) if dtype.is_floating_point else image, fields))
    return crops


def may_be_copied(label, area, image, settings):
    """Whether the settings let an object of that label and area be copied."""
    if settings.labels is not None and label not in settings.labels:
        return False
    low, high = settings.area_range or (-np.inf, np.inf)
    relative_low, relative_high = settings.relative_area_range or (-np.inf, np.inf)
    in_range = low <= area <= high and relative_low * image <= area <= relative_high * image
    return in_range and (settings.label_weights or {}).get(label, 1) > 0


def rectangles(target, image):
    """Masks that fill the boxes."""
    y, x = np.mgrid[: image.shape[1], : image.shape[2]] + 0.5
    inside = [(x1 <= x) & (x < x2) & (y1 <= y) & (y < y2) for x1, y1, x2, y2 in numpy(target["boxes"])]
    return torch.from_numpy(np.array(inside, dtype=np.uint8).reshape(-1, *x.shape))


def numpy(values):
    return values.detach().cpu().numpy()


def fixed(to_source):
    return np.rint(to_source.numpy() * 2.0**32).astype(np.int64)


def positions(row, size):
    """One source coordinate of every pixel centre of an image, in half steps."""
    y, x = np.mgrid[: size[0], : size[1]]
    return row[0] * (2 * x + 1) + row[1] * (2 * y + 1) + 2 * row[2]


def nearest(mask, to_source, size):
    """The source pixel that contains each pixel's centre; nothing beyond the source."""
    x, y = (positions(row, size) // ONE for row in to_source)
    inside = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
    return mask[y * inside, x * inside] & inside


def tent(row, size, where, length):
    """Weights (pixel, source pixel) along one axis of the source."""
    centre = np.clip(positions(row, size)[where] / ONE, 0, length) - 0.5
    radius = max(1.0, np.hypot(row[0] / 2.0**32, row[1] / 2.0**32))
    weights = np.clip(1 - np.abs(np.arange(length) - centre[:, None]) / radius, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def stored(values, dtype):
    """Float64 numbers as an image of that type holds them."""
    values = torch.from_numpy(values)
    return (values if dtype.is_floating_point else values.round()).to(dtype)


def painted(image, source, to_source, alpha, factors, change=None):
    """The source's colors over the image, by alpha; the image is left bit by bit where alpha is 0."""
    where = alpha > 0
    if not where.any():
        return image
    colors = colors_at(where, source, to_source, change, image.dtype)
    if factors != [1, 1, 1]:
        colors = adjusted(colors, alpha[where], *factors, largest(image.dtype))
    below = numpy(image.double())
    below[:, where] += alpha[where] * (colors - below[:, where])
    result = image.clone()
    result[:, torch.from_numpy(where)] = stored(below[:, where], image.dtype)
    return result


def largest(dtype):
    return 1 if dtype.is_floating_point else 255


def colors_at(where, source, to_source, change, dtype):
    """The source's colors (channel, pixel) at pixels of the target, moved towards those around the object if asked."""
    size = where.shape
    across = tent(to_source[0], size, where, source.shape[2])
    down = tent(to_source[1], size, where, source.shape[1])
    columns, rows = across.any(axis=0), down.any(axis=0)
    patch = numpy(source.double())[:, rows][:, :, columns]
    colors = np.einsum("pcx,px->cp", np.einsum("py,cyx->pcx", down[:, rows], patch), across[:, columns])
    return transferred(colors, where, change, largest(dtype)) if change else colors


def blended(image, source, to_source, factors, change):
    """The source's colors over the image, its region two pixels larger without a seam: exactly by linear equations."""
    transfer, mask, before = change
    region = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        region[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    height, width = mask.shape
    sides = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    beside = {
        (y, x): [(y + v, x + u) for v, u in sides if 0 <= y + v < height and 0 <= x + u < width]
        for y, x in zip(*np.nonzero(region), strict=True)
    }
    if not beside:
        return image
    needed = region.copy()
    for places in beside.values():
        for place in places:
            needed[place] = True
    colors = np.zeros(before.shape)
    colors[:, needed] = colors_at(needed, source, to_source, transfer, image.dtype)
    if factors != [1, 1, 1]:
        colors[:, needed] = adjusted(colors[:, needed], mask[needed].astype(float), *factors, largest(image.dtype))
    number = {place: k for k, place in enumerate(beside)}
    left, right = np.zeros((len(number), len(number))), np.zeros((len(number), len(colors)))
    for place, k in number.items():
        for other in beside[place]:
            left[k, k] += 1
            if other in number:
                left[k, number[other]] -= 1
            else:
                right[k] += before[:, other[0], other[1]] - colors[:, other[0], other[1]]
    added = np.linalg.lstsq(left, right, rcond=None)[0]  # least squares: an object without a border stays as it is
    below = numpy(image.double())
    for (y, x), k in number.items():
        below[:, y, x] = np.clip(colors[:, y, x] + added[k], 0, largest(image.dtype))
    result = image.clone()
    result[:, torch.from_numpy(mask)] = stored(below[:, mask], image.dtype)
    return result


def surroundings(mask, box, to_source):
    """The pixels around an object with that box in its source: twice as far, 8 at least, without those of its mask."""
    height, width = mask.shape
    x1, y1, x2, y2 = np.add(box.astype(float), [-1, -1, 1, 1])
    (a, b, x), (c, d, y) = to_source
    corners = [(u - x, v - y) for u in (x1, x2) for v in (y1, y2)]
    xs = [(d * u - b * v) / (a * d - b * c) for u, v in corners]
    ys = [(a * v - c * u) / (a * d - b * c) for u, v in corners]
    left, right = np.clip([np.floor(min(xs)), np.ceil(max(xs))], 0, width).astype(int)
    top, bottom = np.clip([np.floor(min(ys)), np.ceil(max(ys))], 0, height).astype(int)
    across, down = max(8, int(np.ceil((right - left) / 2))), max(8, int(np.ceil((bottom - top) / 2)))
    near = np.zeros_like(mask)
    near[max(0, top - down) : bottom + down, max(0, left - across) : right + across] = True
    return near & ~mask if (near & ~mask).any() else near & mask


def transferred(colors, where, change, most):
    """Colors (channel, pixel) moved towards others, as far as the strength says."""
    method, mask, others, strength = change
    colors, others, of = np.clip(colors / most, 0, 1), np.clip(others / most, 0, 1), mask[where]
    if not of.any():
        return colors * most
    if method == "histogram":
        new = [matched(*channels) for channels in zip(colors, colors[:, of], others, strict=True)]
    else:
        lab, own, other = cielab(colors), cielab(colors[:, of]), cielab(others)
        change = np.clip(other.std(axis=1) / np.maximum(own.std(axis=1), 1e-6), 0.5, 2)
        new = srgb((lab - own.mean(axis=1)[:, None]) * change[:, None] + other.mean(axis=1)[:, None])
    return (colors + strength * (np.array(new) - colors)) * most


def matched(values, own, others):
    """Values with the distribution of others in place of their own, in 256 levels."""
    levels, counts = np.unique(np.rint(others * 255), return_counts=True)
    shares = [(np.rint(own * 255) <= level).mean() for level in range(256)]
    table = np.interp(shares, np.cumsum(counts) / counts.sum(), levels)
    return np.interp(values * 255, np.arange(256), table) / 255


XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([[0.95047], [1], [1.08883]])


def cielab(colors):
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    t = XYZ @ linear / WHITE
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def srgb(lab):
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    linear = np.clip(np.linalg.solve(XYZ, np.where(f > 6 / 29, f**3, (116 * f - 16) * 27 / 24389) * WHITE), 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def adjusted(colors, alpha, brightness, contrast, saturation, most):
    """Colors (channel, pixel) after a change of brightness, contrast and saturation."""

    def grey():
        return np.array([0.2989, 0.587, 0.114]) @ colors if len(colors) == 3 else colors.mean(axis=0)

    colors = np.clip(brightness * colors, 0, most)
    mean = (grey() * alpha).sum() / alpha.sum()
    colors = np.clip(mean + contrast * (colors - mean), 0, most)
    return np.clip(grey() + saturation * (colors - grey()), 0, most)


def eroded(mask, to_source, size, pixels):
    """The mask on the target, without pixels that have anything else so near, be it beyond the target's edge."""
    height, width = size
    landed = np.ones((height, width), dtype=bool)
    for dy in range(-pixels, pixels + 1):
        for dx in range(-pixels, pixels + 1):
            shifted = to_source.copy()
            shifted[:, 2] += dx * to_source[:, 0] + dy * to_source[:, 1]
            landed &= nearest(mask, shifted, size)
    return landed


def softened(mask, sigma):
    """The mask under a Gaussian cut off after three sigma; the image's border goes on outside it."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    weights /= weights.sum()
    alpha = np.pad(mask.astype(float), radius, mode="edge")
    for axis in (0, 1):
        alpha = np.apply_along_axis(np.convolve, axis, alpha, weights, mode="valid")
    return np.clip(alpha, 0, 1)


def box_around(mask):
    (ys, xs) = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


class Result(dict):
    """A target after pasting, and which share of each object's former pixels is visible."""

    visible: list


def accounted(i, rows, landed, targets, plan, settings):
    """The target of image ``i`` after the rows' masks have landed on it."""
    kept, changed, added, order, shares = [], {}, [], [], ([], [])
    cover = np.any(landed, axis=0)
    for j, mask in enumerate(numpy(targets[i]["masks"]) != 0):
        left = mask & ~cover
        if left.sum() == mask.sum():
            kept.append((i, j))
            shares[0].append(1.0)
        elif left.any() if crowds(targets[i])[j] else stays(left.sum(), mask.sum(), settings):
            changed[len(kept)] = left
            kept.append((i, j))
            shares[0].append(left.sum() / mask.sum())
    for place, row in enumerate(rows):
        source, instance = int(plan.source[row]), int(plan.instance[row])
        visible = landed[place] & ~np.any(landed[place + 1 :], axis=0)
        given = numpy(targets[source]["masks"])[instance] != 0
        whole = uncovered_area(given, fixed(plan.to_source[row]))
        if stays(visible.sum(), whole, settings):
            shares[1].append(visible.sum() / whole)
            changed[len(kept) + len(added)] = visible
            added.append((source, instance, plan.to_source[row].numpy()))
            order.append(place)
    result = Result(fields_of(targets, i, kept, added, changed, settings.keypoint_pairs))
    result.visible = [*shares[0], *shares[1]]
    if "keypoints" in result:
        covers = [landed] * len(kept) + [landed[place + 1 :] for place in order]
        for row, over in enumerate(covers):
            result["keypoints"][row] = hidden(result["keypoints"][row], over)
    return result


def crowds(target):
    return numpy(target["iscrowd"]) if "iscrowd" in target else np.zeros(len(target["labels"]))


def uncovered_area(mask, to_source):
    """The pixels of a mask on a canvas that shows the whole source, wherever it lands."""
    height, width = mask.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) * 2.0**32 - to_source[:, 2]
    landed = corners @ np.linalg.inv(to_source[:, :2].astype(float)).T
    (left, top), (right, bottom) = np.floor(landed.min(0)).astype(int) - 1, np.ceil(landed.max(0)).astype(int) + 1
    shifted = to_source.copy()
    shifted[:, 2] += left * to_source[:, 0] + top * to_source[:, 1]
    return nearest(mask, shifted, (bottom - top, right - left)).sum()


def stays(area, former, settings):
    return area >= settings.min_area and area >= Fraction(str(settings.min_visibility)) * int(former)


def fields_of(targets, i, kept, added, changed, pairs):
    """Every key of the target: rows of the kept objects, rows of the added ones, then what pasting changed."""
    result = {}
    for key, values in targets[i].items():
        if key == "image_id":
            result[key] = values
        elif key == "masks":
            own = [numpy(values)[j] for _, j in kept]
            blank = np.zeros(values.shape[1:], dtype=numpy(values).dtype)
            planes = np.array([*own, *[blank] * len(added)]).reshape(-1, *values.shape[1:])
            result[key] = (planes != 0).astype(blank.dtype)
        else:
            rows = [numpy(targets[source][key])[j] for source, j, *_ in (*kept, *added)]
            result[key] = np.array(rows).reshape(-1, *values.shape[1:]).astype(numpy(values).dtype)
    for place, mask in changed.items():
        result["masks"][place], result["boxes"][place] = mask, box_around(mask)
        if "area" in result:
            result["area"][place] = mask.sum()
    for place, (*_, to_source) in enumerate(added, start=len(kept)):
        if "keypoints" in result:
            size = targets[i]["masks"].shape[1:]
            result["keypoints"][place] = moved(result["keypoints"][place], to_source, size, pairs)
    return result


def hidden(keypoints, covers):
    """Keypoints with visibility 1 at most where any of the masks covers the pixel they lie in."""
    keypoints = keypoints.copy()
    for point in keypoints:
        x, y = (int(np.floor(number)) for number in point[:2])
        inside = covers and 0 <= y < covers[0].shape[0] and 0 <= x < covers[0].shape[1]
        if inside and any(cover[y, x] for cover in covers):
            point[2] = min(point[2], 1)
    return keypoints


def moved(keypoints, to_source, size, pairs):
    """Keypoints (x, y, visibility) in the target; zeros for those outside it or not labelled."""
    if np.linalg.det(to_source[:, :2]) < 0:
        keypoints = keypoints.copy()
        for one, other in pairs:
            keypoints[[one, other]] = keypoints[[other, one]]
    there = []
    for x, y, visibility in keypoints.astype(float):
        tx, ty = np.linalg.solve(to_source[:, :2], [x - to_source[0, 2], y - to_source[1, 2]])
        inside = visibility > 0 and 0 <= tx < size[1] and 0 <= ty < size[0]
        there.append([tx, ty, visibility] if inside else [0, 0, 0])
    return there
