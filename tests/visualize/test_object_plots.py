"""Plots of objects: what is drawn is what was counted."""

import numpy as np

from composer_copypaste.visualize.object_plots import area_plot, category_plot, number_plot


def steps(figure):
    """The counts and edges of each line of a histogram, by name."""
    return {line.get_label(): line.get_data()[:2] for line in figure.axes[0].patches}


def test_areas_are_counted_between_edges_on_a_logarithmic_axis():
    figure = area_plot({"before": np.array([1.0, 10.0, 1000.0, 1000.0]), "after": np.array([0.5])})
    assert figure.axes[0].get_xscale() == "log"
    (counts, edges), (others, _) = steps(figure)["before"], steps(figure)["after"]
    assert {(float(edges[k]) <= 1000 < float(edges[k + 1])): counts[k] for k in np.flatnonzero(counts)}[True] == 2
    assert counts.sum() == 4
    assert np.allclose(edges[1:] / edges[:-1], edges[1] / edges[0])
    assert others.tolist() == [1] + [0] * 29  # smaller than a pixel is drawn as one


def test_every_number_of_objects_has_a_step_of_its_own_while_they_are_few():
    counts, edges = steps(number_plot({"before": np.array([0, 2, 2, 5])}))["before"]
    assert counts.tolist() == [1, 0, 2, 0, 0, 1]
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    counts, _ = steps(number_plot({"before": np.array([0, 700])}))["before"]
    assert (len(counts), counts.sum()) == (30, 2)


def test_nothing_to_draw_is_drawn_as_nothing():
    none = np.array([])
    assert steps(area_plot({"before": none}))["before"][0].sum() == 0
    assert steps(number_plot({"before": none.astype(int)}))["before"][0].sum() == 0


def test_categories_are_drawn_from_the_most_frequent_to_the_least():
    labels = {"before": np.array([3, 3, 1]), "after": np.array([2, 3, 3, 3])}
    axes = category_plot(labels, ["a", "b", "c"], most=2).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "a"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert widths == {"before": [2, 1], "after": [3, 0]}
    assert axes.yaxis_inverted()  # the first is on top


def test_counts_are_at_whole_numbers_alone_and_a_single_set_has_a_color():
    axes = number_plot({"objects": np.array([1, 1])}).axes[0]
    assert axes.patches[0].get_edgecolor()[:3] != (0, 0, 0)
    assert all(tick == int(tick) for tick in axes.get_yticks())


def test_the_first_is_black_and_the_others_are_not():
    figure = number_plot({name: np.array([1]) for name in ("before", "p=1", "p=0.5")})
    colors = [line.get_edgecolor()[:3] for line in figure.axes[0].patches]
    assert colors[0] == (0, 0, 0)
    assert len(set(colors)) == 3
