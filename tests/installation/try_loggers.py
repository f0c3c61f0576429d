"""The extra ``loggers``: a training that TensorBoard, MLflow and, without a network, Weights & Biases follow."""

import os
from pathlib import Path

from data_set import copypaste
from try_composer import SMALL

if __name__ == "__main__":
    os.environ |= {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": Path("mlruns").absolute().as_uri()}
    copypaste("train", "quickstart", "output=run", "training.loggers=[tensorboard,mlflow,wandb]", *SMALL)
    assert list(Path("run/tensorboard").rglob("events.out.tfevents.*"))
    assert list(Path("mlruns").rglob("metrics/**/*AP*"))
    assert list(Path("run/wandb").rglob("*.wandb"))
