"""One probe against a gallery: the same maps as one by one, for the price of one."""

from __future__ import annotations

import pytest
import torch
from captum.attr import GradientShap, NoiseTunnel, Saliency

import captum_face
from captum_face import METHODS, PairSimilarity, attribute_gallery
from captum_face.results.gallery import embed_gallery, gallery_scores
from tests.attr.test_contract import FAST, every_method, same_state, state
from tests.conftest import small_net


@pytest.fixture
def probe(images):
    return images[0][:1]


@pytest.fixture
def gallery():
    """Seven images; no method's batch has as many."""
    return torch.rand(7, 3, 18, 14, generator=torch.Generator().manual_seed(9))


class Counting:
    """Images that go forward through the first layer and gradients that start at the last."""

    def __init__(self):
        self.net = small_net().eval()
        self.forward = self.backward = 0
        self.net.conv1.register_forward_pre_hook(lambda _, args: self.forwards(len(args[0])))
        self.net.fc.register_forward_hook(self.way_back)
        self.pair = PairSimilarity(self.net, threshold=0.2, preprocess="arcface")

    def forwards(self, n):
        self.forward += n

    def way_back(self, _, args, out):
        def count(gradient):
            self.backward += len(gradient)

        if out.requires_grad:
            out.register_hook(count)

    def cost(self, method, probe, gallery, **options):
        """Passes for the probe against a gallery, beyond embedding that."""
        self.forward = self.backward = 0
        attribute_gallery(method, probe, gallery, **options)
        return self.forward - len(gallery), self.backward


@every_method
def test_equals_one_by_one(method, pair, probe, gallery):
    built, options = method.build(pair), FAST.get(method.name, {})
    before, rng = state(pair), torch.get_rng_state()
    found = attribute_gallery(built, probe, gallery, **options)
    assert same_state(before, state(pair))
    assert torch.equal(torch.get_rng_state(), rng)
    assert vars(built) == vars(method.build(pair))
    assert found.attributions.shape == gallery.shape
    assert found.indices.tolist() == list(range(7))
    with torch.no_grad():
        torch.testing.assert_close(found.scores, pair(probe, gallery))
    for i in range(7):
        want, _ = built.attribute((probe, gallery[i : i + 1]), **options)
        torch.testing.assert_close(found.attributions[i : i + 1], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["fggb", "corrrise", "rise", "occlusion", "feature_ablation", "kernel_shap"])
def test_a_hundred_gallery_images_cost_as_much_as_one(name, probe):
    """Channel maps and masked embeddings are those of the probe; the gallery is only embedded."""
    model = Counting()
    gallery = torch.rand(100, 3, 18, 14, generator=torch.Generator().manual_seed(9))
    method, options = METHODS[name].build(model.pair), FAST.get(name, {})
    assert model.cost(method, probe, gallery, **options) == model.cost(method, probe, gallery[:1], **options)


def test_xface_costs_as_much_as_one_against_intact_images_alone(probe, gallery):
    """The other variants occlude the gallery image too: its occlusions cannot be the probe's."""
    model = Counting()
    method, options = captum_face.XFace(model.pair), FAST["xface"]
    single = [model.cost(method, probe, gallery[:k], variant="single", **options) for k in (1, 7)]
    cross = [model.cost(method, probe, gallery[:k], **options)[0] for k in (1, 7)]
    squares = single[0][0] - 1
    assert single[0] == single[1]
    # Of the probe and of each gallery image: intact (the gallery's own is known) and under each square.
    assert cross == [1 + 2 * squares, 1 + 8 * squares]


def test_bilrp_needs_two_relevance_passes_a_gallery_image(pair, probe, gallery, monkeypatch):
    from captum_face.lrp.propagation import Propagation

    passes = {"maps": 0, "sums": 0}

    def count(name, original):
        def counted(self, image, *rest):
            passes[name] += len(rest[0]) if name == "maps" else 1
            return original(self, image, *rest)

        monkeypatch.setattr(Propagation, name, counted)

    for name in passes:
        count(name, getattr(Propagation, name))
    attribute_gallery(captum_face.BiLRP(pair), probe, gallery)
    assert passes == {"maps": 7, "sums": 7}


@every_method
def test_the_side_of_the_gallery_is_not_explained(method, pair, probe, gallery):
    built, options = method.build(pair), FAST.get(method.name, {})
    alone = built.attribute_probe((probe, gallery), **options)
    torch.testing.assert_close(alone, built.attribute((probe, gallery), **options)[0])


def test_the_best_are_explained_in_their_order(pair, probe, gallery):
    gallery[3] = gallery[5]  # a tie goes to the first
    method = captum_face.FGGB(pair)
    every = attribute_gallery(method, probe, gallery)
    best = attribute_gallery(method, probe, gallery, top_k=4)
    order = sorted(range(7), key=lambda i: (-float(every.scores[i]), i))[:4]
    assert best.indices.tolist() == order
    torch.testing.assert_close(best.scores, every.scores[order])
    torch.testing.assert_close(best.attributions, every.attributions[order])
    assert len(attribute_gallery(method, probe, gallery, top_k=50).indices) == 7


@pytest.mark.parametrize("both", [False, True])
def test_the_best_keep_the_pixels_that_stand_in_for_hidden_ones(pair, probe, gallery, both):
    fills = torch.rand(7, 3, 18, 14, generator=torch.Generator().manual_seed(4))
    options = FAST["corrrise"] | {"baselines": (fills, 0.5) if both else fills}
    method = captum_face.CorrRISE(pair)
    every = attribute_gallery(method, probe, gallery, **options)
    best = attribute_gallery(method, probe, gallery, top_k=3, **options)
    torch.testing.assert_close(best.attributions, every.attributions[best.indices])
    found = captum_face.identify(pair, probe, gallery, "corrrise", top_k=3, **options)
    for match, index in zip(found.matches, best.indices.tolist(), strict=True):
        assert match.name == str(index)
        torch.testing.assert_close(match.attribution, every.attributions[[index]])


def test_a_sample_of_baselines_stays_whole(pair, probe, gallery):
    sample = torch.rand(7, 3, 18, 14, generator=torch.Generator().manual_seed(4))
    for method in (METHODS["gradient_shap"].build(pair), captum_face.EachSide(pair, GradientShap)):
        every = attribute_gallery(method, probe, gallery, baselines=sample, n_samples=3, seed=0)
        best = attribute_gallery(method, probe, gallery, top_k=2, baselines=sample, n_samples=3, seed=0)
        torch.testing.assert_close(best.attributions, every.attributions[best.indices])


def test_a_gallery_embedded_before_is_not_embedded_again(probe, gallery):
    model = Counting()
    embeddings = embed_gallery(model.pair, gallery, batch_size=3)
    method = captum_face.CorrRISE(model.pair)
    want = attribute_gallery(method, probe, gallery, **FAST["corrrise"])
    model.forward = 0
    got = attribute_gallery(method, probe, gallery, gallery_embeddings=embeddings, **FAST["corrrise"])
    assert model.forward == 12 + 1
    torch.testing.assert_close(got.attributions, want.attributions)
    assert not embeddings.requires_grad


@pytest.mark.parametrize("method", ["fggb", "xssab", "saliency", "corrrise"])
def test_in_inference_mode_and_for_callers_with_gradients(method, pair, probe, gallery):
    built, options = METHODS[method].build(pair), FAST.get(method, {})
    want = attribute_gallery(built, probe, gallery, **options).attributions
    with torch.inference_mode():
        got = attribute_gallery(built, probe.clone(), gallery.clone(), **options).attributions
    torch.testing.assert_close(got, want)
    leaf = gallery.clone().requires_grad_()
    got = attribute_gallery(built, probe, leaf, **options).attributions
    torch.testing.assert_close(got, want)
    assert not got.requires_grad


def test_images_go_through_the_model_a_few_at_a_time(pair, probe):
    sizes = []
    handle = pair.embedding_model.conv1.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    gallery = torch.rand(50, 3, 18, 14)
    for method in ("fggb", "corrrise", "xssab", "saliency"):
        attribute_gallery(METHODS[method].build(pair), probe, gallery, **FAST.get(method, {}))
    handle.remove()
    assert max(sizes) <= 7  # FGGB's seven channels; the gallery of 50 never at once


def test_any_captum_method_and_a_model_whose_embed_is_its_own(net, probe, gallery):
    class Mirrored(PairSimilarity):
        def embed(self, images):
            return super().embed(images) + super().embed(images.flip(-1))

    pair = Mirrored(net, preprocess="arcface")
    method = captum_face.EachSide(pair, Saliency)
    found = attribute_gallery(method, probe, gallery[:2], abs=False)
    want = torch.cat([method.attribute((probe, gallery[i : i + 1]), abs=False)[0] for i in range(2)])
    torch.testing.assert_close(found.attributions, want)


def test_scores_of_many_probes_in_chunks(pair, images, gallery, monkeypatch):
    with torch.no_grad(), pair.frozen():
        probes, known = pair.embed(images[0]), pair.embed(gallery)
        whole = gallery_scores(pair, probes, known)
        monkeypatch.setattr("captum_face.pair.embedding._CHUNK", 2 * probes.numel())
        torch.testing.assert_close(gallery_scores(pair, probes, known), whole)
        torch.testing.assert_close(whole[:, 2], pair(images[0], gallery[2:3]))


def test_the_probe_goes_through_the_twin(pair, probe, gallery):
    from captum_face.engines.sides import Sides
    from captum_face.pair.speed import _Twin

    seen = []

    def one(side):
        assert isinstance(side.quick.embedding_model, _Twin)
        torch.testing.assert_close(side.quick.embed(probe), pair.embed(probe), rtol=1e-5, atol=1e-6)
        assert torch.equal(side.partner_embeddings, torch.zeros(7, 7))
        seen.append(side.rows)
        return torch.zeros(7, 18, 14)

    with pair.frozen(), torch.no_grad():
        Sides(pair, (probe, gallery), which=(False,), known={True: torch.zeros(7, 7)}).explain(one)
    assert seen == [slice(0, 7)]


def test_what_does_not_fit_is_refused_before_any_pass(probe, gallery):
    model = Counting()
    fggb, lrp = captum_face.FGGB(model.pair), captum_face.LRP(model.pair)
    for arguments, options, error, message in (
        ((fggb, gallery, gallery), {}, ValueError, "expected one probe"),
        ((fggb, probe, gallery[..., 1:]), {}, ValueError, "expected two images of the same channels"),
        ((fggb, probe, gallery), {"top_k": 0}, ValueError, "top_k"),
        ((fggb, probe, gallery), {"n_masks": 3}, TypeError, "n_masks"),
        ((lrp, probe, gallery), {"return_convergence_delta": True}, ValueError, "expected options that"),
        ((fggb, probe, gallery), {"gallery_embeddings": torch.rand(6, 7)}, ValueError, r"\(7, D\)"),
        ((fggb, probe, gallery), {"gallery_embeddings": [0.0] * 7}, TypeError, "as a torch.Tensor"),
        ((captum_face.FGGB, probe, gallery), {}, TypeError, "expected a method of captum_face"),
        ((NoiseTunnel(fggb), probe, gallery), {}, TypeError, "got NoiseTunnel"),
        ((captum_face.CorrRISE(model.net), probe, gallery), {}, TypeError, "on a PairSimilarity"),
    ):
        with pytest.raises(error, match=message):
            attribute_gallery(*arguments, **options)
    assert model.forward == 0
    for dimensions in (1, 8):  # of another model; a single channel would broadcast
        with pytest.raises(ValueError, match=r"expected gallery_embeddings \(7, 7\), this model's"):
            attribute_gallery(fggb, probe, gallery, gallery_embeddings=torch.rand(7, dimensions))
