#!/usr/bin/env bash
# Composer 0.32.1's loggers for console, file and memory fail on the first table that is logged: they need pandas.
#
# `Logger.log_table` gives a table to all destinations, and one that knows nothing of tables leaves it out. These three
# make a data frame of it, only to turn that into JSON; pandas is no requirement of Composer, so a training that logs a
# table ends there. Installing Composer takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" mosaicml==0.32.1 torch==2.7.0 numpy==2.1.3
CUDA_VISIBLE_DEVICES='' "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON' | tee "$folder/seen"
from importlib.util import find_spec

from composer import __version__
from composer.loggers import ConsoleLogger, FileLogger, InMemoryLogger, LoggerDestination

print(f"Composer {__version__}, pandas installed: {find_spec('pandas') is not None}")
for destination in (LoggerDestination(), ConsoleLogger(), FileLogger(), InMemoryLogger()):
    try:
        destination.log_table(["category", "objects"], [["blob", 3]], name="objects")
    except ImportError as error:
        print(f"{type(destination).__name__}: {type(error).__name__}")
    else:
        print(f"{type(destination).__name__}: logged or left out")
PYTHON
diff "$folder/seen" - <<'SEEN'
Composer 0.32.1, pandas installed: False
LoggerDestination: logged or left out
ConsoleLogger: MissingConditionalImportError
FileLogger: MissingConditionalImportError
InMemoryLogger: MissingConditionalImportError
SEEN
