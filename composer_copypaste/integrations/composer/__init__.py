"""For MosaicML Composer, which only the extra ``composer`` brings. Where it is missing, importing this says so."""

from composer_copypaste.extras import check_composer

check_composer()
