"""What an embedding remembers of a face: decoders, and what they say about a model's channels."""

from captum_face.decoder.counterfactuals import Counterfactual, counterfactual
from captum_face.decoder.evaluation import DecoderReport, evaluate_decoder
from captum_face.decoder.maps import decoder_channel_maps, decoder_channel_maps_chunked
from captum_face.decoder.network import FaceDecoder, find_decoder, load_decoder, shipped_decoder
from captum_face.decoder.regions import (
    Agreement,
    ChannelRegions,
    channel_map_agreement,
    channel_regions,
)
from captum_face.decoder.training import DecoderSettings, split_people, train_decoder, training_differences

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
    "shipped_decoder",
    "split_people",
    "train_decoder",
    "training_differences",
]
