from __future__ import annotations

import json

import pytest
import torch

from captum_face import PairSimilarity
from captum_face.decoder import (
    FaceDecoder,
    decoder_channel_maps,
    decoder_channel_maps_chunked,
    find_decoder,
    load_decoder,
    shipped_decoder,
)
from captum_face.decoder.network import fingerprint
from captum_face.models import load_pair
from captum_face.pair.scores import unit
from tests.conftest import small_decoder, small_net


@pytest.mark.parametrize("size", [(18, 14), (112, 112), (1, 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_embedding_and_image_size(size, channels):
    decoder = FaceDecoder(5, size, channels=channels, width=8).eval()
    embeddings = torch.randn(2, 5)
    drawn = decoder(embeddings)
    assert drawn.shape == (2, channels, *size)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    torch.testing.assert_close(decoder(7 * embeddings), drawn)
    torch.testing.assert_close(decoder(embeddings.double()), drawn)


@pytest.mark.parametrize("arguments", [(0,), (5, (0, 3)), (5.5,)])
def test_sizes_are_positive_integers(arguments):
    with pytest.raises(ValueError, match="expected .* integer of at least 1"):
        FaceDecoder(*arguments)


def test_embeddings_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected embeddings \(N, 7\), got \(2, 6\)"):
        small_decoder()(torch.randn(2, 6))


def test_saved_and_read_again(tmp_path):
    decoder = small_decoder()
    decoder.report = {"identity": 0.5, "impostor_95": 0.25}
    decoder.mean.copy_(torch.linspace(-0.1, 0.1, 7))
    decoder.save(tmp_path / "decoder.safetensors")
    again = load_decoder(tmp_path / "decoder.safetensors")
    assert not again.training
    assert again.report == decoder.report
    assert (again.embedding_size, again.image_size) == (7, (18, 14))
    embeddings = torch.randn(3, 7)
    torch.testing.assert_close(again(embeddings), decoder(embeddings), atol=2e-3, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.safetensors"]


def test_files_that_hold_no_decoder(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="train-decoder"):
        load_decoder(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no decoder")
    other, cut = tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
    save_file({"weight": torch.ones(3)}, other)
    facts = {"embedding_size": 7, "image_size": [18, 14], "channels": 3, "width": 8, "report": {}}
    save_file({"mean": torch.ones(7)}, cut, metadata={k: json.dumps(v) for k, v in facts.items()})
    for path in (broken, other, cut):
        with pytest.raises(ValueError, match="expected a decoder saved by FaceDecoder.save"):
            load_decoder(path)


def test_the_bundled_model_has_a_decoder_and_others_have_none(images):
    pair = load_pair("synthetic")
    faces = torch.rand(1, 3, 112, 112)
    assert find_decoder(pair, None, torch.ones(1, 64), faces).report == shipped_decoder().report
    assert find_decoder(pair.double(), None, torch.ones(1, 64), faces.double()).embedding_size == 64
    pair = load_pair("synthetic")
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.mul_(1 + 0.5 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="none is shipped for this model; train one with"):
        find_decoder(pair, None, torch.ones(1, 64), faces)
    with pytest.raises(ValueError, match="none is shipped for this model; train one with"):
        find_decoder(PairSimilarity(small_net().eval()), None, torch.ones(1, 7), images[0])


def test_another_models_decoder_is_refused(images):
    pair = PairSimilarity(small_net().eval())
    decoder = small_decoder()
    embeddings = pair.embed(images[0]).detach()
    assert find_decoder(pair, decoder, embeddings, images[0]) is decoder
    decoder.fingerprint.copy_(fingerprint(pair, 3, (18, 14), images[0]))
    assert find_decoder(pair, decoder, embeddings, images[0]) is decoder
    other = PairSimilarity(pair.embedding_model, preprocess=lambda x: 1 - x)
    with pytest.raises(ValueError, match="decoder of this very model"):
        find_decoder(other, decoder, embeddings, images[0])
    with pytest.raises(ValueError, match="of 6 channels to images of .18, 14. pixels, got one of 7"):
        find_decoder(pair, decoder, embeddings[:, :6], images[0])
    with pytest.raises(ValueError, match=r"to images of \(18, 13\) pixels"):
        find_decoder(pair, decoder, embeddings, images[0][..., 1:])
    with pytest.raises(TypeError, match="expected decoder as a FaceDecoder or the file of one, got Linear"):
        find_decoder(pair, torch.nn.Linear(7, 3), embeddings, images[0])


@pytest.mark.parametrize("removal", ["zero", "mean"])
def test_channel_maps_against_a_loop(removal):
    decoder = small_decoder().double()
    decoder.mean.copy_(torch.linspace(-0.2, 0.3, 7))
    embedding = torch.randn(1, 7, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    f = unit(embedding)
    want = []
    for k in range(7):
        without = f.clone()
        without[0, k] = 0 if removal == "zero" else decoder.mean[k]
        change = (decoder(f) - decoder(without / without.norm()))[0].abs().mean(0).detach()
        want.append(change / change.norm())
    got = decoder_channel_maps(decoder, embedding, removal=removal, internal_batch_size=3)
    torch.testing.assert_close(got, torch.stack(want))


def test_directions_generalise_channels():
    decoder = small_decoder().double()
    embedding = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    channels = decoder_channel_maps(decoder, embedding)
    some = decoder_channel_maps(decoder, embedding, directions=torch.eye(7)[2:4])
    torch.testing.assert_close(some, channels[2:4])
    with pytest.raises(ValueError, match=r"expected directions \(K, 7\)"):
        decoder_channel_maps(decoder, embedding, directions=torch.eye(6))


def test_bad_options_of_channel_maps():
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        next(decoder_channel_maps_chunked(small_decoder(), torch.ones(1, 7), removal="men"))
    with pytest.raises(ValueError, match="expected one embedding"):
        next(decoder_channel_maps_chunked(small_decoder(), torch.ones(2, 7)))
    with pytest.raises(ValueError, match="internal_batch_size"):
        next(decoder_channel_maps_chunked(small_decoder(), torch.ones(1, 7), internal_batch_size=0))


def test_a_report_of_another_version_is_refused_by_name(tmp_path):
    decoder = FaceDecoder(7, (18, 14), width=8)
    decoder.report = {"identity": 0.5, "other_people_95": 0.25}
    decoder.save(tmp_path / "decoder.safetensors")
    with pytest.raises(ValueError, match="expected a decoder saved by FaceDecoder.save"):
        load_decoder(tmp_path / "decoder.safetensors")
