"""The README and the site's pages, in the order in which one reads them, and their examples."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
FROM_THE_TOP = ("changelog", "contributing")


def pages() -> list[Path]:
    """The pages for users; those of the reference are made from docstrings, and others from files at the top."""
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
    names = [name for tree in trees for name in tree.split("\n") if re.fullmatch(r"\w+", name)]
    return [README, DOCS / "index.md", *(DOCS / f"{name}.md" for name in names if name not in FROM_THE_TOP)]


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """The blocks of code of these languages, each with its own; a command that goes on in the next line is one line."""
    found = re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, re.sub(r"\\\n\s*", "", block)) for language, block in found]


def commands(block: str) -> list[list[str]]:
    """The arguments of each command of this package in a block."""
    begins = re.compile(r"copypaste |composer .*-m composer_copypaste.cli ")
    return [shlex.split(line[found.end() :]) for line in block.splitlines() if (found := begins.match(line))]
