"""Every method by name: what the contract tests, ``explain`` and the command line run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captum_face._validation import require_choice
from captum_face.attr._base import PairAttribution
from captum_face.attr.bilrp import BiLRP
from captum_face.attr.center import Center
from captum_face.attr.corrrise import CorrRISE
from captum_face.attr.deep_lift import PairDeepLift
from captum_face.attr.fame import FAME
from captum_face.attr.feature_ablation import PairFeatureAblation
from captum_face.attr.fggb import FGGB
from captum_face.attr.gradient_shap import PairGradientShap
from captum_face.attr.guided_backprop import PairGuidedBackprop
from captum_face.attr.hirescam import PairHiResCam
from captum_face.attr.input_x_gradient import PairInputXGradient
from captum_face.attr.integrated_gradients import PairIntegratedGradients
from captum_face.attr.integrated_gradients_blurred import PairBlurredIntegratedGradients
from captum_face.attr.integrated_gradients_partner import PairPartnerIntegratedGradients
from captum_face.attr.kernel_shap import PairKernelShap
from captum_face.attr.layer_gradcam import PairGradCam
from captum_face.attr.lrp import LRP
from captum_face.attr.minplus import MinPlus
from captum_face.attr.morph_gradients import MorphGradients
from captum_face.attr.occlusion import PairOcclusion
from captum_face.attr.random import Random
from captum_face.attr.reconstruction import Reconstruction
from captum_face.attr.rise import RISE
from captum_face.attr.saliency import PairSaliency
from captum_face.attr.swap_rise import SwapRISE
from captum_face.attr.xface import XFace
from captum_face.attr.xssab import XSSAB

__all__ = ["METHODS", "Method", "get_method"]


@dataclass(frozen=True)
class Method:
    """A registered method."""

    name: str  #: what ``explain(method=...)`` and ``--method`` call it
    build: Callable[[Any], PairAttribution]  #: from the ``forward_func``
    family: str  #: ``"feature-guided"``, ``"gradient"``, ``"occlusion"``, ``"null baseline"``, ...
    passes: str  #: forward and backward passes for a pair, D = embedding size
    source: str  #: the publication
    needs_gradients: bool  #: whether the model must be differentiable, and a PairSimilarity
    deterministic: bool  #: whether equal inputs give equal maps without a seed
    needs_embeddings: bool = False  #: whether it needs a PairSimilarity, though no gradients
    faces: str | None = None  #: the option that takes faces of other people, if it compares with some

    @property
    def needs(self) -> str:
        """``"gradients"``, ``"embeddings"`` or ``"scores alone"``, whatever the method needs at least."""
        if self.needs_gradients:
            return "gradients"
        return "embeddings" if self.needs_embeddings else "scores alone"


#: All methods, in the order in which tables list them.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "fggb",
            FGGB,
            "feature-guided",
            "2 D backward, 2 internal_batch_size + 4 forward",
            "arXiv 2403.04549",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "corrrise",
            CorrRISE,
            "occlusion",
            "2 n_masks + 2 forward",
            "arXiv 2305.08546",
            needs_gradients=False,
            deterministic=False,
        ),
        Method(
            "morph_gradients",
            MorphGradients,
            "gradient",
            "4 n_points backward, 4 n_points + strangers + 4 forward",
            "this package",
            needs_gradients=True,
            deterministic=False,
            faces="strangers",
        ),
        Method(
            "swap_rise",
            SwapRISE,
            "occlusion",
            "4 n_masks + strangers + 6 forward",
            "this package",
            needs_gradients=False,
            deterministic=False,
            faces="strangers",
        ),
        Method(
            "reconstruction",
            Reconstruction,
            "feature-guided",
            "about 3 forward, and 2 D + 2 of the decoder",
            "after arXiv 2306.00402",
            needs_gradients=False,
            deterministic=True,
            needs_embeddings=True,
        ),
        Method(
            "xssab",
            XSSAB,
            "gradient",
            "4 backward, 4 forward",
            "arXiv 2304.13409",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "xface",
            XFace,
            "occlusion",
            "about 2500 forward at 112 px",
            "arXiv 2211.13735",
            needs_gradients=False,
            deterministic=True,
        ),
        Method(
            "minplus",
            MinPlus,
            "occlusion",
            "4 n_steps (grid² + 1) + 2 forward",
            "CVPRW 2022",
            needs_gradients=False,
            deterministic=True,
        ),
        Method(
            "rise",
            RISE,
            "occlusion",
            "2 n_masks + 2 forward",
            "arXiv 1806.07421",
            needs_gradients=False,
            deterministic=False,
        ),
        Method(
            "fame",
            FAME,
            "gradient",
            "4 n_steps backward, 4 n_steps + 2 forward",
            "arXiv 2605.12017",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "saliency",
            PairSaliency,
            "gradient",
            "2 backward, 4 forward",
            "arXiv 1312.6034",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "input_x_gradient",
            PairInputXGradient,
            "gradient",
            "2 backward, 4 forward",
            "arXiv 1605.01713",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "integrated_gradients",
            PairIntegratedGradients,
            "gradient",
            "2 n_steps backward, 2 n_steps + 2 forward",
            "arXiv 1703.01365",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "integrated_gradients_blurred",
            PairBlurredIntegratedGradients,
            "gradient",
            "2 n_steps backward, 2 n_steps + 2 forward",
            "arXiv 1703.01365",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "integrated_gradients_partner",
            PairPartnerIntegratedGradients,
            "gradient",
            "2 n_steps backward, 2 n_steps + 2 forward",
            "arXiv 1703.01365",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "gradient_shap",
            PairGradientShap,
            "gradient",
            "2 n_samples backward, 2 n_samples + 2 forward",
            "arXiv 1705.07874",
            needs_gradients=True,
            deterministic=False,
            faces="baselines",
        ),
        Method(
            "deep_lift",
            PairDeepLift,
            "gradient",
            "4 backward, 6 forward",
            "arXiv 1704.02685",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "guided_backprop",
            PairGuidedBackprop,
            "gradient",
            "2 backward, 4 forward",
            "arXiv 1412.6806",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "layer_gradcam",
            PairGradCam,
            "gradient",
            "2 backward, 5 forward",
            "arXiv 1610.02391",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "hirescam",
            PairHiResCam,
            "gradient",
            "2 backward, 5 forward",
            "arXiv 2011.08891",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "occlusion",
            PairOcclusion,
            "occlusion",
            "2 windows + 4 forward",
            "arXiv 1311.2901",
            needs_gradients=False,
            deterministic=True,
        ),
        Method(
            "feature_ablation",
            PairFeatureAblation,
            "occlusion",
            "2 regions + 4 forward",
            "Captum",
            needs_gradients=False,
            deterministic=True,
        ),
        Method(
            "kernel_shap",
            PairKernelShap,
            "occlusion",
            "2 n_samples + 6 forward",
            "arXiv 1705.07874",
            needs_gradients=False,
            deterministic=False,
        ),
        Method(
            "lrp",
            LRP,
            "relevance",
            "8 backward, about 24 forward",
            "10.1371/journal.pone.0130140",
            needs_gradients=True,
            deterministic=True,
        ),
        Method(
            "bilrp",
            BiLRP,
            "relevance",
            "16 backward, about 48 forward",
            "arXiv 2003.05431",
            needs_gradients=True,
            deterministic=True,
        ),
        Method("random", Random, "null baseline", "none", "none", needs_gradients=False, deterministic=False),
        Method("center", Center, "null baseline", "none", "none", needs_gradients=False, deterministic=True),
    )
}


def get_method(name: str) -> Method:
    """The registered method of that name.

    Raises:
        ValueError: no such method; the message says the nearest one.
    """
    return METHODS[require_choice(name, METHODS, "method")]
