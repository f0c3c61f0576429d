"""The extra ``composer``: a training of two batches, and its evaluation; a logger that is missing names its extra."""

from pathlib import Path

from data_set import copypaste, refuses

SMALL = ("data.shapes.train=8", "data.shapes.val=4", "data.shapes.size=64", "training.duration=2ba", "data.workers=0")


if __name__ == "__main__":
    copypaste("train", "quickstart", "output=run", *SMALL)
    assert Path("run/checkpoints/latest-rank0.pt").exists()
    assert "AP" in copypaste("eval", "run")
    missing = "'mlflow' needs the package mlflow, which is not installed: pip install 'composer-copypaste[loggers]'"
    refuses(f"training.loggers: {missing}, or leave it out", "train", "quickstart", "training.loggers=[mlflow]", *SMALL)
