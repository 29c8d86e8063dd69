from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from captum_face import PairSimilarity
from captum_face.data import FacePairs, read_pairs, synthetic
from captum_face.data.face_pairs import ImageSource
from captum_face.metrics import (
    best_accuracy,
    calibrate_threshold,
    eer,
    kfold_accuracy,
    pair_scores,
    roc,
    tar_at_far,
)
from tests.conftest import small_net


def random_scores(seed, n=60):
    """Scores with many ties, the genuine ones higher on average."""
    generator = np.random.default_rng(seed)
    same = generator.random(n) < 0.4
    same[:2] = True, False
    return (generator.integers(0, 9, n) + 2 * same) / 9, same


def rates(scores, same, threshold):
    """FMR and TMR at one threshold, exactly."""
    impostor = [s for s, g in zip(scores, same, strict=True) if not g]
    genuine = [s for s, g in zip(scores, same, strict=True) if g]
    return (
        Fraction(sum(s >= threshold for s in impostor), len(impostor)),
        Fraction(sum(s >= threshold for s in genuine), len(genuine)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_roc_is_the_counts_at_every_distinct_score(seed):
    scores, same = random_scores(seed)
    curve = roc(scores, same)
    thresholds = [math.inf, *sorted(set(scores), reverse=True)]
    assert curve.thresholds.tolist() == thresholds
    expected = [rates(scores, same, t) for t in thresholds]
    assert curve.fmr.tolist() == [float(fmr) for fmr, _ in expected]
    assert curve.tmr.tolist() == [float(tmr) for _, tmr in expected]
    assert all(values.dtype == torch.float64 for values in curve)


@pytest.mark.parametrize(
    ("genuine", "impostor", "rate", "threshold"),
    [
        ([0.9, 0.8], [0.2, 0.1], 0, 0.5),  # apart
        ([0.1, 0.2], [0.8, 0.9], 1, 0.5),  # the wrong way round
        ([0.9, 0.8, 0.5], [0.6, 0.2, 0.1], 1 / 3, 0.55),  # one of three on each side
        # FMR 1/4 from 0.5 on, FNMR 1/2 down to 0.4: crosses where FNMR falls from 1/2 to 0. The points are as
        # far from equal, so the stricter one counts: midway between 0.5 and 0.4.
        ([0.9, 0.4], [0.5, 0.3, 0.2, 0.1], 1 / 4, 0.45),
        ([0.9, 0.5], [0.5, 0.1], 1 / 4, 0.7),  # a tie: from (0, 1/2) straight to (1/2, 0)
        # From (FMR 0, FNMR 2/3) to (1/2, 0) by a tie: x = 2/3 - 4/3 x, x = 2/7; the second point is nearer.
        ([0.9, 0.5, 0.5], [0.5, 0.1], 2 / 7, 0.3),
        ([0.5], [0.5, 0.5], 1 / 2, math.nextafter(0.5, 1)),  # scores that know nothing
    ],
)
def test_eer_by_hand(genuine, impostor, rate, threshold):
    scores, same = genuine + impostor, [1] * len(genuine) + [0] * len(impostor)
    result = eer(scores, same)
    assert result.rate == pytest.approx(rate, abs=1e-15)
    assert result.threshold == pytest.approx(threshold, abs=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_eer_is_where_the_polyline_of_the_roc_crosses_equality(seed):
    scores, same = random_scores(seed)
    thresholds = [math.inf, *sorted(set(scores), reverse=True)]
    points = [(fmr, 1 - tmr) for fmr, tmr in (rates(scores, same, t) for t in thresholds)]
    crossings = []
    for (x0, y0), (x1, y1) in pairwise(points):
        if (y0 - x0) >= 0 >= (y1 - x1):
            share = (y0 - x0) / ((y0 - x0) - (y1 - x1))
            crossings.append(x0 + share * (x1 - x0))
    rate, threshold = eer(scores, same)
    assert rate == pytest.approx(float(crossings[0]), abs=1e-12)
    fmr, tmr = rates(scores, same, threshold)
    assert abs(fmr - (1 - tmr)) == min(abs(x - y) for x, y in points)


@pytest.mark.parametrize("seed", range(6))
def test_best_accuracy_is_that_of_the_best_threshold(seed):
    scores, same = random_scores(seed)
    cuts = [*sorted(set(scores)), 99.0]
    accuracies = [np.mean((scores >= cut) == same) for cut in cuts]
    accuracy, threshold = best_accuracy(scores, same)
    assert accuracy == pytest.approx(max(accuracies), abs=1e-15)
    assert np.mean((scores >= threshold) == same) == pytest.approx(accuracy, abs=1e-15)
    strictest = max(cut for cut, a in zip(cuts, accuracies, strict=True) if a == max(accuracies))
    assert ((scores >= threshold) == (scores >= strictest)).all()


def test_best_accuracy_may_reject_or_accept_all():
    accuracy, threshold = best_accuracy([0.1, 0.7, 0.8, 0.9], [1, 0, 0, 0])
    assert accuracy == 0.75
    assert 0.9 < threshold < 0.9 + 1e-12
    assert best_accuracy([0.1, 0.7, 0.8, 0.9], [1, 1, 1, 0]) == (0.75, 0.1)


def test_thresholds_lie_midway_and_never_on_the_rejected_score():
    assert best_accuracy([3.0, 1.0], [1, 0])[1] == 2.0
    low = 0.3
    high = math.nextafter(low, 1)
    assert best_accuracy([high, low], [1, 0]) == (1.0, high)
    assert eer([high, low], [1, 0]) == (0.0, high)


def test_lists_keep_double_precision():
    assert eer([0.9, 0.8, 0.5, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0]).threshold == 0.55
    assert roc([0.1, 0.2], [1, 0]).thresholds[1:].tolist() == [0.2, 0.1]


@pytest.mark.parametrize("far", [0.05, 0.1, 0.3, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_tar_at_far_is_the_largest_at_or_below(seed, far):
    scores, same = random_scores(seed, n=90)
    candidates = [rates(scores, same, t) for t in [math.inf, *scores]]
    assert tar_at_far(scores, same, far) == float(max(tmr for fmr, tmr in candidates if float(fmr) <= far))


def test_tar_at_far_includes_a_far_that_is_met_exactly():
    scores = [0.9, 0.5, 0.8, *[0.1] * 9]
    same = [1, 1, 0, *[0] * 9]
    assert tar_at_far(scores, same, 0.1) == 1.0
    assert tar_at_far([0.8, 0.5, 0.8, 0.8], [1, 1, 0, 0], 0.5) == 0.0  # tied impostors come together


def test_kfold_takes_each_threshold_from_the_other_folds():
    generator = np.random.default_rng(0)
    same = generator.random(120) < 0.5
    scores = generator.normal(size=120) + 1.5 * same
    folds = generator.integers(0, 4, 120)
    accuracies = []
    for fold in range(4):
        train, test = folds != fold, folds == fold
        cuts = np.sort(np.unique(scores[train]))
        middles = [*(cuts[1:] + cuts[:-1]) / 2, cuts[-1] + 1e-12]
        right = [np.mean((scores[train] >= cut) == same[train]) for cut in middles]
        best = middles[len(right) - 1 - int(np.argmax(right[::-1]))]
        accuracies.append(np.mean((scores[test] >= best) == same[test]))
    result = kfold_accuracy(scores, same, folds)
    assert result.mean == pytest.approx(np.mean(accuracies))
    assert result.standard_error == pytest.approx(np.std(accuracies, ddof=1) / 2)
    assert kfold_accuracy(scores, same, list(folds)) == result


def test_kfold_by_hand():
    # Fold 0 is decided at 0.5, the middle of fold 1: its impostor is wrong. Fold 1 is decided at 0.65.
    scores, same, folds = [0.7, 0.6, 0.8, 0.2], [1, 0, 1, 0], [0, 0, 1, 1]
    mean, standard_error = kfold_accuracy(scores, same, folds)
    assert mean == 0.75
    assert standard_error == pytest.approx(0.25)  # deviation of (0.5, 1) is 0.354, over the root of 2


def test_folds_by_number_are_those_of_lfw():
    # LFW's list: ten times 6 genuine, then 6 impostor pairs.
    generator = torch.Generator().manual_seed(0)
    same = torch.tensor(([True] * 6 + [False] * 6) * 10)
    scores = torch.randn(120, generator=generator) + same
    assert kfold_accuracy(scores, same, 10) == kfold_accuracy(scores, same, torch.arange(120) // 12)
    # The same pairs with all genuine ones first.
    order = torch.cat([same.nonzero()[:, 0], (~same).nonzero()[:, 0]])
    assert kfold_accuracy(scores[order], same[order]) == kfold_accuracy(scores, same)


SCORERS = [roc, eer, best_accuracy, kfold_accuracy, lambda s, g: tar_at_far(s, g, 0.5)]


@pytest.mark.parametrize("function", SCORERS)
@pytest.mark.parametrize(
    ("scores", "same", "error", "message"),
    [
        ([0.1, 0.2], [1, 1], ValueError, "genuine and impostor pairs, got 2 genuine"),
        ([0.1, 0.2], [False, False], ValueError, "got 2 impostor"),
        ([0.1, float("nan")], [1, 0], ValueError, "finite scores, got nan at index 1"),
        ([math.inf, 0.1], [1, 0], ValueError, "finite scores, got inf at index 0"),
        ([0.1, 0.2, 0.3], [1, 0], ValueError, r"one label per pair, shape \(3,\), got \(2,\)"),
        (torch.rand(2, 1), torch.tensor([[1], [0]]), ValueError, "one score for each pair"),
        ([0.1, 0.2, 0.3], [1, 0, 2], ValueError, "labels 1 .* or 0, got 2 at index 2"),
        ([0.1, 0.2, 0.3], [1, 0, float("nan")], ValueError, "got nan at index 2"),
        ([], [], ValueError, "got none"),
        (["high", "low"], [1, 0], TypeError, "scores as numbers"),
        ([0.1, 0.2], ["yes", "no"], TypeError, "labels as 2 values of 0 or 1"),
    ],
)
def test_bad_scores_and_labels(function, scores, same, error, message):
    with pytest.raises(error, match=message):
        function(scores, same)


def test_bad_far():
    scores, same = [0.9, 0.2, 0.1], [1, 0, 0]
    for far in (0, -0.1, 1.1, float("nan"), True, "0.5"):
        with pytest.raises(ValueError, match="far as a rate"):
            tar_at_far(scores, same, far)
    with pytest.raises(ValueError, match="at least 1/2 = 0.5.*2 impostor pair"):
        tar_at_far(scores, same, 0.499)


@pytest.mark.parametrize(
    ("folds", "error", "message"),
    [
        (1, ValueError, "at least 2 folds and at most 2"),
        (3, ValueError, "at most 2, the pairs of the rarer class, got 3"),
        ([0, 0, 0, 0, 0], ValueError, "at least 2 folds, got 1"),
        ([0, 1], ValueError, "a fold for each of 5 pairs"),
        ([0.0, 1, 0, 1, 0], ValueError, "as an integer"),
        (None, TypeError, "folds as numbers"),
        ([0, 0, 0, 1, 1], ValueError, "outside of fold 0, .* one class only"),
    ],
)
def test_bad_folds(folds, error, message):
    with pytest.raises(error, match=message):
        kfold_accuracy([0.9, 0.8, 0.1, 0.2, 0.3], [1, 1, 0, 0, 0], folds)


class Drawn(ImageSource):
    """Seeded images by name, without files."""

    def __init__(self):
        super().__init__()
        self.read = []

    def _read(self, name):
        self.read.append(name)
        return torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(int(name)))

    def identity(self, name):
        return name


@pytest.fixture
def face_pairs():
    names = [("1", "2"), ("2", "3"), ("3", "1"), ("4", "4"), ("1", "5")]
    return FacePairs(names, [True, False, False, True, False], Drawn(), source="drawn")


def direct(pair, pairs):
    with torch.no_grad():
        return torch.cat([pair(a[None], b[None]) for a, b, _ in (pairs[i] for i in range(len(pairs)))])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100, None])
def test_pair_scores_are_those_of_the_pairs(pair, face_pairs, batch_size):
    expected = direct(pair, face_pairs)
    scores = pair_scores(pair, face_pairs, batch_size=batch_size)
    torch.testing.assert_close(scores, expected)
    assert not scores.requires_grad
    assert float(scores[3]) == pytest.approx(1)
    triples = [face_pairs[i] for i in range(5)]
    torch.testing.assert_close(pair_scores(pair, triples, batch_size=batch_size), expected)
    batches = tuple(torch.stack(column) for column in zip(*triples, strict=True))
    torch.testing.assert_close(pair_scores(pair, batches, batch_size=batch_size), expected)
    subset = torch.utils.data.Subset(face_pairs, [4, 0])
    torch.testing.assert_close(pair_scores(pair, subset), expected[[4, 0]])


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_net().eval()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.net(images)


def test_each_image_is_embedded_once(face_pairs):
    for pairs in (face_pairs, [face_pairs[i] for i in range(5)]):
        model = Counting()
        pair_scores(PairSimilarity(model), pairs)
        assert model.seen == 5
    assert face_pairs._images.read == ["1", "2", "3", "4", "5"]


def test_flip_sums_the_raw_embeddings_of_both_mirror_images(pair, face_pairs):
    def embed(image):
        return pair.embed(image[None]) + pair.embed(image[None].flip(-1))

    with torch.no_grad():
        expected = torch.stack(
            [torch.cosine_similarity(embed(a), embed(b))[0] for a, b, _ in (face_pairs[i] for i in range(5))]
        )
    torch.testing.assert_close(pair_scores(pair, face_pairs, flip=True), expected)
    assert not torch.allclose(pair_scores(pair, face_pairs), expected)


def test_pair_scores_leave_the_model_alone_and_follow_its_dtype(face_pairs):
    net = small_net().train()
    before = [p.clone() for p in net.state_dict().values()]
    scores = pair_scores(PairSimilarity(net), face_pairs)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(x, y) for x, y in zip(before, net.state_dict().values(), strict=True))
    torch.testing.assert_close(scores, direct(PairSimilarity(net.eval()), face_pairs))
    double = pair_scores(PairSimilarity(net.double()), face_pairs)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), scores)
    by_hand = pair_scores(PairSimilarity(lambda images: images.mean(2).flatten(1).numpy()), face_pairs)
    assert by_hand.shape == (5,)


def test_bad_pairs(pair, face_pairs):
    with pytest.raises(TypeError, match="PairSimilarity, got SmallNet"):
        pair_scores(pair.embedding_model, face_pairs)
    with pytest.raises(ValueError, match="at least one pair"):
        pair_scores(pair, [])
    with pytest.raises(TypeError, match="sequence of"):
        pair_scores(pair, iter([]))
    with pytest.raises(TypeError, match="got another at index 1"):
        pair_scores(pair, [face_pairs[0], face_pairs[1][:2]])
    with pytest.raises(ValueError, match=r"one size .*\(3, 9, 9\), \(3, 12, 10\)"):
        pair_scores(pair, [face_pairs[0], (torch.rand(3, 9, 9), torch.rand(3, 9, 9), True)])
    for size in (0, -1, 2.0):
        with pytest.raises(ValueError, match="batch_size"):
            pair_scores(pair, face_pairs, batch_size=size)

    class Broken(list):
        def __getitem__(self, index):
            raise ValueError("line 7: no such file")

    with pytest.raises(ValueError, match="line 7: no such file"):
        pair_scores(pair, Broken([0]))


class FirstPixels(torch.nn.Module):
    """An embedding that is planted: the red of the first two pixels."""

    def forward(self, images):
        return images[:, 0, 0, :2]


def planted(*angles, same):
    """Pairs with scores of the cosines of these angles."""
    first = torch.zeros(3, 2, 2)
    first[0, 0, 0] = 1
    pairs = []
    for angle, label in zip(angles, same, strict=True):
        other = torch.zeros(3, 2, 2)
        other[0, 0] = torch.tensor([math.cos(angle), math.sin(angle)])
        pairs.append((first, other, label))
    return pairs


def test_calibrate_threshold_by_every_criterion():
    pair = PairSimilarity(FirstPixels(), threshold=0.123)
    cosines = [0.9, 0.8, 0.3, 0.5, 0.2, 0.1, 0.05]
    pairs = planted(*(math.acos(c) for c in cosines), same=[1, 1, 1, 0, 0, 0, 0])
    # Down to 0.5: FMR 1/4, FNMR 1/3; down to 0.3: 1/4 and 0. The first is nearer.
    assert calibrate_threshold(pair, pairs) == pytest.approx(0.4)
    # One error above 0.5 and one below it; the stricter counts.
    assert calibrate_threshold(pair, pairs, criterion="accuracy") == pytest.approx(0.65)
    assert calibrate_threshold(pair, pairs, criterion="far", far=0.25) == pytest.approx(0.25)
    assert calibrate_threshold(pair, pairs, criterion="far", far=1) == pytest.approx(0.05)
    assert pair.threshold == 0.123
    pair.threshold = calibrate_threshold(pair, pairs, criterion="far", far=0.25)
    images = [torch.stack(side) for side in list(zip(*pairs, strict=True))[:2]]
    assert pair.decide(*images).tolist() == [True, True, True, True, False, False, False]


def test_bad_calibration(pair, face_pairs):
    with pytest.raises(ValueError, match="unknown criterion 'err'.*'eer'"):
        calibrate_threshold(pair, face_pairs, criterion="err")
    with pytest.raises(ValueError, match="far with criterion='far' and only then"):
        calibrate_threshold(pair, face_pairs, criterion="far")
    with pytest.raises(ValueError, match="far with criterion='far' and only then"):
        calibrate_threshold(pair, face_pairs, far=0.1)
    with pytest.raises(ValueError, match="at least 1/3"):
        calibrate_threshold(pair, face_pairs, criterion="far", far=0.1)
    with pytest.raises(ValueError, match="got 2 genuine"):
        calibrate_threshold(pair, [face_pairs[0], face_pairs[3]])
    with pytest.raises(ValueError, match="labels 1"):
        calibrate_threshold(pair, [(*face_pairs[0][:2], 3), face_pairs[1]])


def test_bundled_model_separates_synthetic_people():
    from captum_face.models.synthetic_net import synthetic as model
    from captum_face.models.synthetic_net import synthetic_metadata

    pair = PairSimilarity(model(), preprocess="arcface")
    drawn = synthetic.pairs(120, seed=77)
    rate, threshold = eer(pair_scores(pair, drawn), drawn.same)
    assert rate == pytest.approx(synthetic_metadata()["eer"], abs=0.06)
    assert threshold == calibrate_threshold(pair, drawn)


@pytest.mark.real
def test_mobilefacenet_on_real_pairs(shared, real_pair):
    pairs = read_pairs(shared / "data" / "pairs.csv", shared / "data" / "lfw_crops")
    scores = pair_scores(real_pair, pairs)
    two = [pairs[0], pairs[207]]
    images = [torch.stack(side) for side in ([p.image_a for p in two], [p.image_b for p in two])]
    with torch.no_grad():
        torch.testing.assert_close(scores[[0, 207]], real_pair.eval()(*images), rtol=1e-4, atol=1e-4)
    # Counted over the 104 genuine and 104 impostor pairs once, with a margin of two pairs for other builds.
    assert eer(scores, pairs.same).rate == pytest.approx(8 / 104, abs=0.02)
    assert best_accuracy(scores, pairs.same)[0] == pytest.approx(194 / 208, abs=0.015)
    assert 0.9 < kfold_accuracy(scores, pairs.same).mean < best_accuracy(scores, pairs.same)[0]
