"""Training: optimisers, schedules, the loop, checkpoints, and whole runs."""

from minifcn.prediction import label_pixels
from minifcn.training.checkpoint import restore_checkpoint, save_checkpoint
from minifcn.training.config import Config
from minifcn.training.evaluation import evaluate, load_segmenter, predict_labels, training_size
from minifcn.training.loop import train
from minifcn.training.losses import classification_loss, segmentation_loss
from minifcn.training.optim import SGD, Adam, Optimizer, paper_groups
from minifcn.training.recipes import RECIPES, resolve
from minifcn.training.run import Run
from minifcn.training.schedule import fixed, poly

__all__ = [
    "RECIPES",
    "SGD",
    "Adam",
    "Config",
    "Optimizer",
    "Run",
    "classification_loss",
    "evaluate",
    "fixed",
    "label_pixels",
    "load_segmenter",
    "paper_groups",
    "poly",
    "predict_labels",
    "resolve",
    "restore_checkpoint",
    "save_checkpoint",
    "segmentation_loss",
    "train",
    "training_size",
]
