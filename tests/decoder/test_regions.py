from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.data import synthetic
from captum_face.decoder import (
    FaceDecoder,
    channel_map_agreement,
    channel_regions,
)
from captum_face.maps.regions import face_regions
from captum_face.models import load_pair
from tests.conftest import small_decoder


class RegionDecoder(FaceDecoder):
    """Channel k brightens region k and nothing else."""

    def forward(self, embeddings):
        masks = torch.stack(list(face_regions().values())).to(embeddings)
        return torch.einsum("nk,khw->nhw", embeddings, masks)[:, None].expand(-1, 3, -1, -1)


class RegionNet(nn.Module):
    """Mean brightness of each region."""

    def forward(self, x):
        masks = torch.stack(list(face_regions().values())).to(x)
        return torch.einsum("nchw,khw->nk", x, masks) / masks.sum((1, 2)) / 3 - 0.5


@pytest.fixture(scope="module")
def faces():
    return synthetic.pairs(4).image_a


def test_planted_channels_are_recognised(faces):
    count = len(face_regions())
    decoder = RegionDecoder(count, width=4)
    found = channel_regions(PairSimilarity(RegionNet()), faces, decoder=decoder)
    assert found.maps.shape == (count, 112, 112)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(count))
    torch.testing.assert_close(found.areas.sum(), torch.tensor(1.0))
    # The others change too, as the rest is scaled back to unit length, but less.
    assert [found.region(k) for k in range(count)] == list(face_regions())
    lines = found.table().splitlines()
    assert len(lines) == count + 1
    assert all(line.split()[-1] == "1" for line in lines[1:])


def test_principal_directions(faces):
    pair = load_pair("synthetic")
    found = channel_regions(pair, faces, directions=3, internal_batch_size=2)
    assert found.maps.shape == (3, 112, 112)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(3), atol=1e-5, rtol=0)
    with pytest.raises(
        ValueError, match="expected at most 3 directions of 4 embeddings of 64 channels, got 4"
    ):
        channel_regions(pair, faces, directions=4)


def test_images_of_which_most_are_no_aligned_faces_are_warned_of(faces):
    with pytest.warns(UserWarning, match="4 of 4 images do not look like aligned faces"):
        channel_regions(load_pair("synthetic"), faces.flip(2), directions=3)
    with pytest.raises(ValueError, match="a pair with alignment=None"):
        channel_regions(PairSimilarity(RegionNet(), alignment=None), faces, decoder=small_decoder())


def test_agreement_with_itself_is_complete(pair, images, monkeypatch):
    from captum_face.decoder import decoder_channel_maps, regions

    decoder = small_decoder()

    def same_maps(model, image):
        yield slice(0, 7), decoder_channel_maps(decoder, model.embed(image))

    monkeypatch.setitem(regions._CHUNKED, "gradient", same_maps)
    (found,) = channel_map_agreement(pair, images[0], decoder=decoder, kinds=("gradient",), sigma=0)
    assert found.kind == "gradient"
    assert found.same == pytest.approx(1)
    assert found.specific == pytest.approx(1)
    assert found.other < 0.99


def test_agreement_with_gradients_and_lrp(faces):
    pytest.importorskip("zennit")
    found = channel_map_agreement(load_pair("synthetic"), faces[:1])
    assert [agreement.kind for agreement in found] == ["gradient", "lrp"]
    assert all(-1 <= value <= 1 for a in found for value in (a.same, a.other, a.specific))
