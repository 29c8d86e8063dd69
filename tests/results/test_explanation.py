from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face import FGGB, CorrRISE, Explanation, PairSimilarity, explain
from captum_face.data import render_faces
from captum_face.maps.regions import region_shares
from captum_face.pair.scores import Distance, Score
from tests.conftest import small_net


@pytest.fixture
def faces():
    return tuple(render_faces(2)[:, None])


def test_fields_agree_with_the_methods(pair, faces):
    explanation = explain(pair, *faces, threshold=0.4)
    with torch.no_grad():
        assert explanation.score == pytest.approx(pair(*faces).item())
    assert explanation.threshold == 0.4
    assert explanation.decision == (explanation.score >= 0.4)
    attributions = FGGB(pair).attribute(faces, threshold=0.4)
    for attr, own, pixel, shares in zip(
        attributions, explanation.attributions, explanation.maps, explanation.regions, strict=True
    ):
        assert torch.equal(attr, own)
        torch.testing.assert_close(pixel, attr[0].mean(0))
        assert shares == region_shares(attr)


def test_without_a_threshold_nothing_is_decided(faces, tmp_path):
    pair = PairSimilarity(small_net().eval())
    explanation = explain(pair, *faces)
    assert explanation.decision is None
    assert explanation.verdict == f"score {explanation.score:.3f}, no threshold given"
    assert explanation.remarks == {"threshold": "at threshold 0 (none given)"}
    title = explanation.plot().get_suptitle()
    assert "no threshold given\n" in title
    assert "FGGB · at threshold 0 (none given)" in title
    found = json.loads(explanation.save(tmp_path)["summary"].read_text())
    assert [found[name] for name in ("threshold", "threshold_source", "decision", "accepted")] == [
        None,
        "none",
        None,
        None,
    ]
    assert found["protocol"]["remarks"] == explanation.remarks
    assert np.isnan(np.load(next(tmp_path.glob("*.fggb.npz")))["threshold"])
    for given in (explain(pair, *faces, threshold=0.0), explain(pair, *faces, "corrrise", n_masks=9)):
        assert given.remarks == {}
    assert explain(pair, *faces, threshold=0.0).summary()["threshold_source"] == "given by the caller"


@pytest.mark.parametrize("method", ["fggb", "xssab"])
@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_without_a_threshold_channels_are_weighed_against_embeddings_at_right_angles(faces, method, score):
    pair = PairSimilarity(small_net().eval(), score=score)
    with torch.no_grad():
        squares = sum(float(pair.embed(image).square().sum()) for image in faces)
    level = -squares if score == "euclidean" else 0.0
    found, want = explain(pair, *faces, method), explain(pair, *faces, method, threshold=level)
    torch.testing.assert_close(found.attributions, want.attributions)
    shown = squares**0.5 if score == "euclidean" else 0.0
    assert found.remarks["threshold"] == f"at threshold {shown:.3g} (none given)"


def test_a_distance_is_given_and_shown_and_loaded_without_the_score(faces, tmp_path):
    class Cubed(Score):  # which nothing but this test knows
        name, limits, distance = "cubed", (-float("inf"), 0.0), Distance(3, "far-ness")

        def compare(self, emb_a, emb_b):
            return -((emb_a - emb_b).abs() ** 3)

    for score, power, name in (("euclidean", 2, "distance"), (Cubed(), 3, "far-ness")):
        pair = PairSimilarity(small_net().eval(), score=score, threshold=0.6)
        with torch.no_grad():
            away = float((pair.embed(faces[0]) - pair.embed(faces[1])).norm(power))
        assert pair.threshold == pytest.approx(-(0.6**power))
        assert f"threshold={name} 0.6," in repr(pair)
        for method in ("fggb", "corrrise:n_masks=4"):
            found = explain(pair, *faces, method)
            accepted = "≤ threshold 0.600: accepted as the same person"
            told = accepted if away <= 0.6 else "> threshold 0.600: rejected as different people"
            assert found.verdict == f"{name} {away:.3f} {told}"
            assert found.score == pytest.approx(-(away**power), rel=1e-4)
        given = explain(pair, *faces, "fggb", threshold=2 * away)
        at = explain(pair, *faces, "fggb", threshold=-((2 * away) ** power))
        torch.testing.assert_close(given.attributions, at.attributions)
        assert given.decision
        paths = given.save(tmp_path / name)
        told = json.loads(paths["summary"].read_text("utf-8"))
        assert (told["score"], told["threshold"]) == (given.score, given.threshold)
        assert told["shown"] == {
            "quantity": name,
            "power": power,
            "score": pytest.approx(away, rel=1e-4),
            "threshold": pytest.approx(2 * away),
        }
        loaded = Explanation.load(tmp_path / name)
        assert (loaded.verdict, loaded.summary()) == (given.verdict, given.summary())
        first = {path.name: path.read_bytes() for path in paths.values()}
        again = loaded.save(tmp_path / "again" / name)
        assert first == {path.name: path.read_bytes() for path in again.values()}
        del told["shown"]  # as in files of before
        paths["summary"].write_text(json.dumps(told), "utf-8")
        assert Explanation.load(tmp_path / name).verdict.startswith(f"score {given.score:.3f}")
        told["shown"] = {"quantity": name}
        paths["summary"].write_text(json.dumps(told), "utf-8")
        with pytest.raises(ValueError, match="as shown; they were changed or damaged"):
            Explanation.load(tmp_path / name)
    assert "shown" not in explain(PairSimilarity(small_net().eval()), *faces).summary()


def test_seeded_by_default_and_settings_complete(pair, faces):
    first, second = (explain(pair, *faces, method="corrrise", n_masks=9) for _ in range(2))
    assert torch.equal(first.maps[0], second.maps[0])
    options = first.settings["options"]
    assert options["n_masks"] == 9
    assert options["n_patches"] == 3
    assert options["seed"] == 0
    assert set(options) == set(CorrRISE.options()) - {"show_progress"}
    other = explain(pair, *faces, method="corrrise", n_masks=9, seed=1)
    assert not torch.equal(first.maps[0], other.maps[0])


def test_paths_pil_and_tensors_are_the_same_image(pair, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    paths = [tmp_path / f"{name}.png" for name in ("ann", "bob")]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    by_path = explain(pair, *paths)
    by_pil = explain(pair, *(Image.fromarray(picture) for picture in pixels))
    by_tensor = explain(pair, *(torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in pixels))
    assert torch.equal(by_path.maps[0], by_pil.maps[0])
    assert torch.equal(by_path.maps[1], by_tensor.maps[1])
    assert by_path.names == ("ann.png", "bob.png")
    assert by_pil.names == ("image A", "image B")


def test_save_writes_figure_maps_and_summary(pair, faces, tmp_path):
    masks = torch.rand(4, 112, 112, generator=torch.Generator().manual_seed(1))
    explanation = explain(pair, *faces, method="corrrise", masks=masks)
    paths = explanation.save(tmp_path / "new" / "folder", sigma=2)
    stem = f"{explanation.pair_label}.corrrise"
    assert [path.name for path in paths.values()] == [f"{stem}.png", f"{stem}.npz", f"{stem}.json"]
    assert Image.open(paths["figure"]).size[0] > 800
    with np.load(paths["maps"]) as maps:
        np.testing.assert_array_equal(maps["attr_a"], explanation.attributions[0][0].numpy())
        np.testing.assert_array_equal(maps["attr_b"], explanation.attributions[1][0].numpy())
        np.testing.assert_array_equal(maps["map_a"], explanation.maps[0].numpy())
        np.testing.assert_array_equal(maps["map_b"], explanation.maps[1].numpy())
        assert not np.array_equal(maps["map_a"], maps["map_b"])
        assert maps["score"] == explanation.score
    summary = json.loads(paths["summary"].read_text(encoding="utf-8"))
    assert summary["score"] == explanation.score
    assert summary["figure"] == {"sigma": 2}
    assert summary["images"] == ["image A", "image B"]
    assert summary["decision"] in ("same person", "different people")
    assert summary["protocol"]["options"]["masks"] == "tensor of shape (4, 112, 112)"
    assert summary["protocol"]["precision"] == "float32"
    assert summary["regions"]["image_a"] == explanation.regions[0]
    assert set(summary["versions"]) >= {"captum_face", "captum", "torch"}


def test_notebook_display_shows_figure_and_regions(pair, faces, images):
    shown = explain(pair, *faces)._repr_html_()
    assert "data:image/png;base64," in shown
    assert "left eyebrow" in shown
    small = explain(pair, images[0][0], images[1][0])
    assert small.regions is None
    assert "<table" not in small._repr_html_()
    assert "score" in repr(small)


def test_shares_inside_masks(pair, faces):
    explanation = explain(pair, *faces, method="corrrise", n_masks=9)
    mask = torch.zeros(1, 112, 112, dtype=torch.bool)
    mask[:, 20:60, 30:90] = True
    share_a, share_b = explanation.dissimilar_shares((mask, ~mask))
    for share, signed, inside in zip((share_a, share_b), explanation.maps, (mask[0], ~mask[0]), strict=True):
        against = (-signed).clamp(min=0)
        assert share == pytest.approx(float(against[inside].sum() / against.sum()), rel=1e-4)


def test_model_comes_back_as_it_was(faces):
    net = small_net()
    explain(PairSimilarity(net), *faces)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "fgbb"}, ValueError, "unknown method 'fgbb'.*did you mean 'fggb'"),
        ({"n_masks": 5}, ValueError, "unknown option of fggb 'n_masks'"),
        ({"method": "corrrise", "n_mask": 5}, ValueError, "did you mean 'n_masks'"),
        ({"image_b": "none.png"}, FileNotFoundError, "none.png"),
        ({"image_b": 3}, TypeError, "a path, a Pillow image or a numpy array"),
        ({"image_b": np.zeros((112, 112, 3))}, ValueError, "expected channels='rgb' or channels='bgr'"),
        ({"image_b": torch.rand(2, 3, 112, 112)}, ValueError, "expected one pair, got batches of 1 and 2"),
        ({"image_b": torch.rand(3, 112, 100)}, ValueError, "two crops of one size.*112 x 112.*100 x 112"),
        ({"names": ("a",)}, ValueError, "names for two images"),
        ({"threshold": float("nan")}, ValueError, "finite threshold"),
        ({"threshold": 30}, ValueError, "a threshold that the score can reach, -1 to 1, got 30"),
        ({"gradient": "both"}, ValueError, "unknown gradient option"),
        ({"pair": small_net()}, TypeError, "PairSimilarity, got SmallNet"),
    ],
)
def test_bad_input_before_any_computation(faces, options, error, message):
    def never(images):
        raise AssertionError("computed before the input was checked")

    arguments = {"pair": PairSimilarity(never), "image_a": faces[0], "image_b": faces[1], **options}
    with pytest.raises(error, match=message):
        explain(**arguments)


@pytest.mark.real
@pytest.mark.parametrize("method", ["fggb", "corrrise"])
def test_onnx_and_checkpoint_agree_on_real_pairs(shared, method):
    from captum_face.models import load_pair

    crops = shared / "data" / "lfw_crops"
    models = shared / "models"
    pairs = (
        load_pair("mobilefacenet", weights=models / "mobilefacenet.pt"),
        load_pair(str(models / "mobilefacenet.onnx")),
    )
    options = {"n_masks": 60} if method == "corrrise" else {}
    first, second = (
        explain(pair, crops / "021_1.png", crops / "021_2.png", method=method, **options) for pair in pairs
    )
    assert first.score == pytest.approx(second.score, abs=1e-4)
    for one, other in zip(first.maps, second.maps, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.999


def test_a_score_at_the_threshold_is_accepted(faces):
    pair = PairSimilarity(lambda x: x.flatten(1)[:, :4] * 0 + 0.5, score="dot", threshold=1.0)
    explanation = explain(pair, *faces, method="corrrise", n_masks=4)
    assert explanation.score == 1.0
    assert explanation.decision
    assert "accepted" in explanation.verdict


def test_names_with_dollar_signs_are_no_formulas(pair, faces, tmp_path):
    explanation = explain(pair, *faces, names=("me_$x^_$.png", "$"))
    explanation.save(tmp_path)
    from captum_face import show_comparison

    show_comparison([explanation]).savefig(tmp_path / "sheet.png")


def test_an_image_that_is_no_aligned_face_is_told_everywhere(pair, faces, tmp_path):
    explanation = explain(pair, faces[0], faces[1].flip(2), names=("one.png", "two.png"))
    assert [check.passed for check in explanation.checks] == [True, False]
    assert explanation.regions is None
    assert list(explanation.failed_checks) == ["image_b"]
    sentence = explanation.remarks["image_b"]
    assert sentence.startswith("two.png does not look like a face in ArcFace's alignment: it ")
    assert sentence.endswith("; region shares are withheld")
    assert "two.png does not look like" in explanation.plot().get_suptitle().replace("\n", " ")
    assert "<p>two.png does not look like" in explanation._repr_html_()
    assert "<table>" not in explanation._repr_html_()
    found = json.loads(explanation.save(tmp_path)["summary"].read_text())
    assert [check["passed"] for check in found["checks"].values()] == [True, False]
    assert found["checks"]["image_b"]["figure"] < found["checks"]["image_b"]["limit"]
    assert "regions" not in found


def test_a_model_of_another_alignment_is_asked_for_nothing(faces):
    pair = PairSimilarity(small_net().eval(), threshold=0.5, alignment=None)
    explanation = explain(pair, faces[0], faces[1].flip(2))
    assert explanation.checks == ()
    assert explanation.remarks == {}
    assert explanation.regions is None
    assert explanation.summary()["checks"] == {}
    assert explanation.settings["alignment"] is None
