"""What a preview leaves: a page, and a sheet of images for each variant, in a folder of their own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from composer_copypaste.errors import OutputError
from composer_copypaste.files import is_unfinished_file
from composer_copypaste.output_folder import check_is_no_file
from composer_copypaste.runs.preview.page import VariantPreview, all_warnings, measured_table, preview_page
from composer_copypaste.visualize import html
from composer_copypaste.visualize.draw import save_png
from composer_copypaste.visualize.html import GENERATOR, Cell, write_page

PAGE = "preview.html"
SHEET = re.compile(r"sheet_\d+\.png")


@dataclass(frozen=True, repr=False)
class Preview:
    """What a preview wrote, and what it found.

    Printed, and as the result of a notebook's cell, it is the table of what was measured, with the warnings.
    """

    page: Path
    sheets: Sequence[Path]
    """A sheet of images for each variant."""
    variants: Sequence[VariantPreview]

    def __str__(self) -> str:
        headers, rows = measured_table(self.variants)
        headers = [header.replace(" ", "\n") for header in headers]  # side by side, they are not wider than need be
        texts = [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in rows]
        table = tabulate(
            texts, headers, missingval="-", disable_numparse=True, colalign=["left"] + ["right"] * len(self.variants)
        )
        return "\n".join([table, *(f"warning: {text}" for text in all_warnings(self.variants))])

    def __repr__(self) -> str:
        return f"Preview({str(self.page)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        return "".join([html.table(*measured_table(self.variants)), *map(html.warning, all_warnings(self.variants))])


def check_preview_folder(folder: Path) -> None:
    """Raise ``OutputError`` for a folder that holds anything but an earlier preview."""
    check_is_no_file(folder, "preview")
    others = [path.name for path in sorted(folder.iterdir()) if not _is_of_preview(path)] if folder.exists() else []
    if others:
        raise OutputError(f"{folder}: holds {others[0]}, which is no preview's; name another folder with --output")


def _is_of_preview(path: Path) -> bool:
    """Whether a file was written by an earlier preview."""
    if path.name == PAGE:
        return path.is_file() and GENERATOR in path.read_bytes()[:1000].decode(errors="replace")
    written = SHEET.fullmatch(path.name) is not None and (path.parent / PAGE).is_file()
    return written or is_unfinished_file(path)


def write_preview(folder: Path, title: str, lead: str, variants: Sequence[VariantPreview], settings: str) -> Preview:
    """Write the page, then the sheets; remove those of an earlier preview.

    Args:
        folder: which `check_preview_folder` allows.
        title: what is previewed.
        lead: says what batches these are.
        variants: at least one.
        settings: the settings in full, as text.
    """
    page = folder / PAGE
    write_page(page, preview_page(f"Preview of {title}", lead, variants, settings))
    sheets = [folder / f"sheet_{number}.png" for number in range(1, len(variants) + 1)]
    for sheet, variant in zip(sheets, variants, strict=True):
        save_png(variant.sheet(), sheet)
    for path in folder.iterdir():
        if SHEET.fullmatch(path.name) and path not in sheets:
            path.unlink()
    return Preview(page, sheets, variants)
