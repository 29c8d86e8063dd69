"""Is an image a face, aligned as a model expects? A check for every image that is explained.

Where landmarks are known, the check measures how far eyes, nose and mouth lie from where the template has
them. They come as an argument: :func:`~captum_face.photos.find_landmarks` finds them in crops, with dlib's
predictors, if the extra ``photos`` is installed. Where none are found, and for ArcFace's alignment alone, the
check looks at the appearance: whether the image is dark and bright where faces are. The page on alignment has
the rates of both (``docs/studies/alignment.py`` prints them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from captum_face._validation import require_choice, require_images
from captum_face.data._appearance import LIMIT, SMALLEST, Merit, merits
from captum_face.maps.landmarks import Landmarks
from captum_face.maps.templates import Template, resolve_template

__all__ = ["FARTHEST", "LIMIT", "SMALLEST", "FaceCheck", "check_faces"]

#: How far off its place a face may lie on average over the five points, as a share of the template's distance
#: between the eyes: 4.5 pixels in ArcFace's crops of 112 x 112.
FARTHEST = 0.128
# Crops along a box are not fitted to landmarks, so these lie more loosely.
_LOOSE = 2.0
#: What checks are made by.
_WAYS = ("appearance", "landmarks")
_NAMES = {"arcface": "ArcFace", "facenet": "FaceNet"}


@dataclass(frozen=True)
class FaceCheck:
    """Whether an image is a face, aligned as expected; made by :func:`check_faces`."""

    #: By landmarks how far the face is moved, turned and resized, as the mean distance that this takes the
    #: five points, in pixels of the image. By appearance the correlation with a face less what near poses fit
    #: better, in [-2, 1].
    figure: float
    looks: str  #: what is wrong with a failed image, such as "it looks upside down"; empty if it passed
    limit: float = LIMIT  #: the largest figure that passes by landmarks, the least by appearance
    alignment: str = "arcface"  #: what was expected
    by: str = "appearance"  #: ``"landmarks"`` or ``"appearance"``
    #: By landmarks how far each of the five points lies from its place, in pixels of the image.
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the image looks like an aligned face."""
        return not self.looks

    def message(self, name: str) -> str:
        """One sentence on an image of this name: what was found, beside what was expected."""
        alignment = f"{_NAMES.get(self.alignment, self.alignment)}'s alignment"
        if self.by == "appearance":
            found = (
                f"{self.figure:.2f}" if self.passed else f"{self.figure:.2f}, expected {self.limit:g} or more"
            )
        elif self.distances:
            eyes = (self.distances["left_eye"] + self.distances["right_eye"]) / 2
            mouth = (self.distances["mouth_left"] + self.distances["mouth_right"]) / 2
            found = (
                f"eyes {eyes:.1f}, nose {self.distances['nose']:.1f}, mouth {mouth:.1f} px from their places"
            )
            if not self.passed:
                found = f"{self.figure:.1f} px off on average, expected at most {self.limit:.1f}; {found}"
        else:
            found = "no landmarks found"
        if self.passed:
            return f"{name} looks like a face in {alignment} ({found})"
        return f"{name} does not look like a face in {alignment}: {self.looks} ({found})"

    @classmethod
    def of_summary(cls, summary: Any) -> FaceCheck:
        """The check of which :meth:`summary` tells.

        Raises:
            KeyError, TypeError, ValueError: another object.
        """
        return cls(
            float(summary["figure"]),
            str(summary["looks"]),
            float(summary["limit"]),
            str(summary["alignment"]),
            require_choice(summary.get("by", "appearance"), _WAYS, "check"),
            {str(name): float(distance) for name, distance in summary.get("distances", {}).items()},
        )

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "alignment": self.alignment,
            "by": self.by,
            "figure": self.figure,
            "limit": self.limit,
            "distances": dict(self.distances),
            "passed": self.passed,
            "looks": self.looks,
        }


def check_faces(
    images: Tensor,
    alignment: str | Template | None = "arcface",
    landmarks: Sequence[Landmarks | None] | None = None,
) -> tuple[FaceCheck, ...]:
    """Looks whether images are faces in the alignment that a model expects.

    By landmarks an image passes if its face lies near its place: moving, turning and resizing it to the
    template takes the five points by at most an eighth of the distance between the eyes on average
    (:data:`~captum_face.data.alignment.FARTHEST`), 4.5 pixels in ArcFace's crops; by twice that for crops
    along a box, such as facenet-pytorch's. Faces differ in shape and expression, which the check leaves out,
    while its ``distances`` have it. By appearance the figure of merit is the
    correlation of local contrasts with a drawn face, less half of what the best near pose (moved by 8 of 112
    pixels, turned by 15 degrees, resized by a fifth) has more.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], of any size; by appearance compared at 28 x 28 pixels, where
            images of less than 28 pixels fail.
        alignment: That of a :class:`~captum_face.PairSimilarity`: a name of
            :data:`~captum_face.photos.TEMPLATES` or a template; None for one that is not known.
        landmarks: Of each image, with None where none were found: from
            :func:`~captum_face.photos.find_landmarks`. None if none were looked for.

    Returns:
        A :class:`FaceCheck` for each image. None at all for an alignment that is not known, and, where no
        landmarks were looked for, for another one than ArcFace's. Where they were looked for and not found,
        other alignments than ArcFace's fail.

    Cost: by appearance less than 10 ms for an image on one core of a CPU, and about 0.3 s once for the
    drawings. Nothing is random.

    Raises:
        TypeError, ValueError: not images; no such template; another number of landmarks.

    Example::

        >>> import torch
        >>> from captum_face.data import synthetic
        >>> face = synthetic.pair(seed=1).image_a
        >>> [check.passed for check in check_faces(torch.cat([face, face.flip(2)]))]
        [True, False]
    """
    require_images(images)
    if alignment is None:
        return ()
    template = resolve_template(alignment).resized((images.shape[-2], images.shape[-1]))
    known = [None] * len(images) if landmarks is None else list(landmarks)
    if len(known) != len(images):
        raise ValueError(f"expected landmarks for {len(images)} images, got {len(known)}")
    by_appearance = template.name == "arcface"
    if landmarks is None and not by_appearance:
        return ()
    appearance = merits(images) if by_appearance else [None] * len(images)
    return tuple(map(partial(_check, template), known, appearance))


def _check(template: Template, found: Landmarks | None, merit: Merit | None) -> FaceCheck:
    # What finds landmarks was made for photos, and puts the mouths of rendered faces elsewhere.
    if merit is not None and (found is None or merit.rendered):
        return FaceCheck(merit.figure, merit.looks)
    if found is None:
        return FaceCheck(0.0, "it shows no clear face", 0.0, template.name, "landmarks")
    pose, distances = found.pose(template), found.distances(template)
    limit = FARTHEST * template.eye_distance * (1 if template.margin is None else _LOOSE)
    looks = "" if pose.displacement <= limit else str(pose)
    return FaceCheck(pose.displacement, looks, limit, template.name, "landmarks", distances)
