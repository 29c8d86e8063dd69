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
    counterfactual,
    shipped_decoder,
    show_channels,
    show_counterfactual,
    show_reconstructions,
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
    assert len(show_channels(found, faces, count=2).axes) == 2
    with pytest.raises(
        ValueError, match="expected at most 3 directions of 4 embeddings of 64 channels, got 4"
    ):
        channel_regions(pair, faces, directions=4)


def test_unaligned_faces_are_refused(pair, images):
    with pytest.raises(ValueError, match="aligned to 112 x 112 pixels"):
        channel_regions(pair, images[0], decoder=small_decoder())


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


def test_counterfactual_against_a_loop(pair, images):
    a, b = (image[:1] for image in images)
    own, other = (pair.embed(image)[0].detach() for image in (a, b))
    pair.threshold = 0.99
    found = counterfactual(pair, a, b, decoder=small_decoder(), steps=3)
    contributions = pair.contributions(own[None], other[None])[0]
    assert found.order.tolist() == contributions.argsort().tolist()
    mixed, path = own.clone(), []
    for k in (None, *found.order.tolist()):
        if k is not None:
            mixed[k] = other[k]
        path.append(float(torch.cosine_similarity(mixed, other, dim=0)))
    assert found.needed == next(n for n, score in enumerate(path) if score >= 0.99)
    assert found.counts[0] == 0
    assert found.needed in found.counts
    assert found.counts[-1] == 7
    torch.testing.assert_close(found.scores, torch.tensor([path[n] for n in found.counts]))
    assert found.scores[-1] == pytest.approx(1)
    assert found.pictures.shape == (len(found.counts), 3, 18, 14)
    with torch.no_grad():
        torch.testing.assert_close(found.pictures[-1:], small_decoder()(other[None]))
        torch.testing.assert_close(found.picture_scores[-1:], pair(found.pictures[-1:], b))
    with pytest.raises(ValueError, match="expected one pair"):
        counterfactual(pair, *images, decoder=small_decoder())
    assert len(show_counterfactual(found).axes) == 2 * (len(found.counts) + 2)


def test_counterfactual_of_a_match_and_of_what_never_becomes_one(pair, images):
    a, b = (image[:1] for image in images)
    pair.threshold = -1.0
    found = counterfactual(pair, a, b, decoder=small_decoder(), steps=3)
    assert found.needed == 0
    assert found.counts == (0, 4, 7)
    pair.score.limits, pair.threshold = (-1, 2), 1.5
    found = counterfactual(pair, a, b, decoder=small_decoder())
    assert found.needed is None
    assert "not even all" in show_counterfactual(found)._suptitle.get_text()


def test_reconstructions_are_drawn(faces):
    figure = show_reconstructions(load_pair("synthetic"), shipped_decoder(), faces)
    assert len(figure.axes) == 8


def test_titles_stay_inside_narrow_figures(faces):
    pair = load_pair("synthetic")
    two = synthetic.pair(seed=0, same=False)
    figures = [
        show_reconstructions(pair, shipped_decoder(), faces[:2]),
        show_channels(channel_regions(pair, faces[:1]), faces[:1], count=4, columns=2),
        show_counterfactual(counterfactual(pair, two.image_a, two.image_b, steps=1)),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        title = figure._suptitle.get_window_extent()
        assert title.x0 >= 0
        assert title.x1 <= figure.bbox.width
