"""Instances: why telling identical objects apart takes position.

    loss = discriminative_loss(embedding, labels)
    objects = cluster(embedding[0], foreground)
    study = run_instances(quick=True)

The command ``probe instances`` runs the experiment and writes its report.
"""

from .clusters import cluster
from .experiment import InstanceStudy, run_instances
from .losses import discriminative_loss, discriminative_terms
from .networks import BORDERS, SegmentationNetwork
from .scenes import CLASSES, OrdinaryScenes, Scene, TwinScenes
from .scores import (
    PanopticQuality,
    average_precision,
    chance_pair_f1,
    count_difference,
    mean_iou,
    pair_f1,
    panoptic_quality,
    symmetric_best_dice,
)

__all__ = [
    "BORDERS",
    "CLASSES",
    "InstanceStudy",
    "OrdinaryScenes",
    "PanopticQuality",
    "Scene",
    "SegmentationNetwork",
    "TwinScenes",
    "average_precision",
    "chance_pair_f1",
    "cluster",
    "count_difference",
    "discriminative_loss",
    "discriminative_terms",
    "mean_iou",
    "pair_f1",
    "panoptic_quality",
    "run_instances",
    "symmetric_best_dice",
]
