from __future__ import annotations

import pytest
import torch

from captum_face.decoder import counterfactual
from tests.conftest import small_decoder


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
    pair.threshold = None
    with pytest.raises(ValueError, match="expected a threshold to decide by, got none"):
        counterfactual(pair, a, b, decoder=small_decoder())


def test_counterfactual_of_a_match_and_of_what_never_becomes_one(pair, images):
    a, b = (image[:1] for image in images)
    pair.threshold = -1.0
    found = counterfactual(pair, a, b, decoder=small_decoder(), steps=3)
    assert found.needed == 0
    assert found.counts == (0, 4, 7)
    pair.score.limits, pair.threshold = (-1, 2), 1.5
    found = counterfactual(pair, a, b, decoder=small_decoder())
    assert found.needed is None
