from __future__ import annotations

import decoder
import torch

WORDS = "--held-out", 6


def test_held_out_people_are_not_those_that_decoders_learn_from():
    faces = decoder.fresh_faces(2)
    assert faces.shape == (2, 3, 112, 112)
    assert not torch.equal(faces, decoder.render_faces(2))


def test_prints_quality_regions_and_agreement(run, monkeypatch):
    monkeypatch.setattr(decoder, "SIGMAS", (5.0,))
    monkeypatch.setattr(decoder, "KINDS", ("gradient",))
    printed = run("decoder", *WORDS, "--faces", 2)
    assert printed.startswith("6 held-out images of 6 people: PSNR ")
    assert printed.count("left_eye ") == 2
    assert [line.split()[0] for line in printed.splitlines()[-3:]] == ["gradient", "decoder", "gradient"]
    assert printed.count("between faces") == 2


def test_trains_on_so_many_people(run):
    printed = run("decoder", *WORDS, "--people", 20, "--steps", 2)
    assert printed.startswith("20 people, 2 steps: 6 held-out images of 6 people: PSNR ")
