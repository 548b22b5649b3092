"""How good is a segmentation? The metrics of the FCN paper, the same at the borders, their intervals, and tables.

Everything is computed from one confusion matrix over the whole set of images. Averaging the metrics of single batches
gives other numbers: a class that is absent from a batch drops out of that batch's mean, and a small batch would weigh
as much as a large one.

Notation of Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation" (CVPR 2015, section 5,
"Metrics"): n_ij is the number of pixels of class i predicted as class j, t_i = Σ_j n_ij is the number of pixels of
class i.

    pixel accuracy                Σ_i n_ii / Σ_i t_i
    mean accuracy                 mean over i of  n_ii / t_i
    mean IU (mIoU)                mean over i of  n_ii / (t_i + Σ_j n_ji − n_ii)
    frequency-weighted IU         Σ_i (t_i / Σ_k t_k) · n_ii / (t_i + Σ_j n_ji − n_ii)

A class that occurs neither in the truth nor in the predictions has no IU (0/0): it is NaN and drops out of the mean.
Accuracy alone misleads: on pictures that are 75 % background, predicting background everywhere has a pixel accuracy of
.75 and, with 21 classes, a mean IU of .75/21 = .036. So every table here has both, and beside them what predicting one
class everywhere would get; none can be made without.
"""

from minifcn.metrics.bootstrap import Interval
from minifcn.metrics.boundary import boundary_band
from minifcn.metrics.confusion import ClassCounts, ConfusionMatrix
from minifcn.metrics.evaluation import Evaluation, Intervals
from minifcn.metrics.report import confusion_csv, figures_report, images_csv
from minifcn.metrics.tables import (
    METRIC_HEADERS,
    figures_table,
    format_table,
    interval_note,
    per_class_table,
    summary_table,
)

__all__ = [
    "METRIC_HEADERS",
    "ClassCounts",
    "ConfusionMatrix",
    "Evaluation",
    "Interval",
    "Intervals",
    "boundary_band",
    "confusion_csv",
    "figures_report",
    "figures_table",
    "format_table",
    "images_csv",
    "interval_note",
    "per_class_table",
    "summary_table",
]
