"""For MosaicML Composer, which only the extra ``composer`` brings. Where it is missing, importing this says so."""

from composer_copypaste.extras import check_installed

check_installed("composer", "training, CopyPaste and MaskRCNN need MosaicML Composer", "composer")
