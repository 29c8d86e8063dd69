"""What is explained: two images, an embedding model and a score."""

from captum_face.pair.similarity import AgainstReference, PairSimilarity, frozen

__all__ = ["AgainstReference", "PairSimilarity", "frozen"]
