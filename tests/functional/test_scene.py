"""Placement that knows the scene: inside a region, by a map, and with sizes that follow the place."""

import numpy as np
import pytest
import torch
from copypaste_cases import CROSS, Pool, block, cases, make_images, many, target
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import numpy

from composer_copypaste.errors import DataError
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import copypaste_batch, plan_batch
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.scene import inside_polygons, own_scales, stretched
from composer_copypaste.settings import CopyPasteSettings, OfflineCopyPasteSettings

ALL = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "placement": "anywhere"}
"""Settings with which every object is copied as large as it is."""
PIXEL = target((3, 3, 4, 4))
RIGHT = [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(*, draws=300, own=None, **settings):
    """How often an object of one pixel is put on which pixel (y, x) of an image."""
    counts = np.zeros((8, 8), dtype=int)
    for seed in range(draws):
        source = PIXEL | {key: own[key] for key in ("road",) if own and key in own}
        plan = plan_batch(make_images(), [own or target(), source], generator=seeded(seed), **ALL | settings)
        for (xx, _, x), (_, yy, y) in plan.to_source[plan.target == 0].tolist():
            counts[int((3.5 - y) / yy), int((3.5 - x) / xx)] += 1
    return counts


def pasted_box(source, **settings):
    """The box of the object that an image without objects receives, given that of the source."""
    _, after = copypaste_batch(make_images(), [target(), target(source)], generator=seeded(), **ALL | settings)
    return after[0]["boxes"].tolist()


def test_in_a_region_an_object_is_put_on_each_of_its_pixels_and_on_no_other():
    found = pixels(place_region=RIGHT)
    assert (found[:, 4:] > 0).all()
    assert found[:, :4].sum() == 0
    assert found.sum() == 300


def test_several_polygons_are_one_region():
    found = pixels(place_region=[RIGHT, [(0.0, 0.0), (0.25, 0.0), (0.25, 0.25), (0.0, 0.25)]])
    assert (found[:2, :2] > 0).all()
    assert found[:, 4:].sum() + found[:2, :2].sum() == 300


def test_a_map_of_any_size_says_how_likely_each_place_is():
    found = pixels(place_map=[[0, 1], [0, 3]])
    assert found[:, :4].sum() == 0
    assert 0.15 < found[:4].sum() / 300 < 0.35
    fine = np.zeros((80, 80))
    fine[44, 15] = 2  # the pixel of row 4 and column 1 has its centre in the cell of row 45 and column 15
    fine[45, 15] = 1
    assert (pixels(place_map=fine, draws=5) == 5 * np.eye(8)[[4]].T @ np.eye(8)[[1]]).all()


def test_maps_of_files_are_read(tmp_path):
    grey = np.zeros((2, 2), dtype=np.uint8)
    grey[1, 0] = 200
    Image.fromarray(grey).save(tmp_path / "map.png")
    np.save(tmp_path / "map.npy", grey.astype(np.float32))
    for name in ("map.png", "map.npy"):
        found = pixels(place_map=tmp_path / name, draws=50)
        assert found[4:, :4].sum() == 50


def test_region_and_map_hold_together():
    found = pixels(place_region=RIGHT, place_map=[[1], [0]])
    assert found[:4, 4:].sum() == 300


@pytest.mark.parametrize(
    "place",
    [
        block(6, 5, 8, 8),
        block(6, 5, 8, 8).bool(),
        block(6, 5, 8, 8).numpy(),
        [torch.tensor([[6.0, 5], [8, 5], [8, 8], [6, 8]])],
    ],
)
def test_each_target_may_have_its_own_place(place):
    found = pixels(own=target(road=place), place_key="road", draws=60, place_region=RIGHT)
    assert (found[5:, 6:] > 0).all()
    assert found[5:, 6:].sum() == 60


def pixels_of_two(**settings):
    """The places of both images' objects, where both targets have a road."""
    targets = [target((3, 3, 4, 4), road=block(6, 5, 8, 8)), target((3, 3, 4, 4), road=block(0, 0, 1, 1))]
    plan = plan_batch(make_images(), targets, generator=seeded(), place_key="road", **ALL | settings)
    return {int(row["target"]): [3 - row["to_source"][1][2], 3 - row["to_source"][0][2]] for row in plan.rows()}


def test_the_place_is_that_of_the_image_that_receives_the_object():
    found = pixels_of_two()
    assert found[1] == [0, 0]
    assert found[0][0] >= 5
    assert found[0][1] >= 6


@pytest.mark.parametrize("key", ["road", "sem_seg"])  # the second is a name that is refused elsewhere
def test_the_key_passes_through_as_it_is(key):
    targets = [{**target((3, 3, 4, 4)), key: block(*place)} for place in ((6, 5, 8, 8), (0, 0, 1, 1))]
    _, after = copypaste_batch(make_images(), targets, generator=seeded(), place_key=key, **ALL)
    assert [one[key] is other[key] for one, other in zip(after, targets, strict=True)] == [True, True]


@pytest.mark.parametrize(("point", "row"), [("centre", 4), ("bottom", 6)])
def test_the_point_that_lies_in_the_region_is_the_middle_or_the_lowest_row(point, row):
    """An object of 2 x 5 pixels; the region is the fourth row from below, or what else leaves it one place."""
    line = np.zeros((8, 8))
    line[row, 3] = 1
    assert pasted_box((0, 0, 2, 5), place_map=line, place_point=point) == [[2, 2, 4, 7]]


def test_placed_inside_no_object_reaches_beyond_the_image():
    region = [(0.0, 0.0), (1.0, 0.0), (1.0, 0.25), (0.0, 0.25)]  # the middle of an object of 4 x 4 is in row 2 or below
    assert pasted_box((0, 0, 4, 4), place_region=region, placement="random", placement_tries=500) == []
    lower = [(0.0, 0.25), (1.0, 0.25), (1.0, 0.375), (0.0, 0.375)]
    ((x1, y1, x2, y2),) = pasted_box((0, 0, 4, 4), place_region=lower, placement="random", placement_tries=500)
    assert (y1, y2) == (0, 4)
    assert x1 >= 0
    assert x2 <= 8


def test_far_things_are_small_below_a_vanishing_line():
    """At the top edge the line is: the lowest row of the source object is 7.5 pixels below, that of the copy 2.5."""
    row = np.zeros((8, 1))
    row[2] = 1
    settings = {"vanishing_line": 0.0, "place_point": "bottom", "place_map": row}
    ((x1, _, x2, y2),) = pasted_box((0, 2, 6, 8), placement_tries=100, placement="random", **settings)
    assert (x2 - x1, y2) == (2, 3)


def test_where_an_object_came_from_it_has_its_own_size():
    there = np.zeros((8, 8))
    there[5, 3] = 1
    settings = {"vanishing_line": -0.7, "place_point": "bottom", "place_map": there}
    assert pasted_box((2, 1, 5, 6), **settings) == [[2, 1, 5, 6]]


def test_above_the_vanishing_line_nothing_is_put_and_nothing_is_copied():
    found = pixels(vanishing_line=0.25)
    assert found[:2].sum() == 0
    assert (found[2:].sum(axis=1) > 0).all()
    assert pasted_box((0, 0, 2, 2), vanishing_line=0.5) == []


def test_a_map_says_how_large_things_are():
    left = [[1, 0], [1, 0]]
    ((x1, y1, x2, y2),) = pasted_box((5, 0, 7, 2), scale_map=[[1, 0.5]], place_map=left, placement="random")
    assert (x2 - x1, y2 - y1) == (4, 4)
    assert pasted_box((5, 0, 7, 2), scale_map=[[1, 0]], place_map=left, placement_tries=99) == []


@pytest.mark.parametrize(
    ("there", "scale", "expected"),
    [
        (3, 2.0, 6.0),
        (1 / 4, 0.5, 1 / 8),
        (500, 1.0, 10.0),
        (500, 2.0, 10.0),
        (1 / 500, 1.0, 0.01),
        (1 / 500, 0.5, 0.01),
    ],
)
def test_sizes_follow_place_and_scale_within_their_limits(there, scale, expected):
    """Things on the left are as large as given; on the right, where the object is, they are 1."""
    left = [[1] + [0] * 7]
    settings = ALL | {"scale_map": [[there, 1]], "place_map": left, "scale_range": (scale, scale)}
    plan = plan_batch(make_images(), [target(), target((5, 0, 6, 1))], generator=seeded(), **settings)
    assert plan.to_source[0, 0, 0].item() == pytest.approx(1 / expected)


def test_what_is_as_large_as_the_image_is_inside_it():
    assert pasted_box((0, 0, 8, 8), place_map=[[1]], placement="random", placement_tries=500) == [[0, 0, 8, 8]]


def test_of_the_objects_at_a_place_the_one_with_the_least_overlap_is_copied():
    there = np.zeros((8, 8))
    there[4, 3] = 1
    own, others = target((0, 0, 4, 8)), target((0, 0, 1, 1), (0, 2, 4, 3), (0, 4, 2, 5))  # 1, 3/4 and 1 of them on it
    settings = ALL | {"place_map": there, "least_overlap_first": True, "max_copied_instances": 1}
    plan = plan_batch(make_images(), [own, others], generator=seeded(), **settings)
    assert plan.instance[plan.target == 0].tolist() == [1]


def test_cut_outs_have_their_size_where_things_are_largest():
    pool = Pool((5, torch.zeros(3, 8, 8, dtype=torch.uint8), block(0, 0, 4, 4)))
    settings = ALL | {"p_pool": 1.0, "pool_instances": (1, 1), "pool_scale_range": (1.0, 1.0), "pool": pool}
    sizes = {}
    for side, there in (("left", [[1, 0]]), ("right", [[0, 1]])):
        settings |= {"scale_map": [[2, 4]], "place_map": there, "placement_tries": 99, "placement": "random"}
        _, (after, _) = copypaste_batch(make_images(), [target(), target()], generator=seeded(), **settings)
        x1, _, x2, _ = after["boxes"][0].tolist()
        sizes[side] = x2 - x1
    assert sizes == {"left": 2, "right": 4}


def test_at_the_lower_edge_of_a_wide_image_cut_outs_have_their_size():
    pool = Pool((5, torch.zeros(3, 8, 8, dtype=torch.uint8), block(0, 0, 4, 4)))
    settings = ALL | {"p_pool": 1.0, "pool_instances": (1, 1), "pool_scale_range": (1.0, 1.0), "pool": pool}
    settings |= {"vanishing_line": 0.0, "place_map": [[0], [0], [0], [1]], "placement": "anywhere"}
    wide = target() | {"masks": torch.zeros(0, 4, 8, dtype=torch.uint8)}
    plan = plan_batch(make_images(1)[:, :, :4], [wide], generator=seeded(), **settings)
    assert plan.to_source[0, :, :2].tolist() == [[1, 0], [0, 1]]


def test_objects_of_a_bank_follow_the_place_too():
    bank = InstanceBank(4)
    copypaste_batch(make_images(1), [target((5, 2, 7, 4))], bank=bank, p=0.0)
    settings = ALL | {"scale_map": [[2, 1]], "place_map": [[1, 0]], "placement": "random", "placement_tries": 99}
    _, (after,) = copypaste_batch(make_images(1), [target()], bank=bank, generator=seeded(), **settings)
    x1, y1, x2, y2 = after["boxes"][0].tolist()
    assert (x2 - x1, y2 - y1) == (4, 4)


def test_classes_of_maps_are_put_in_a_region_and_have_no_key():
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[1, 0, 0] = 5
    settings = ALL | {"place_map": [[0, 0], [0, 1]]}
    _, after = copypaste_batch(make_images(), maps, generator=seeded(), **settings)
    assert (after[0] == 5).sum() == (after[0, 4:, 4:] == 5).sum() == 1
    with pytest.raises(TypeError, match=r"^place_key: class-id maps have no keys; give place_region or place_map"):
        copypaste_batch(make_images(), maps, place_key="road", placement="random")


def test_an_overlap_limit_holds_within_a_region():
    own = target((4, 0, 8, 7))
    found = pixels(own=own, place_region=RIGHT, max_overlap=0.0, placement_tries=100, draws=40)
    assert found[7, 4:].sum() == found.sum() == 40
    found = pixels(own=own, place_region=RIGHT, least_overlap_first=True, placement_tries=100, draws=40)
    assert found[7, 4:].sum() == found.sum()


@many(40)
@given(
    cases(
        counts=st.integers(0, 5),
        sides=st.integers(2, 40),
        placement="anywhere",
        rotation=0.0,
        place_region=CROSS,
        vanishing_line=0.3,
        place_point="bottom",
        place_map=[[0, 1, 2], [1, 0, 3]],
        scale_map=None,
    )
)
def test_every_drawn_object_stands_in_its_region_as_large_as_things_are_there(case):
    for row in case.paste().plan.rows():
        (xx, _, x), (_, yy, y) = row["to_source"]
        source, number = case.targets[row["source"]], row["instance"]
        height, width = case.images[row["target"]].shape[-2:]
        box = source["boxes"][number].double().tolist()
        middle, bottom = ((box[0] + box[2]) / 2 - x) / xx, max((box[1] - y) / yy, (box[3] - y) / yy) - 0.5
        # on the edge of two pixels, rounding decides
        places = [
            (np.floor(middle + dx) + 0.5, np.floor(bottom + dy) + 0.5) for dx in (-1e-6, 1e-6) for dy in (-1e-6, 1e-6)
        ]
        possible = {py for px, py in places if fits(px / width, py / height)}
        own_height = case.images[row["source"]].shape[-2]
        own_row = np.clip(np.floor(box[3] - 0.5), 0, own_height - 1) + 0.5
        low, high = case.settings.scale_range
        size, factors = (
            1 / np.sqrt(abs(xx * yy)),
            [(py - 0.3 * height) / (own_row - 0.3 * own_height) for py in possible],
        )
        assert any(np.clip(low * k, 0.01, 10) - 1e-6 <= size <= np.clip(high * k, 0.01, 10) + 1e-6 for k in factors)


def fits(x, y):
    """Whether a point is in one of two strips, one upright, one that rises to the right, and the map allows it."""
    if not (0 < x < 1 and 0.3 < y < 1 and [[0, 1, 2], [1, 0, 3]][int(2 * y)][int(3 * x)]):
        return False
    return 0.4 < x < 0.6 or 0.7 - 0.3 * x < y < 0.9 - 0.3 * x


@pytest.mark.parametrize("seed", range(5))
def test_pixels_are_inside_polygons_as_rays_from_their_centres_say(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-3, 23, (rng.integers(3, 8), 2)) for _ in range(2)]
    found = inside_polygons(polygons, 15, 20)
    for y, x in np.ndindex(15, 20):
        assert found[y, x] == any(crossings(polygon, x + 0.5, y + 0.5) % 2 for polygon in polygons)


def crossings(polygon, x, y):
    """How many edges of a polygon a ray from a point to the left crosses."""
    count = 0
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (y1 > y) != (y2 > y):
            count += x1 + (y - y1) / (y2 - y1) * (x2 - x1) < x
    return count


def test_a_polygon_that_ends_at_the_centres_of_pixels_has_those_of_its_first_row_and_not_of_its_last():
    corners = np.array([[1, 0.5], [3, 0.5], [3, 3.5], [1, 3.5]])
    assert inside_polygons([corners], 5, 5).astype(int).tolist() == [[0, 1, 1, 0, 0]] * 3 + [[0] * 5] * 2


def test_an_object_has_the_size_of_things_where_its_middle_is_and_beyond_an_edge_that_at_the_edge():
    boxes = np.array([[1.0, 1, 4, 4], [-9, -9, 1, 1], [5, 3, 11, 9]])
    settings = CopyPasteSettings(scale_map=np.arange(24).reshape(4, 6), placement="random")
    assert own_scales(boxes, ImageInfo(4, 6, boxes, np.ones(3)), settings).tolist() == [2 * 6 + 2, 0, 23]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (20, 7)])
def test_a_map_is_stretched_by_the_centres_of_pixels(size):
    values = np.arange(size[0] * size[1], dtype=float).reshape(size)
    found = stretched(values, 8, 9)
    for y, x in np.ndindex(8, 9):
        assert found[y, x] == values[int((y + 0.5) * size[0] / 8), int((x + 0.5) * size[1] / 9)]


@pytest.mark.filterwarnings("error")
def test_a_map_may_be_a_tensor_whose_numbers_are_copied():
    given_ = torch.ones(2, 3)
    settings = CopyPasteSettings(place_map=given_, placement="random")
    given_[0] = 5
    assert settings.place_map.values.tolist() == [[1, 1, 1]] * 2
    with pytest.raises(ValueError, match=r"^place_map: .* got an array of shape \(3,\)$"):
        CopyPasteSettings(place_map=given_[0], placement="random")


def test_equal_maps_are_equal_settings():
    one, other = (CopyPasteSettings(place_map=np.eye(3), placement="random") for _ in range(2))
    assert one == other
    assert one != CopyPasteSettings(place_map=np.eye(4), placement="random")


MAP = "expected a map of numbers of 0 or more, some above 0: an array (h, w), rows of numbers, or a .npy or grey .png"
POLYGON = "expected a polygon of at least 3 points (x, y) in fractions of the image, or a list of such"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"place_region": RIGHT, "placement": "source"}, 'place_region: needs placement "random" or "anywhere", got'),
        ({"vanishing_line": 0.2, "placement": "near"}, 'vanishing_line: needs placement "random" or "anywhere", got'),
        ({"place_point": "bottom"}, "place_point: 'bottom' changes nothing without one of place_region, place_map, "),
        ({"place_region": [(0, 0), (1, 1)]}, f"place_region: {POLYGON}, got ((0, 0), (1, 1))"),
        ({"place_region": [(0, 0), (1, 1), (0, 9)]}, f"place_region: {POLYGON}, got ((0, 0), (1, 1), (0, 9))"),
        ({"place_region": [(0, 0), (1, 1), (0.5, 0.5)]}, f"place_region: {POLYGON}, got one without an area: "),
        ({"place_region": "road"}, f"place_region: {POLYGON}, got 'road'"),
        ({"place_map": [[0, 0]]}, f"place_map: {MAP} file, got zeros alone"),
        ({"place_map": [[1, -1]]}, f"place_map: {MAP} file, got numbers that are negative, infinite or not numbers"),
        ({"place_map": np.ones(3)}, f"place_map: {MAP} file, got "),
        ({"scale_map": "map.jpg"}, f"scale_map: {MAP} file, got 'map.jpg'"),
        ({"vanishing_line": 1.0}, "vanishing_line: expected at most 0.99, got 1.0"),
    ],
)
def test_settings_that_cannot_be_used_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError) as raised:
        CopyPasteSettings(**{"placement": "random", **settings})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"text", ""),
        (np.zeros((2, 2)), "got zeros alone"),
        (np.ones(4), r"got an array of shape \(4,\)"),
        (np.array(["a"]), ""),
    ],
)
def test_a_file_without_a_map_is_named(tmp_path, content, message):
    path = tmp_path / "map.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=rf"map.npy: expected a map of numbers.*{message}") as raised:
        copypaste_batch(make_images(), [PIXEL] * 2, place_map=path, placement="random")
    assert "\n" not in str(raised.value)


def test_an_image_of_colors_is_no_map(tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(tmp_path / "map.png")
    with pytest.raises(DataError, match=r"map.png: expected a map .*: the image is not grey \(its mode is RGB\)$"):
        copypaste_batch(make_images(), [PIXEL] * 2, place_map=tmp_path / "map.png", placement="random", p=0.0)


@pytest.mark.parametrize(
    ("road", "message"),
    [
        (..., "; the target has no such key"),
        ("road", ", got str"),
        (torch.ones(3), r", got an array of shape \(3,\)"),
        (-torch.ones(3, 3), ", got numbers that are negative"),
        ([torch.ones(3)], ", got a list of something else"),
        ([torch.ones(3, 3)], ", got a list of something else"),
        (["road"], ", got a list of something else"),
        ([torch.ones(3, 2), torch.full((3, 2), torch.nan)], ", got a list of something else"),
        ([[[0, 0], [1, float("nan")], [3, 3]]], ", got a list of something else"),
    ],
)
def test_what_a_target_has_under_the_key_is_checked(road, message):
    fields = {} if road is ... else {"road": road}
    match = rf"^targets\[0\]: expected 'road', which place_key names, to be a map \(h, w\) .*{message}"
    with pytest.raises(ValueError, match=match):
        copypaste_batch(make_images(), [{**PIXEL, **fields}] * 2, place_key="road", placement="random")


def test_offline_there_are_no_keys():
    with pytest.raises(ValueError, match=r"^place_key: expected None, as it is for trainings only, got 'road'$"):
        OfflineCopyPasteSettings(place_key="road", placement="random")


def test_an_image_without_a_place_receives_nothing():
    targets = [target((3, 3, 4, 4), road=torch.zeros(8, 8)), target((3, 3, 4, 4), road=block(0, 0, 1, 1))]
    plan = plan_batch(make_images(), targets, generator=seeded(), place_key="road", **ALL)
    assert numpy(plan.target).tolist() == [1]
