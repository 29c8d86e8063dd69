"""What an embedding remembers of a face: decoders, and what they say about a model's channels."""

from captum_face.reconstruction.counterfactual import Counterfactual, counterfactual
from captum_face.reconstruction.decoder import FaceDecoder, find_decoder, load_decoder, shipped_decoder
from captum_face.reconstruction.evaluation import DecoderReport, evaluate_decoder
from captum_face.reconstruction.faces import read_faces, render_faces
from captum_face.reconstruction.figures import show_channels, show_counterfactual, show_reconstructions
from captum_face.reconstruction.maps import decoder_channel_maps, decoder_channel_maps_chunked
from captum_face.reconstruction.regions import (
    Agreement,
    ChannelRegions,
    channel_map_agreement,
    channel_regions,
)
from captum_face.reconstruction.training import DecoderSettings, split_people, train_decoder

__all__ = [
    "Agreement",
    "ChannelRegions",
    "Counterfactual",
    "DecoderReport",
    "DecoderSettings",
    "FaceDecoder",
    "channel_map_agreement",
    "channel_regions",
    "counterfactual",
    "decoder_channel_maps",
    "decoder_channel_maps_chunked",
    "evaluate_decoder",
    "find_decoder",
    "load_decoder",
    "read_faces",
    "render_faces",
    "shipped_decoder",
    "show_channels",
    "show_counterfactual",
    "show_reconstructions",
    "split_people",
    "train_decoder",
]
