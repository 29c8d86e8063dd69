"""Recognisers of other packages and services, each as a finished pair wrapper: one file for each."""

from captum_face.models.adapters.adaface import from_adaface
from captum_face.models.adapters.black_box import BlackBox
from captum_face.models.adapters.deepface import from_deepface
from captum_face.models.adapters.face_recognition import from_face_recognition
from captum_face.models.adapters.facenet import from_facenet
from captum_face.models.adapters.insightface import from_insightface
from captum_face.models.adapters.remote import RemoteEmbedding, RemoteScore, RequestsUsedUp, ServiceError

__all__ = [
    "BlackBox",
    "RemoteEmbedding",
    "RemoteScore",
    "RequestsUsedUp",
    "ServiceError",
    "from_adaface",
    "from_deepface",
    "from_face_recognition",
    "from_facenet",
    "from_insightface",
]
