"""Deletion and insertion of the rank-1 decision: planted models, a looped reference, ties, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import CorrRISE, PairSimilarity, attribute_gallery
from captum_face.metrics import IdentificationCurve, identification_curve, perturbation_curve
from tests.conftest import small_net

SIZE = 12


@pytest.fixture
def pair():
    return PairSimilarity(small_net(), preprocess="arcface")


@pytest.fixture
def faces():
    """Two probes, a gallery of five, and maps."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(n, 3, 24, 20, generator=generator) for n in (2, 5, 2))


class Quadrants(nn.Module):
    """Mean brightness of each quadrant: a gallery image that is bright in one is matched by that alone."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


@pytest.fixture
def planted():
    """Four people, each one quadrant, a probe that shows the first brightest, and the perfect map of it."""
    gallery = torch.zeros(4, 3, SIZE, SIZE)
    for i in range(4):
        gallery[i, :, 6 * (i // 2) : 6 * (i // 2) + 6, 6 * (i % 2) : 6 * (i % 2) + 6] = 1
    probe = torch.full((1, 3, SIZE, SIZE), 0.5)
    probe[:, :, :6, :6] = 1
    perfect = torch.zeros(1, SIZE, SIZE)
    perfect[:, :6, :6] = 1
    return PairSimilarity(Quadrants(), score="dot"), probe, gallery, perfect


def test_the_known_best_and_worst_maps(planted):
    pair, probe, gallery, perfect = planted
    best = identification_curve(pair, probe, gallery, perfect, n_steps=8)
    worst = identification_curve(pair, probe, gallery, -perfect, n_steps=8)
    assert best.matches.tolist() == [0]
    # The first quadrant is gone after two of eight steps, half of it, a tie, after one.
    torch.testing.assert_close(best.scores[0, :3], torch.tensor([1.0, 0.5, 0.0]).double())
    assert best.kept()[0].tolist() == [True, False] + [False] * 7
    assert worst.kept()[0].tolist() == [True] * 8 + [False]  # all black at the end: nobody leads
    torch.testing.assert_close(worst.margin()[0, 6], torch.tensor(1.0).double())
    assert best.rank1_auc() == pytest.approx(0.5 / 8)
    assert best.auc()[0] < worst.auc()[0]
    first = identification_curve(pair, probe, gallery, perfect, mode="insertion", n_steps=8)
    assert first.kept()[0].tolist() == [False] + [True] * 8


@pytest.mark.parametrize("mode", ["deletion", "insertion"])
@pytest.mark.parametrize(
    ("order", "fill"), [("similar", "swap"), ("dissimilar", "swap"), ("irrelevant", "blur")]
)
def test_equals_the_curves_of_single_pairs(pair, faces, mode, order, fill):
    """Against each gallery image a perturbation curve of its own, and the best of them by hand."""
    probes, gallery, maps = faces
    cohort = torch.rand(2, 3, 24, 20) if (order, fill) == ("similar", "swap") else None
    options = {"mode": mode, "order": order, "fill": fill, "cohort": cohort, "n_steps": 4}
    people = ["ann", "bob", "ann", "cy", "bob"]
    got = identification_curve(
        pair, probes, gallery, maps, identities=people, perturbations_per_eval=3, **options
    )
    with torch.no_grad(), pair.frozen():
        for row in range(2):
            clean = torch.cat([pair(probes[row : row + 1], image[None]) for image in gallery])
            match = int(clean.argmax())
            assert int(got.matches[row]) == match
            images = probes[row : row + 1], gallery[match][None]
            if order == "dissimilar":
                options["fill"] = (gallery[match][None], gallery[match][None])
            own = {**options, "cohort": None if cohort is None else cohort[row : row + 1]}
            curves = torch.stack(
                [
                    perturbation_curve(
                        pair, (images[0], image[None]), (maps[row : row + 1], None), **own
                    ).scores[0]
                    for image in gallery
                ]
            )
            same = torch.tensor([name == people[match] for name in people])
            torch.testing.assert_close(got.scores[row], curves[same].amax(0), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(got.runners_up[row], curves[~same].amax(0), rtol=1e-5, atol=1e-5)


def test_maps_from_the_gallery_and_embeddings_known_before(pair, faces):
    probes, gallery, _ = faces
    found = [
        attribute_gallery(CorrRISE(pair), probe[None], gallery, top_k=1, n_masks=20, seed=0)
        for probe in probes
    ]
    maps = torch.cat([one.attributions for one in found])
    seen = []
    handle = pair.embedding_model.conv1.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    curve = identification_curve(pair, probes, gallery, maps, n_steps=5)
    assert sum(seen) == 5 + 2 + 2 * 6
    assert curve.matches.tolist() == [int(one.indices[0]) for one in found]
    assert curve.protocol["gallery"] == curve.protocol["identities"] == 5
    seen.clear()
    with torch.no_grad(), pair.frozen():
        known = pair.embed(gallery)
    seen.clear()
    again = identification_curve(pair, probes, gallery, maps, n_steps=5, gallery_embeddings=known)
    assert sum(seen) == 2 + 2 * 6
    handle.remove()
    torch.testing.assert_close(again.scores, curve.scores)
    assert pair.training == pair.embedding_model.training


def test_the_same_photo_twice_leads_nobody_unless_it_is_one_person(planted):
    pair, probe, gallery, perfect = planted
    twice = torch.cat([gallery, gallery[:1]])
    assert not identification_curve(pair, probe, twice, perfect).kept().any()
    people = torch.tensor([4, 1, 2, 3, 4])
    assert identification_curve(pair, probe, twice, perfect, identities=people).kept()[0, 0]


def test_shares_over_probes():
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.2, 0.1]]).double()
    curve = IdentificationCurve(
        torch.tensor([0, 0.5, 1.0]).double(),
        scores,
        torch.full((2, 3), 0.5).double(),
        torch.tensor([0, 3]),
        {},
    )
    assert curve.rank1().tolist() == [1, 0.5, 0]
    assert curve.rank1_auc() == 0.5
    torch.testing.assert_close(curve.auc(), torch.tensor([0.25, -0.125]).double())


def test_bad_input_is_refused(pair, faces):
    probes, gallery, maps = faces
    for arguments, options, error, message in (
        ((torch.nn.Identity(), probes, gallery, maps), {}, TypeError, "expected pair as a PairSimilarity"),
        ((pair, probes, gallery[..., 1:], maps), {}, ValueError, "same channels, size and dtype"),
        ((pair, probes.double(), gallery, maps), {}, ValueError, "same channels, size and dtype"),
        ((pair, probes, gallery, maps), {"gallery_embeddings": torch.rand(5, 1)}, ValueError, "5, 7"),
        ((pair, probes, gallery, maps[:1]), {}, ValueError, "expected attributions for 2 images"),
        ((pair, probes, gallery, maps), {"identities": [1, 2]}, ValueError, "expected 5 identities"),
        ((pair, probes, gallery, maps), {"identities": ["a"] * 5}, ValueError, "at least two people"),
        ((pair, probes, gallery[:1], maps), {}, ValueError, "at least two people"),
        ((pair, probes, gallery, maps), {"fill": "swap"}, ValueError, "expected cohort="),
        ((pair, probes, gallery, maps), {"mode": "delete"}, ValueError, "did you mean 'deletion'"),
        ((pair, probes, gallery, maps), {"n_steps": 0}, ValueError, "n_steps"),
        ((pair, probes, gallery, maps), {"perturbations_per_eval": -1}, ValueError, "perturbations_per_eval"),
    ):
        with pytest.raises(error, match=message):
            identification_curve(*arguments, **options)
