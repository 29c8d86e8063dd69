from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.decoder import (
    DecoderReport,
    DecoderSettings,
    FaceDecoder,
    evaluate_decoder,
    load_decoder,
    split_people,
    train_decoder,
    training_differences,
)
from captum_face.decoder.evaluation import ssim, warn_without_identity
from tests.conftest import small_net

QUICK = {"steps": 12, "evaluate_every": 4, "batch_size": 8, "width": 8, "learning_rate": 0.01}


@pytest.fixture
def pair():
    return PairSimilarity(small_net(), preprocess="arcface")


@pytest.fixture
def faces():
    """Forty 'people': flat colours with a bright side, which an embedding of mean colours remembers."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(40, 3, 1, 1, generator=generator)
    return (0.8 * colours + 0.2 * torch.linspace(0, 1, 14)).expand(-1, -1, 18, -1).contiguous()


def states_equal(first, second):
    return all(
        torch.equal(x, y)
        for x, y in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.filterwarnings("ignore:the decoder does not keep identity")
class TestTraining:
    def test_seeded_and_leaves_the_model_and_the_global_generator_as_they_were(self, pair, faces):
        before = [t.clone() for t in pair.state_dict().values()]
        rng = torch.get_rng_state()
        first, second = (train_decoder(pair, faces, settings=DecoderSettings(**QUICK)) for _ in range(2))
        other = train_decoder(pair, faces, settings=DecoderSettings(**QUICK, seed=1))
        assert states_equal(first, second)
        assert not states_equal(first, other)
        assert pair.embedding_model.training
        assert all(p.requires_grad and p.grad is None for p in pair.parameters())
        assert all(torch.equal(x, y) for x, y in zip(before, pair.state_dict().values(), strict=True))
        assert torch.equal(rng, torch.get_rng_state())

    def test_a_decoder_knows_its_training(self, pair, faces, tmp_path):
        settings = DecoderSettings(**QUICK)
        trained = train_decoder(pair, faces, settings=settings)
        trained.save(tmp_path / "a.safetensors")
        found = load_decoder(tmp_path / "a.safetensors")
        found.save(tmp_path / "b.safetensors")
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        assert training_differences(found, pair, faces, None, settings) == []
        other = DecoderSettings(**QUICK, seed=1)
        assert training_differences(found, pair, faces, None, other)[0] == "seed (0 there, 1 here)"
        assert training_differences(found, pair, faces.flip(2) * 0.9, None, settings) == ["images"]
        twice = [str(i // 2) for i in range(40)]
        assert training_differences(found, pair, faces, twice, settings) == ["people"]
        assert training_differences(found, PairSimilarity(small_net()), faces, None, settings) == ["model"]
        assert "steps (unknown there, 12 here)" in training_differences(
            FaceDecoder(7, (18, 14), width=8), pair, faces, None, settings
        )

    def test_killed_and_resumed_it_ends_the_same(self, pair, faces, tmp_path, monkeypatch):
        from captum_face.decoder import training

        settings = DecoderSettings(**QUICK)
        whole = train_decoder(pair, faces, settings=settings)
        step, calls = training._step, []

        def killed(*arguments):
            calls.append(arguments[-1])
            if len(calls) == 7:
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setattr(training, "_step", killed)
        path = tmp_path / "checkpoint"
        with pytest.raises(KeyboardInterrupt):
            train_decoder(pair, faces, settings=settings, checkpoint=path)
        resumed = train_decoder(pair, faces, settings=settings, checkpoint=path)
        assert calls == [0, 1, 2, 3, 4, 5, 6, *range(4, 12)]
        assert states_equal(whole, resumed)
        assert whole.report == resumed.report
        with pytest.raises(ValueError, match="differs in seed"):
            train_decoder(pair, faces, settings=DecoderSettings(**QUICK, seed=3), checkpoint=path)
        with pytest.raises(ValueError, match="differs in images"):
            train_decoder(pair, faces.flip(2) * 0.9, settings=settings, checkpoint=path)
        names = [str(i) for i in reversed(range(40))]
        with pytest.raises(ValueError, match="differs in people"):
            train_decoder(pair, faces, people=names, settings=settings, checkpoint=path)
        with pytest.raises(ValueError, match="differs in model"):
            train_decoder(PairSimilarity(small_net()), faces, settings=settings, checkpoint=path)

    def test_nan_keeps_the_last_good_state(self, pair, faces, tmp_path, monkeypatch):
        from captum_face.decoder import training

        step = training._step
        monkeypatch.setattr(training, "_step", lambda *a: float("nan") if a[-1] >= 5 else step(*a))
        path = tmp_path / "checkpoint"
        with pytest.warns(UserWarning, match="loss of step 6 is NaN or infinite.*best decoder so far"):
            decoder = train_decoder(pair, faces, settings=DecoderSettings(**QUICK), checkpoint=path)
        state = torch.load(path, weights_only=True)
        assert state["step"] == 4
        assert all(torch.equal(decoder.state_dict()[name], value) for name, value in state["kept"].items())

    def test_nan_at_a_look_is_never_kept(self, pair, faces, tmp_path, monkeypatch):
        """A step may break the weights and still have had a finite loss."""
        from captum_face.decoder import training

        path, judge = tmp_path / "checkpoint", training._held_out_loss
        judged = iter([judge, lambda *_: float("nan")])
        monkeypatch.setattr(training, "_held_out_loss", lambda *a: next(judged)(*a))
        with pytest.warns(UserWarning, match="loss of step 8 is NaN"):
            train_decoder(pair, faces, settings=DecoderSettings(**QUICK), checkpoint=path)
        assert torch.load(path, weights_only=True)["step"] == 4
        monkeypatch.setattr(training, "_held_out_loss", lambda *_: float("nan"))
        with pytest.raises(ValueError, match="loss of step 4 is NaN .* no good state yet"):
            train_decoder(pair, faces, settings=DecoderSettings(**{**QUICK, "steps": 4}))

    def test_killed_after_the_early_stop_it_is_still_over(self, pair, faces, tmp_path, monkeypatch):
        from captum_face.decoder import training

        path = tmp_path / "new" / "checkpoint"
        judged = iter([1.0, 2.0, 3.0])
        monkeypatch.setattr(training, "_held_out_loss", lambda *_: next(judged))
        settings = DecoderSettings(**{**QUICK, "steps": 20, "patience": 2})
        first = train_decoder(pair, faces, settings=settings, checkpoint=path)
        monkeypatch.setattr(training, "_step", lambda *_: pytest.fail("went on"))
        assert states_equal(first, train_decoder(pair, faces, settings=settings, checkpoint=path))

    def test_a_file_that_is_no_checkpoint(self, pair, faces, tmp_path):
        settings = DecoderSettings(**QUICK)
        path = tmp_path / "checkpoint"
        train_decoder(pair, faces, settings=settings, checkpoint=path)
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="expected a checkpoint of train_decoder in .*begin again"):
                train_decoder(pair, faces, settings=settings, checkpoint=path)
        torch.save({"weight": torch.ones(3)}, path)
        with pytest.raises(ValueError, match="could not read one .KeyError."):
            train_decoder(pair, faces, settings=settings, checkpoint=path)

    def test_early_stop_returns_the_best_state(self, pair, faces, monkeypatch):
        from captum_face.decoder import training

        judged = iter([3.0, 1.0, 2.0, 4.0, 0.5])
        monkeypatch.setattr(training, "_held_out_loss", lambda *_: next(judged))
        settings = DecoderSettings(**{**QUICK, "steps": 20, "patience": 2})
        train_decoder(pair, faces, settings=settings)
        assert list(judged) == [0.5]

    def test_black_boxes_without_the_perceptual_term(self, faces):
        net = small_net().eval()

        def black_box(x):
            with torch.no_grad():
                return net(x)

        train_decoder(
            PairSimilarity(black_box), faces, settings=DecoderSettings(**QUICK, perceptual=0, augment=False)
        )

    def test_grey_images(self, faces):
        pair = PairSimilarity(small_net(channels=1).eval())
        decoder = train_decoder(pair, faces[:, :1], settings=DecoderSettings(**QUICK))
        assert decoder.channels == 1


def test_it_learns_what_the_embedding_holds(faces):
    """The model answers with mean colours: nothing is lost of these faces, and the decoder finds it."""

    class Means(nn.Module):
        def forward(self, x):
            return torch.cat([x.mean((2, 3)), torch.ones(len(x), 1)], 1) - 0.5

    settings = DecoderSettings(
        steps=300, evaluate_every=50, batch_size=16, width=16, augment=False, learning_rate=0.01
    )
    decoder = train_decoder(PairSimilarity(Means()), faces, settings=settings)
    report = DecoderReport(**decoder.report)
    assert report.images == report.people == 4
    assert report.psnr > 20
    assert report.keeps_identity
    assert report.identity > 0.98
    assert report.found == 1
    assert "held-out images of 4 people" in str(report)


def test_nan_before_the_first_look_is_an_error(pair, faces, monkeypatch):
    from captum_face.decoder import training

    loss = training._loss
    monkeypatch.setattr(training, "_loss", lambda *a: float("nan") * loss(*a))
    before = [parameter.requires_grad for parameter in pair.parameters()]
    with pytest.raises(ValueError, match="loss of step 1 is NaN .* no good state yet"):
        train_decoder(pair, faces, settings=DecoderSettings(**QUICK))
    assert [parameter.requires_grad for parameter in pair.parameters()] == before


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"evaluate_every": 0},
        {"patience": 1.5},
        {"learning_rate": 0},
        {"edge": -1},
        {"pixel": float("nan")},
        {"held_out": 0},
        {"held_out": 0.9},
    ],
)
def test_bad_settings(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"expected {name}"):
        DecoderSettings(**bad)


def test_too_few_people(pair, faces):
    with pytest.raises(ValueError, match="at least 20 people, got 8 .40 images."):
        train_decoder(pair, faces, people=[str(i % 8) for i in range(40)])
    with pytest.raises(ValueError, match="a name for each of 40 images, got 3"):
        train_decoder(pair, faces, people=["a", "b", "c"])
    with pytest.raises(TypeError, match="expected pair as a PairSimilarity, got function"):
        train_decoder(lambda x: x, faces)


def test_nobody_is_learned_from_and_held_out():
    people = [str(i // 3) for i in range(90)]
    learned, held = split_people(people, 90, DecoderSettings(held_out=0.2))
    assert sorted([*learned.tolist(), *held.tolist()]) == list(range(90))
    assert len(held) == 18
    assert not {people[i] for i in learned} & {people[i] for i in held}


def test_a_decoder_of_one_average_face_keeps_no_identity(pair, faces):
    decoder = FaceDecoder(7, (18, 14), width=8).eval()
    with torch.no_grad():
        decoder.start.weight.zero_()
    report = evaluate_decoder(pair.eval(), decoder, faces)
    assert not report.keeps_identity or report.found <= 0.1
    assert report.identity == pytest.approx(report.confused, abs=0.05)
    with pytest.warns(UserWarning, match=r"reconstruction is 0.200, and 5 % of impostor pairs reach 0.300"):
        warn_without_identity({"identity": 0.2, "impostor_95": 0.3})


def test_a_perfect_decoder_scores_perfectly(pair, faces, monkeypatch):
    from captum_face.decoder import evaluation

    drawn = iter(faces.split(4))
    monkeypatch.setattr(evaluation, "decode", lambda *_: next(drawn))
    monkeypatch.setattr(evaluation, "default_batch_size", lambda _: 4)
    report = evaluate_decoder(pair.eval(), FaceDecoder(7, (18, 14), width=8), faces)
    assert report.psnr == pytest.approx(100)
    assert report.ssim == pytest.approx(1)
    assert report.identity == pytest.approx(1)
    assert report.found == 1
    with pytest.raises(ValueError, match="at least two people"):
        evaluate_decoder(pair, FaceDecoder(7, (18, 14)), faces, ["one"] * 40)


def test_ssim_against_its_definition():
    """One window in the middle of the image, in double precision."""
    x, y = torch.rand(2, 1, 1, 31, 31, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    window = torch.exp(-torch.arange(-5, 6).double().square() / (2 * 1.5**2))
    window = window[:, None] * window / window.sum() ** 2

    def one(i, j):
        a, b = x[0, 0, i - 5 : i + 6, j - 5 : j + 6], y[0, 0, i - 5 : i + 6, j - 5 : j + 6]
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        cov = (window * (a - ma) * (b - mb)).sum()
        return (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))

    from torch.nn.functional import pad

    x, y = (pad(image, (5, 5, 5, 5), mode="reflect") for image in (x, y))
    want = torch.stack([one(i, j) for i in range(5, 36) for j in range(5, 36)]).mean()
    torch.testing.assert_close(ssim(x[..., 5:-5, 5:-5], y[..., 5:-5, 5:-5])[0], want)
