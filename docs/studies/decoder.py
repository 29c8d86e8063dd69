"""Reconstruction quality of a decoder, the regions of its channels, and its agreement with gradients and
LRP.

    python docs/studies/decoder.py
    python docs/studies/decoder.py --people 25 100 400 --steps 300
    python docs/studies/decoder.py --images CROPS --model mobilefacenet --weights FILE --decoder FILE

Without ``--images`` on ``--held-out`` rendered people from whom no decoder has learned. ``--people`` trains
a decoder on each of these numbers of people, to see how many are needed. The held-out people are the same
for all."""

from __future__ import annotations

import argparse
import itertools
import warnings

import torch

from captum_face.data import read_faces, render_faces, synthetic
from captum_face.decoder import (
    DecoderReport,
    DecoderSettings,
    channel_map_agreement,
    channel_regions,
    decoder_channel_maps,
    evaluate_decoder,
    find_decoder,
    regions,
    split_people,
    train_decoder,
)
from captum_face.models import load_pair


def fresh_faces(n: int) -> torch.Tensor:
    """Rendered people of other seeds than those that decoders learn from."""
    return synthetic.render(synthetic.sample_identities(n, 2**27), synthetic.sample_nuisance(n, 2**27, 0.5))


SIGMAS = (0.0, 2.0, 5.0)
KINDS = ("gradient", "lrp")


def between_faces(pair, images, decoder, sigma):
    """How far each kind of channel maps agrees with itself on another face: what two kinds could reach."""
    kinds: dict[str, list[torch.Tensor]] = {kind: [] for kind in ("decoder", *KINDS)}
    with pair.frozen():
        for image in images.split(1):
            drawn = decoder_channel_maps(decoder, pair.embed(image).detach())
            kinds["decoder"].append(regions._flat([(slice(0), drawn)], sigma))
            for kind in KINDS:
                kinds[kind].append(regions._flat(regions._CHUNKED[kind](pair, image), sigma))
    found = {}
    for kind, maps in kinds.items():
        rows = [regions._agreement(*two) for two in itertools.combinations(maps, 2)]
        found[kind] = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="synthetic")
    parser.add_argument("--weights")
    parser.add_argument("--images", help="the folder that the decoder was trained on: its held-out people")
    parser.add_argument("--decoder")
    parser.add_argument("--people", type=int, nargs="+", default=[])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=100, help="rendered people to evaluate on")
    parser.add_argument("--faces", type=int, default=8, help="for regions and agreement")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pair = load_pair(given.model, weights=given.weights).eval()
    people = None
    if given.images:
        images, names, _ = read_faces(given.images)
        _, held = split_people(names, len(images), DecoderSettings())
        images, people = images[held], [names[i] for i in held]
    else:
        images = fresh_faces(given.held_out)

    if given.people:
        for count in given.people:
            settings = DecoderSettings(steps=given.steps, augment=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decoder = train_decoder(pair, render_faces(count), settings=settings, show_progress=True)
            print(
                f"{count} people, {given.steps} steps: {evaluate_decoder(pair, decoder, images)}", flush=True
            )
        return

    with pair.frozen(), torch.no_grad():
        decoder = find_decoder(pair, given.decoder, pair.embed(images[:1]), images)
    report: DecoderReport = evaluate_decoder(pair, decoder, images, people)
    print(report)
    chosen = images[: given.faces]
    for removal in ("zero", "mean"):
        print(f"\nchannels drawn, removal {removal}, {len(chosen)} faces")
        print(channel_regions(pair, chosen, decoder=decoder, removal=removal).table())
    print(f"\n{'agreement':12}{'smoothed':>9}{'same':>8}{'other':>8}{'specific':>10}")
    for sigma in SIGMAS:
        for found in channel_map_agreement(pair, chosen[:4], decoder=decoder, kinds=KINDS, sigma=sigma):
            print(f"{found.kind:12}{sigma:9g}{found.same:8.2f}{found.other:8.2f}{found.specific:10.2f}")
        for kind, values in between_faces(pair, chosen[:4], decoder, sigma).items():
            print(f"{kind:12}{sigma:9g}" + "{:8.2f}{:8.2f}{:10.2f}".format(*values) + "  between faces")


if __name__ == "__main__":
    main()
