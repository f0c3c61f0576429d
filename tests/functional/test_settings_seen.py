"""What single settings do, drawn: 8 x 8 pixels, whose answer is visible. All others have theirs beside their step.

The first image receives what the second one has. Pixel (x, y) of the second is 100 + 10 y + x.
"""

import pytest
import torch
from copypaste_cases import Pool, make_images, target

from composer_copypaste.functional.copypaste import copypaste_batch

AS_IT_IS = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
THREE = target((0, 0, 2, 1), (4, 0, 8, 2), (4, 4, 8, 8))


def received(given, own=(), seed=0, **settings):
    """The first image and the boxes of what it received."""
    generator = torch.Generator().manual_seed(seed)
    images, after = copypaste_batch(
        make_images(), [target(*own), given], generator=generator, **{**AS_IT_IS, **settings}
    )
    return images[0, 0], after[0]["boxes"][len(own) :].tolist()


def boxes(*rectangles, **settings):
    return received(target(*rectangles), **settings)[1]


def many(*rectangles, own=(), seeds=40, **settings):
    """The boxes of all that many draws give."""
    drawn = [received(target(*rectangles), own, seed, **settings)[1] for seed in range(seeds)]
    return [tuple(map(int, box)) for found in drawn for box in found]


def areas(found):
    return [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in found]


@pytest.mark.filterwarnings("ignore:copy-paste changed nothing")
def test_p_1_always_gives_and_p_0_never():
    assert received(THREE, p=1.0)[1] == THREE["boxes"].tolist()
    image, found = received(THREE, p=0.0)
    assert torch.equal(image, make_images()[0, 0])
    assert not found


def test_p_instance_1_gives_all_and_0_none():
    assert len(received(THREE, p_instance=1.0)[1]) == 3
    assert not received(THREE, p_instance=0.0)[1]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_than_max_copied_instances_are_copied(most):
    found = received(THREE, max_copied_instances=most)[1]
    assert len(found) == most
    assert all(box in THREE["boxes"].tolist() for box in found)


def test_a_horizontal_flip_puts_the_left_on_the_right():
    image, found = received(target((0, 0, 2, 1)), p_flip=1.0)
    assert found == [[6, 0, 8, 1]]
    assert image[0, 5:].tolist() == [5, 101, 100]


def test_a_source_is_jittered_as_a_whole_and_an_instance_about_its_own_middle():
    one, other = (0, 0, 2, 1), (4, 4, 8, 8)
    assert boxes(one, other, p_flip=1.0, jitter="image") == [[6, 0, 8, 1], [0, 4, 4, 8]]
    assert boxes(one, other, p_flip=1.0, jitter="instance") == [[0, 0, 2, 1], [4, 4, 8, 8]]
    assert received(target(one), p_flip=1.0, jitter="instance")[0][0, :3].tolist() == [101, 100, 2]


def test_each_instance_is_flipped_or_not_on_its_own():
    two = target((0, 0, 2, 1), (0, 4, 2, 5))
    drawn = [received(two, seed=seed, p_flip=0.5, jitter="instance")[0] for seed in range(40)]
    firsts = {(int(image[0, 0]), int(image[4, 0])) for image in drawn}
    assert firsts == {(100, 140), (100, 141), (101, 140), (101, 141)}


def test_objects_are_resized_by_the_factor():
    assert boxes((0, 0, 4, 4), scale_range=(0.5, 0.5), jitter="instance") == [[1, 1, 3, 3]]
    assert boxes((2, 2, 4, 4), scale_range=(2.0, 2.0), jitter="instance") == [[1, 1, 5, 5]]


def smaller_and_larger(distribution):
    """How many of 200 copies of 4 x 4 pixels are smaller than that, and how many larger, by factors of 0.5 to 2."""
    jitter = {"scale_range": (0.5, 2.0), "scale_distribution": distribution, "jitter": "instance"}
    found = areas(many((2, 2, 6, 6), seeds=200, **jitter))
    return sum(area < 16 for area in found), sum(area > 16 for area in found)


def test_log_uniform_factors_make_smaller_as_often_as_larger_and_uniform_ones_do_not():
    smaller, larger = smaller_and_larger("log_uniform")
    assert abs(smaller - larger) < 30
    smaller, larger = smaller_and_larger("uniform")
    assert larger > smaller + 50


def leanings(rotation):
    """How a bar of 6 x 2 pixels comes out of 40 draws: level, leaning to the left or to the right, or upright."""
    found = set()
    for seed in range(40):
        image, [(x1, y1, x2, y2)] = received(target((1, 3, 7, 5)), seed=seed, rotation=rotation, jitter="instance")
        y, x = torch.nonzero(image >= 100).double().T
        lean = ((x - x.mean()) * (y - y.mean())).mean().item()
        found.add("upright" if y2 - y1 > x2 - x1 else "level" if abs(lean) < 0.1 else "right" if lean < 0 else "left")
    return found


def test_a_bar_is_turned_by_up_to_the_given_degrees_either_way():
    assert leanings(0.0) == {"level"}
    assert leanings(30.0) == {"level", "left", "right"}
    assert leanings(180.0) == {"level", "left", "right", "upright"}


def test_an_aspect_of_4_makes_twice_as_wide_and_half_as_high():
    assert boxes((2, 2, 4, 4), aspect_range=(4.0, 4.0), jitter="instance") == [[1, 3, 5, 4]]


def test_a_source_made_smaller_keeps_what_is_between_its_objects():
    (one, other) = boxes((0, 0, 4, 4), (4, 4, 8, 8), scale_range=(0.5, 0.5))
    assert [other[k] - one[k] for k in range(4)] == [2, 2, 2, 2]
    assert areas([one, other]) == [4, 4]


def test_at_random_inside_all_of_an_object_is_in_the_image():
    found = many((0, 0, 4, 4), placement="random")
    assert set(areas(found)) == {16}
    assert len(set(found)) > 10


def test_anywhere_a_part_is_outside_but_not_the_middle():
    found = many((0, 0, 4, 4), placement="anywhere")
    assert min(areas(found)) < 16 == max(areas(found))
    assert min(areas(found)) >= 4


def test_an_object_goes_where_it_hides_no_more_than_allowed():
    left = {"own": [(0, 0, 4, 8)], "placement": "random", "placement_tries": 100}
    assert set(many((0, 0, 4, 8), max_overlap=0.0, **left)) == {(4, 0, 8, 8)}
    assert set(many((0, 0, 4, 8), max_overlap=0.5, **left)) == {(2, 0, 6, 8), (3, 0, 7, 8), (4, 0, 8, 8)}


def test_with_one_try_an_object_is_often_left_out():
    left = {"own": [(0, 0, 4, 8)], "placement": "random", "max_overlap": 0.0}
    assert len(many((0, 0, 4, 8), placement_tries=1, **left)) < 20 < len(many((0, 0, 4, 8), placement_tries=50, **left))


def cut_outs(**settings):
    """The boxes of what an image without objects receives of a pool whose one cut-out has 2 x 2 pixels."""
    pool = Pool((1, torch.full((3, 2, 2), 200, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)))
    settings = {**AS_IT_IS, "p_pool": 1.0, "pool_scale_range": (1.0, 1.0), "pool_instances": (1, 1), **settings}
    generator = torch.Generator().manual_seed(0)
    images, (after,) = copypaste_batch(make_images(1), [target()], generator=generator, pool=pool, **settings)
    assert torch.equal(images[0, 0] == 200, after["masks"].any(dim=0))
    return after["boxes"].tolist()


def test_the_pool_gives_cut_outs_of_the_number_and_size_asked_for_and_with_p_pool_0_none():
    assert areas(cut_outs()) == [4]
    assert areas(cut_outs(pool_scale_range=(2.0, 2.0))) == [16]
    assert areas(cut_outs(pool_scale_range=(0.5, 0.5))) == [1]
    assert 4 < sum(areas(cut_outs(pool_instances=(3, 3), scale_range=(2.0, 2.0)))) <= 12
    assert not cut_outs(p_pool=0.0)
