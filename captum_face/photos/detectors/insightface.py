"""InsightFace's ``FaceAnalysis``."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from captum_face.photos._warping import require_extra
from captum_face.photos.detectors._looking import five_points
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["InsightFaceDetector"]

#: Where InsightFace keeps its model packs.
_PACKS = Path("~/.insightface/models")


class InsightFaceDetector:
    """The detector of an InsightFace ``FaceAnalysis``: SCRFD with five landmarks.

    Crops of the template ``"arcface"`` are those of InsightFace's own ``norm_crop``, antialiased where they
    shrink. The 68 points of its ``landmark_3d_68`` are the ``outline``, where the pack has that model.

    Args:
        app: A ``FaceAnalysis`` on which ``prepare`` was called; or the name of a model pack that is there
            already (in ``~/.insightface/models``), or the folder of one. Nothing is downloaded.

    ``FaceAnalysis`` runs all its models on every face: one for this purpose is cheaper with
    ``allowed_modules=["detection", "landmark_3d_68"]``, which a name gives.

    Raises:
        ImportError: InsightFace is not installed.
        FileNotFoundError: no such model pack.
        TypeError: no ``FaceAnalysis``.
    """

    def __init__(self, app: Any = "buffalo_l") -> None:
        self._app_name = str(app) if isinstance(app, (str, Path)) else type(app).__name__
        self.app = _prepared(str(app)) if isinstance(app, (str, Path)) else app
        if not callable(getattr(self.app, "get", None)) or isinstance(app, dict):
            raise TypeError(
                "expected a FaceAnalysis of insightface or the name of a model pack, got "
                f"{type(app).__name__}"
            )
        self.name = f"InsightFace's detector ({self._app_name})"
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        settings = (f"{key}={getattr(self.app, key, None)}" for key in ("det_size", "det_thresh"))
        return f"InsightFaceDetector({self._app_name}, {', '.join(settings)})"

    def find(self, photo: Photo) -> list[Face]:
        with self._lock:
            found = self.app.get(np.ascontiguousarray(photo.pixels[..., ::-1]))
        return [self._face(photo, one) for one in found]

    def tried(self, photo: Photo) -> str:
        """What was looked at, in words."""
        return f"{self.name} looked at {photo.size[1]} x {photo.size[0]} pixels"

    def _face(self, photo: Photo, one: Any) -> Face:
        if getattr(one, "kps", None) is None:
            raise ValueError(
                f"expected five landmarks from {self.name}, got none: take a model pack whose detector has "
                "them, such as buffalo_l"
            )
        left, top, right, bottom = map(float, one.bbox)
        points = getattr(one, "landmark_3d_68", None)
        outline = None if points is None else np.asarray(points, float)[:, :2]
        score = getattr(one, "det_score", None)
        return Face(
            photo,
            (left, top, right, bottom),
            five_points(one.kps),
            None if score is None else float(score),
            outline,
        )


@lru_cache(maxsize=2)
def _prepared(name: str) -> Any:
    app = require_extra("insightface.app", "InsightFace's detector", "pip install insightface onnxruntime")
    folder = Path(name).expanduser()
    if not folder.is_dir() and not (_PACKS.expanduser() / name).is_dir():
        raise FileNotFoundError(
            f"expected InsightFace's model pack {name} in {_PACKS} or a folder, found nothing: "
            f"insightface.app.FaceAnalysis({name!r}) downloads it once, if that is a name of InsightFace's"
        )
    name = str(folder) if folder.is_dir() else name
    analysis = app.FaceAnalysis(name=name, allowed_modules=["detection", "landmark_3d_68"])
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis
