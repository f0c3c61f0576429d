"""What the configuration of pytest makes of warnings."""

import pytest


@pytest.mark.parametrize("module", ["composer_copypaste", "composer_copypaste.data.coco_json"])
def test_a_warning_of_our_own_code_is_an_error_here(module):
    with pytest.raises(UserWarning, match="of ours"):
        exec("import warnings; warnings.warn('of ours')", {"__name__": module})
