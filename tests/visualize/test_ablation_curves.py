"""What the figures of an ablation show."""

import pytest
from matplotlib.colors import to_hex

from composer_copypaste.visualize.ablation_curves import (
    BASELINE_COLOR,
    GAIN_COLOR,
    LOSS_COLOR,
    UNCLEAR_COLOR,
    Interval,
    Point,
    plot_differences,
    plot_over_images,
    plot_over_steps,
)

RUNS = {
    "plain": [Point(50.0, 20.0, [19.0, 21.0]), Point(500.0, 40.0, [39.0, 41.0])],
    "copy_paste": [Point(50.0, 30.0, [29.0, 31.0]), Point(500.0, 41.0, [40.0, 42.0])],
}


@pytest.mark.parametrize(
    ("low", "high", "color"),
    [(0.1, 2.0, GAIN_COLOR), (-2.0, -0.1, LOSS_COLOR), (-1.0, 1.0, UNCLEAR_COLOR), (0.0, 1.0, UNCLEAR_COLOR)],
)
def test_the_color_of_an_interval_says_whether_it_excludes_0(low, high, color):
    [axes] = plot_differences([Interval("run", (low + high) / 2, low, high)], "points").axes

    zero, line, dot = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert (list(line.get_xdata()), line.get_color()) == ([low, high], color)
    assert list(dot.get_xdata()) == [(low + high) / 2]


def test_the_first_interval_is_on_top_and_long_names_go_on_in_the_next_line():
    intervals = [Interval(name, 0.0, -1.0, 1.0) for name in ("first", "a name that is far too long for one line")]

    [axes] = plot_differences(intervals, "points").axes

    first, second = axes.get_yticklabels()
    assert axes.transData.transform((0, 0))[1] > axes.transData.transform((0, 1))[1]
    assert first.get_text() == "first"
    assert "\n" in second.get_text()


def test_over_steps_each_seed_is_a_thin_line_and_the_mean_a_thick_one():
    [axes] = plot_over_steps(RUNS, "plain", "10 % of the images", "box AP").axes

    of_plain = [line for line in axes.lines if to_hex(line.get_color()) == BASELINE_COLOR]
    assert [list(line.get_ydata()) for line in of_plain] == [[19, 39], [21, 41], [20, 40]]
    assert of_plain[2].get_linewidth() > of_plain[0].get_linewidth()
    assert (axes.get_title(), axes.get_ylabel()) == ("10 % of the images", "box AP")


def test_over_images_the_axis_is_logarithmic_and_an_arrow_leads_to_the_baseline():
    ticks = {50.0: "50\n10 %", 500.0: "500\n100 %"}
    figure = plot_over_images(RUNS, "plain", ticks, [("copy_paste", 50.0, 30.0, 158.0)], "box AP")

    [axes] = figure.axes
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "box AP")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50\n10 %", "500\n100 %"]
    [arrow] = axes.texts
    assert (arrow.xy, arrow.xyann) == ((158.0, 30.0), (50.0, 30.0))
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert sorted(value for line in dots for value in line.get_ydata()) == [19, 21, 29, 31, 39, 40, 41, 42]


def test_every_run_of_many_has_a_look_of_its_own():
    names = ["plain", *(f"run {number}" for number in range(15))]

    [axes] = plot_over_images(dict.fromkeys(names, RUNS["plain"]), "plain", {50.0: "50"}, [], "mask AP").axes

    looks = {(line.get_color(), line.get_marker()) for line in axes.lines if not line.get_label().startswith("_")}
    assert len(looks) == 16
