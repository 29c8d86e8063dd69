"""Is the model good, and do the maps explain it? Verification, localisation, patches, sanity."""

from captum_face.metrics.calibration import (
    OperatingPoint,
    listed_people,
    operating_point,
)
from captum_face.metrics.identification import IdentificationCurve, identification_curve
from captum_face.metrics.localisation import pixel_auc, pointing_game, relevance_mass
from captum_face.metrics.patches import Patched, PatchEffect, paste_patches, patch_effect
from captum_face.metrics.perturbation import PerturbationCurve, perturbation_curve
from captum_face.metrics.sanity import Randomization, infidelity, randomization, sensitivity, symmetry
from captum_face.metrics.verification import (
    EER,
    ROC,
    KFoldAccuracy,
    best_accuracy,
    calibrate_threshold,
    eer,
    kfold_accuracy,
    pair_scores,
    roc,
    tar_at_far,
)

__all__ = [
    "EER",
    "ROC",
    "IdentificationCurve",
    "KFoldAccuracy",
    "OperatingPoint",
    "PatchEffect",
    "Patched",
    "PerturbationCurve",
    "Randomization",
    "best_accuracy",
    "calibrate_threshold",
    "eer",
    "identification_curve",
    "infidelity",
    "kfold_accuracy",
    "listed_people",
    "operating_point",
    "pair_scores",
    "paste_patches",
    "patch_effect",
    "perturbation_curve",
    "pixel_auc",
    "pointing_game",
    "randomization",
    "relevance_mass",
    "roc",
    "sensitivity",
    "symmetry",
    "tar_at_far",
]
