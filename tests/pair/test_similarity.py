from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

from captum_face import FGGB, PairSimilarity
from captum_face.pair import frozen
from captum_face.pair.scores import Cosine, Score, Threshold
from tests.conftest import small_net


def flat(dimensions=4, pixels=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * pixels * pixels, dimensions)).eval()


def test_forward_is_the_cosine_of_the_embeddings(pair, net, images):
    a, b = images
    with torch.no_grad():
        expected = torch.cosine_similarity(net((a - 0.5) / 0.5), net((b - 0.5) / 0.5))
        torch.testing.assert_close(pair(a, b), expected)


@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_contributions_sum_to_the_score(net, images, score):
    pair = PairSimilarity(net, score=score)
    emb_a, emb_b = (pair.embed(image) for image in images)
    closed = {
        "cosine": torch.cosine_similarity(emb_a, emb_b),
        "dot": (emb_a * emb_b).sum(1),
        "euclidean": -(torch.cdist(emb_a[:, None], emb_b[:, None]).flatten() ** 2),
    }[score]
    contributions = pair.contributions(emb_a, emb_b)
    assert contributions.shape == emb_a.shape
    torch.testing.assert_close(contributions.sum(1), closed)
    torch.testing.assert_close(pair(*images), closed)


def test_one_side_of_batch_one_broadcasts_and_is_embedded_once(images):
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.flatten(1)[:, :5]

    pair = PairSimilarity(Counting())
    a, b = images
    scores = pair(a[:1], b)
    assert seen == [1, 3]
    torch.testing.assert_close(scores, pair(a[:1].expand(3, -1, -1, -1), b))


def test_custom_score_is_one_small_class(net, images):
    class FirstChannel(Score):
        name = "first"

        def contributions(self, emb_a, emb_b):
            return emb_a * emb_b * (torch.arange(emb_a.shape[-1]) == 0)

    pair = PairSimilarity(net, score=FirstChannel())
    with torch.no_grad():
        torch.testing.assert_close(pair(*images), net(images[0])[:, 0] * net(images[1])[:, 0])


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("arcface", lambda x: (x - 0.5) / 0.5),
        ("adaface", lambda x: (x[:, [2, 1, 0]] - 0.5) / 0.5),
        ("magface", lambda x: x[:, [2, 1, 0]]),
        ("facenet", lambda x: (255 * x - 127.5) / 128),
        ("dlib", lambda x: (255 * x - torch.tensor([122.782, 117.001, 104.298]).view(3, 1, 1)) / 256),
        (
            "imagenet",
            lambda x: (
                (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
                / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
            ),
        ),
        (None, lambda x: x),
        (lambda x: 2 * x, lambda x: 2 * x),
    ],
)
def test_presets(preset, expected, images):
    pair = PairSimilarity(nn.Flatten(), preprocess=preset)
    torch.testing.assert_close(pair.embed(images[0]), expected(images[0]).flatten(1))


def test_select_takes_the_embedding_out_of_tuples_and_dicts(net, images):
    expected = PairSimilarity(net)(*images)

    def answers(form):
        return PairSimilarity(
            lambda x: {"tuple": (net(x), net(x).norm(dim=1)), "dict": {"feature": net(x)}}[form],
            select={"tuple": 0, "dict": "feature"}[form],
        )

    for form in ("tuple", "dict"):
        torch.testing.assert_close(answers(form)(*images), expected)
    by_callable = PairSimilarity(lambda x: [net(x)], select=lambda answer: answer[-1])
    torch.testing.assert_close(by_callable(*images), expected)


def test_unselected_and_wrongly_selected_answers(net, images):
    def model(x):
        return net(x), x.mean((1, 2, 3))

    with pytest.raises(TypeError, match=r"tuple of 2: \(3, 7\), \(3,\).*select="):
        PairSimilarity(model)(*images)
    with pytest.raises(ValueError, match=r"select='feature' does not fit.*tuple of 2"):
        PairSimilarity(model, select="feature")(*images)
    with pytest.raises(ValueError, match=r"select='emb' does not fit.*keys \['feature'\]"):
        PairSimilarity(lambda x: {"feature": net(x)}, select="emb")(*images)


def test_max_batch_size_splits_and_remedies_fixed_batches(net, images):
    seen = []

    def fixed_batch(x):
        seen.append(len(x))
        return net(x).reshape(1, -1)

    with pytest.raises(ValueError, match=r"\(3, D\) for 3 image\(s\), got \(1, 21\).*max_batch_size=1"):
        PairSimilarity(fixed_batch)(*images)
    seen.clear()
    pair = PairSimilarity(fixed_batch, max_batch_size=1)
    torch.testing.assert_close(pair(*images), PairSimilarity(net)(*images))
    assert set(seen) == {1}


def test_embedding_in_passes_splits_and_halves(net, images):
    seen = []

    def model(x):
        seen.append(len(x))
        if len(x) > 2:
            raise MemoryError
        return net(x)

    pair = PairSimilarity(model)
    torch.testing.assert_close(pair.embed_in_passes(images[0], 3), net(images[0]))
    assert seen == [3, 1, 1, 1]
    seen.clear()
    PairSimilarity(model, max_batch_size=1).embed_in_passes(images[0], 2)
    assert seen == [1, 1, 1]


def test_decide_uses_the_threshold_inclusively(images):
    pair = PairSimilarity(lambda x: torch.ones(len(x), 2), threshold=2.0, score="dot")
    assert pair.decide(*images).tolist() == [True] * 3
    pair.threshold = 2.0001
    assert pair.decide(*images).tolist() == [False] * 3


def test_decide_runs_in_eval_mode_and_restores(images):
    net = small_net()
    pair = PairSimilarity(net, threshold=0.2)
    before = net.bn1.running_mean.clone()
    expected = PairSimilarity(small_net().eval())(*images) >= 0.2
    assert torch.equal(pair.decide(*images), expected)
    assert net.training
    assert torch.equal(net.bn1.running_mean, before)


def test_against_is_the_score_of_one_input(pair, images):
    a, b = images
    against = pair.against(b)
    torch.testing.assert_close(against(a), pair(a, b))
    torch.testing.assert_close(pair.against(b[:1])(a), pair(a, b[:1]))
    with pytest.raises(ValueError, match=r"batch of 3 images.*got 2"):
        against(a[:2])
    attr = IntegratedGradients(pair.against(b[:1])).attribute(a[:1], n_steps=200)
    delta = pair(a[:1], b[:1]) - pair.against(b[:1])(torch.zeros_like(a[:1]))
    torch.testing.assert_close(attr.sum(), delta.sum(), rtol=2e-2, atol=2e-3)


def test_captums_methods_take_the_pair_itself(pair, images):
    attr_a, attr_b = Saliency(pair).attribute(images, abs=False)
    a, b = (image.clone().requires_grad_() for image in images)
    grad_a, grad_b = torch.autograd.grad(pair(a, b).sum(), (a, b))
    torch.testing.assert_close(attr_a, grad_a)
    torch.testing.assert_close(attr_b, grad_b)


def snapshot(module):
    return [m.training for m in module.modules()], [p.requires_grad for p in module.parameters()]


def test_frozen_restores_everything_when_nested_and_on_errors():
    net = small_net()
    net.bn1.eval()
    net.fc.weight.requires_grad_(False)
    pair = PairSimilarity(net)
    before = snapshot(pair)

    def fail():
        with pair.frozen(), pair.frozen():
            assert not any(m.training for m in net.modules())
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    with pair.frozen():
        with pair.frozen():
            pass
        assert not any(p.requires_grad for p in net.parameters())
        assert not net.training
    assert snapshot(pair) == before


def test_frozen_reaches_the_module_behind_a_bound_method():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def encode(self, x):
            return self.net(x)

    encoder = Encoder()
    pair = PairSimilarity(encoder.encode)
    with pair.frozen():
        assert not encoder.net.bn1.training
    assert encoder.net.bn1.training
    with frozen(lambda x: x):
        pass


def test_training_mode_is_not_silent(images):
    with pytest.warns(UserWarning, match="training mode"):
        PairSimilarity(small_net())(*images)


def test_numpy_answers_pass(net, images):
    def through_numpy(x):
        with torch.no_grad():
            return net(x).numpy()

    torch.testing.assert_close(PairSimilarity(through_numpy)(*images), PairSimilarity(net)(*images))


BAD_IMAGES = [
    ("not a pair", lambda a, b: (a.numpy(), b), TypeError, "torch.Tensor.*got ndarray"),
    ("no batch", lambda a, b: (a[0], b), ValueError, r"\(N, C, H, W\), got \(3, 18, 14\).*image\[None\]"),
    ("empty", lambda a, b: (a[:0], b), ValueError, r"got \(0, 3, 18, 14\)"),
    ("batches", lambda a, b: (a[:2], b), ValueError, "equal batches"),
    ("sizes", lambda a, b: (a, b[..., 1:]), ValueError, "same channels and size"),
    ("channels", lambda a, b: (a, b[:, :1]), ValueError, "same channels and size"),
    ("dtypes", lambda a, b: (a, b.double()), TypeError, "one dtype"),
    ("integers", lambda a, b: ((255 * a).byte(), b), TypeError, "uint8.*/ 255"),
    ("0..255", lambda a, b: (255 * a, b), ValueError, r"in \[0, 1\].*divide by 255"),
    ("NaN", lambda a, b: (a.where(a > 0.01, np.nan), b), ValueError, "finite image_a"),
    ("infinite", lambda a, b: (a, b.where(b > 0.01, np.inf)), ValueError, "finite image_b"),
]


@pytest.mark.parametrize(("case", "change", "error", "message"), BAD_IMAGES, ids=[c[0] for c in BAD_IMAGES])
def test_bad_images(pair, images, case, change, error, message):
    with pytest.raises(error, match=message):
        pair(*change(*images))


def test_normalised_images_warn_and_noise_does_not(pair, images):
    a, b = images
    with pytest.warns(UserWarning, match="look normalised"):
        pair(2 * a - 1, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair(a + 0.2 * torch.randn_like(a), b)


BAD_EMBEDDINGS = [
    (lambda x: x[:, 0], ValueError, r"shape \(3, D\).*got \(3, 18, 14\).*flatten"),
    (lambda x: x.flatten(1) * float("nan"), ValueError, "finite embeddings"),
    (lambda x: x.flatten(1) / 0, ValueError, "finite embeddings"),
    (lambda x: 0 * x.flatten(1), ValueError, "all-zero embedding"),
    (lambda x: "face", TypeError, "tensor.*got str"),
]


@pytest.mark.parametrize(("model", "error", "message"), BAD_EMBEDDINGS)
def test_bad_embeddings(images, model, error, message):
    with pytest.raises(error, match=message):
        PairSimilarity(model)(*images)


def test_bad_arguments():
    model = flat()
    with pytest.raises(ValueError, match="unknown score 'cosin'.*did you mean 'cosine'"):
        PairSimilarity(model, score="cosin")
    with pytest.raises(ValueError, match="unknown preprocess preset 'ArcFace'.*did you mean 'arcface'"):
        PairSimilarity(model, preprocess="ArcFace")
    with pytest.raises(ValueError, match="max_batch_size.*got 0"):
        PairSimilarity(model, max_batch_size=0)
    with pytest.raises(TypeError, match="threshold as a number.*'high'"):
        PairSimilarity(model, threshold="high")
    with pytest.raises(TypeError, match="module or callable, got int"):
        PairSimilarity(3)
    with pytest.raises(TypeError, match="got the class Flatten"):
        PairSimilarity(nn.Flatten)
    with pytest.raises(TypeError, match=r"write Cosine\(\)"):
        PairSimilarity(model, score=Cosine)


def test_half_precision_unit_embeddings_do_not_underflow():
    pair = PairSimilarity(lambda x: 1e-4 * x.flatten(1))
    a = torch.rand(2, 3, 4, 4, dtype=torch.float16)
    torch.testing.assert_close(pair(a, a), torch.ones(2, dtype=torch.float16), atol=2e-3, rtol=0)


@pytest.mark.real
def test_real_scores_separate(real_pair, real_images):
    genuine, impostor = real_pair(*real_images).tolist()
    assert genuine > 0.3 > impostor


def test_a_score_of_ones_own_is_checked(net, images):
    class Total(Score):
        def contributions(self, emb_a, emb_b):
            return (emb_a * emb_b).sum(-1)

    class Broken(Score):
        def contributions(self, emb_a, emb_b):
            return emb_a / 0 * emb_b

    with pytest.raises(ValueError, match=r"shape \(3, 7\).*got \(3,\)"):
        PairSimilarity(net, score=Total())(*images)
    with pytest.raises(ValueError, match="finite scores"):
        PairSimilarity(net, score=Broken())(*images)


def test_decide_agrees_with_the_score_as_a_number():
    pair = PairSimilarity(lambda x: torch.tensor([[0.7]]).expand(len(x), 1), score="dot", threshold=0.49)
    image = torch.rand(1, 1, 2, 2)
    assert pair.decide(image, image).item() == (pair(image, image).item() >= 0.49)


def test_against_embeds_the_reference_in_eval_mode(images):
    pair = PairSimilarity(small_net())
    reference = PairSimilarity(small_net().eval()).embed(images[1])
    torch.testing.assert_close(pair.against(images[1]).reference, reference)
    assert pair.embedding_model.training


def test_select_on_a_plain_tensor_is_not_called_a_fixed_batch(net, images):
    with pytest.raises(ValueError, match="check select=0"):
        PairSimilarity(net, select=0)(*images)


def test_frozen_torchscript_and_inference_parameters(net, images):
    frozen_script = torch.jit.freeze(torch.jit.trace(net, images[0]))
    expected = PairSimilarity(net, threshold=0.0).decide(*images)
    assert torch.equal(PairSimilarity(frozen_script, threshold=0.0).decide(*images), expected)
    with torch.inference_mode():
        inference = small_net().eval()
    assert torch.equal(PairSimilarity(inference, threshold=0.0).decide(*images), expected)


def test_without_a_threshold_nothing_is_decided(net, images):
    pair = PairSimilarity(net)
    assert pair.threshold is None
    assert pair(*images).shape == (len(images[0]),)
    assert "threshold=None" in repr(pair)
    with pytest.raises(ValueError, match=r"expected a threshold to decide by, got none; give PairSimilarity"):
        pair.decide(*images)
    pair.threshold = Threshold(0.2, "EER of 7 listed pairs")
    assert (pair.threshold, pair.threshold.source) == (0.2, "EER of 7 listed pairs")
    assert copy.deepcopy(pair).threshold.source == "EER of 7 listed pairs"
    pair.threshold = 0.3
    assert pair.threshold.source == "given by the caller"


@pytest.mark.parametrize(
    ("score", "threshold", "limits"),
    [("cosine", 30, "-1 to 1"), ("cosine", -1.01, "-1 to 1")],
)
def test_thresholds_that_the_score_cannot_reach(net, score, threshold, limits):
    message = f"expected a threshold that the score can reach, {limits}, got {threshold:g}"
    with pytest.raises(ValueError, match=message):
        PairSimilarity(net, score=score, threshold=threshold)
    pair = PairSimilarity(net, score=score)
    with pytest.raises(ValueError, match=message):
        pair.threshold = threshold
    with pytest.raises(ValueError, match=message):
        FGGB(pair).attribute((torch.rand(1, 3, 18, 14),) * 2, threshold=threshold)
    assert PairSimilarity(net, score="dot", threshold=30).threshold == 30


@pytest.mark.parametrize("threshold", [np.float32(0.25), torch.tensor(0.25), 0.25])
def test_scalars_of_numpy_and_torch_are_thresholds(net, threshold):
    assert PairSimilarity(net, threshold=threshold).threshold == 0.25


def test_reduced_precision(net, images):
    """The model computes in bfloat16, forward and backward; embeddings come in the images' dtype."""
    seen = []
    net.conv1.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    full, reduced = PairSimilarity(net), PairSimilarity(net, precision="bfloat16")
    expected, got = full.embed(images[0]), reduced.embed(images[0].requires_grad_())
    assert seen == [torch.float32, torch.bfloat16]
    assert got.dtype == torch.float32
    assert 1e-6 < (got - expected).norm() / expected.norm() < 0.02
    gradient, exact = (torch.autograd.grad(e[:, 0].sum(), images[0])[0] for e in (got, full.embed(images[0])))
    assert gradient.dtype == torch.float32
    assert 1e-6 < (gradient - exact).norm() / exact.norm() < 0.1
    assert "precision=bfloat16" in repr(reduced)
    assert "precision" not in repr(full)
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        PairSimilarity(net, precision="float16")
