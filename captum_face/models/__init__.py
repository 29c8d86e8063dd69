"""Face embedding networks: architectures, weights from files, ONNX import.

``synthetic``, trained on rendered faces, ships its weights, and the extra ``photos`` brings those of
``dlib``; those of others are read from your files. Any ``nn.Module`` or callable from images to embeddings
works with :class:`~captum_face.PairSimilarity` just as well.
"""

from captum_face.models.adapters import (
    BlackBox,
    RemoteEmbedding,
    RemoteScore,
    RequestsUsedUp,
    ServiceError,
    from_adaface,
    from_deepface,
    from_face_recognition,
    from_facenet,
    from_insightface,
)
from captum_face.models.dlib_net import DlibResNet, dlib_file, dlib_resnet
from captum_face.models.iresnet import IResNet, iresnet18, iresnet34, iresnet50, iresnet100
from captum_face.models.loading import MODELS, ModelEntry, load_pair
from captum_face.models.mobile_facenet import MobileFaceNet, mobilefacenet
from captum_face.models.onnx import OnnxEmbedding, load_onnx
from captum_face.models.synthetic_net import SyntheticFaceNet, synthetic
from captum_face.models.weights import load_weights

__all__ = [
    "MODELS",
    "BlackBox",
    "DlibResNet",
    "IResNet",
    "MobileFaceNet",
    "ModelEntry",
    "OnnxEmbedding",
    "RemoteEmbedding",
    "RemoteScore",
    "RequestsUsedUp",
    "ServiceError",
    "SyntheticFaceNet",
    "dlib_file",
    "dlib_resnet",
    "from_adaface",
    "from_deepface",
    "from_face_recognition",
    "from_facenet",
    "from_insightface",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "load_onnx",
    "load_pair",
    "load_weights",
    "mobilefacenet",
    "synthetic",
]
