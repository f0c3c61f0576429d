"""Options that give a setting write its default again, so that help loads no settings: both are the same."""

import re
from dataclasses import fields

import pytest

from composer_copypaste.cli import augment, export, predict, shard
from composer_copypaste.settings import AugmentSettings, ExportSettings, ImageSettings, PredictSettings

LIMITS = {"max_box_difference", "max_score_difference", "max_mask_difference", "max_unmatched"}


@pytest.mark.parametrize(
    ("command", "kind", "stated"),
    [
        (augment.command, AugmentSettings, {"per_image", "fraction", "seed", "format", "quality"}),
        (export.command, ExportSettings, LIMITS),
        (predict.command, PredictSettings, {"overlap"}),
        (shard.command, ImageSettings, {"max_megapixels"}),
    ],
)
def test_an_option_takes_and_states_the_default_of_its_setting(command, kind, stated):
    defaults = {field.name: field.default for field in fields(kind)}
    options = [option for option in command.params if option.name in defaults]
    found = {option.name: re.search(r"[Dd]efault: (\S+)\.$", option.help) for option in options}
    texts = {name: match[1] for name, match in found.items() if match}
    assert {name: type(defaults[name])(text) for name, text in texts.items()} == {
        name: defaults[name] for name in stated
    }
    taken = command.make_context("copypaste", [], resilient_parsing=True).params
    assert all(taken[option.name] in (None, defaults[option.name]) for option in options)
