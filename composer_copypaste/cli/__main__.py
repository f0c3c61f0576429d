"""``python -m composer_copypaste.cli``, for ``composer -n 8 -m composer_copypaste.cli train ...``."""

from composer_copypaste.cli import main

main(prog_name="copypaste")
