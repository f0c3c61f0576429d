"""Shards of drawn shapes, for the tests of what writes and reads them."""

from dataclasses import dataclass
from pathlib import Path

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.streaming.write import WrittenShards, write_shards
from composer_copypaste.settings import ShapesSettings

SMALL = 20_000
"""Bytes: two images a shard, of shapes of 64 x 64."""


@dataclass(frozen=True)
class DataSet:
    """Drawn images and their annotations."""

    images: Path
    annotations: Path

    def write(self, output: Path, *, processes: int = 1, shard_size: int = SMALL) -> WrittenShards:
        """Their shards."""
        return write_shards(output, self.images, self.annotations, processes=processes, shard_size=shard_size)


def drawn(folder: Path, count: int = 12) -> DataSet:
    """Drawn shapes, as a user's files."""
    root = draw_shapes(ShapesSettings(folder=str(folder / "shapes"), train=count, val=2, size=64))
    return DataSet(root / "train", root / "annotations" / "instances_train.json")


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
