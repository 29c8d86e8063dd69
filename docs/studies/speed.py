"""Speed and memory of the methods against naive loops, against the floor, and against the aims.

    python docs/studies/speed.py [--shared ../shared] [--models mobilefacenet,iresnet50] [--rounds 3]
        [--only fggb,tolerance,corrrise,morphs,precision,fidelity,batch,gallery,curves,compile,memory,leak]
        [--json FILE]

``--json`` keeps the file's figures of other sections and models, so that the whole can be measured in
parts.

In a section everything is measured in each round, so that other work on the machine disturbs all alike; a
ratio is taken within each round. Printed are the median over rounds and the lowest and highest.

The floor is the least that a method can take on this network in PyTorch: for FGGB as many backward passes
for the input alone as there are channels, for CorrRISE as many forward passes as there are masks, each at
the batch size at which one sample is cheapest. It is given twice: of the model as it is, and of its
accelerated copy with folded BatchNorm and channels last (``captum_face.pair.speed``), which the methods
run. The naive loops are those of published re-implementations: one backward pass per channel with gradients
for parameters on, one forward pass per mask.

The time of FGGB, CorrRISE and the loops is a fixed part and the same for every channel, mask or pair. So
two short runs are timed and the time of a whole one is calculated; "calculated / measured" compares both on
a network that is small enough.

With ``--shared`` images are real, MobileFaceNet has its real weights, and iResNets have random weights with
BatchNorm statistics of real faces. Speed does not depend on weights; figures about maps of random weights
say little."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import captum
import torch
from speed_memory import growth, import_seconds, peak_memory
from speed_setup import CLOCKS, Setup
from torch import Tensor, nn

from captum_face import (
    FGGB,
    CorrRISE,
    MorphGradients,
    PairSimilarity,
    XFace,
    __version__,
    attribute_gallery,
    smooth,
)
from captum_face.attr import METHODS
from captum_face.engines.channels import (
    gradient_channel_maps_chunked,
    heaviest_channels,
    weighted_channel_maps,
)
from captum_face.engines.masks import random_patches
from captum_face.metrics import perturbation_curve
from captum_face.models import load_pair
from captum_face.pair.embedding import embed_gallery
from captum_face.pair.passes import default_batch_size
from captum_face.pair.speed import accelerated, images_per_pass, plan

N_MASKS = 500
N_GALLERY, N_GALLERY_SLOW = 100, 10


class Row(NamedTuple):
    """A figure, as often as it was measured."""

    what: str
    values: list[float]
    unit: str = "x"
    aim: str = ""


Rows = Iterator[Row]


def interleaved(works: dict[str, Callable[[], object]], setup: Setup) -> dict[str, list[float]]:
    """Seconds of each function in each round, after one round that warms up."""
    times: dict[str, list[float]] = defaultdict(list)
    for done in range(-1, setup.rounds):
        for name, work in works.items():
            seconds = setup.timed(work)
            if done >= 0:
                times[name].append(seconds)
    return times


def over(top: list[float], bottom: list[float]) -> list[float]:
    return [a / b for a, b in zip(top, bottom, strict=True)]


def whole(few: list[float], many: list[float], counts: tuple[int, int], total: int) -> list[float]:
    """Seconds for ``total`` items, from those for few and for many."""
    slope = [(b - a) / (counts[1] - counts[0]) for a, b in zip(few, many, strict=True)]
    return [a + s * (total - counts[0]) for a, s in zip(few, slope, strict=True)]


def cheapest(times: dict[str, list[float]], kind: str, sizes: list[int]) -> list[float]:
    """Seconds a sample at the batch size whose median is lowest."""
    best = min(sizes, key=lambda size: statistics.median(times[f"{kind} {size}"]) / size)
    return [seconds / best for seconds in times[f"{kind} {best}"]]


def backward(pair: PairSimilarity, image: Tensor, size: int) -> Callable[[], object]:
    """One backward pass for the input alone, of as many channels as the batch holds images."""
    layout = torch.channels_last if image.device.type == "cpu" else torch.contiguous_format
    replicas = image.repeat(size, 1, 1, 1).contiguous(memory_format=layout).requires_grad_()
    embeddings = nn.functional.normalize(pair.embed(replicas))
    seeds = torch.eye(embeddings.shape[1]).to(embeddings)[:size]
    return lambda: torch.autograd.grad(embeddings, replicas, seeds, retain_graph=True)


def forward(pair: PairSimilarity, image: Tensor, size: int) -> Callable[[], object]:
    replicas = image.repeat(size, 1, 1, 1)

    def run() -> None:
        with torch.no_grad():
            pair.embedding_model(pair.preprocess(replicas))

    return run


def channels_of(pair: PairSimilarity, image: Tensor, count: int) -> Callable[[], object]:
    """FGGB of one image for so many channels, everything included."""

    def run() -> None:
        with pair.frozen():
            chunks = gradient_channel_maps_chunked(pair, image, channels=torch.arange(count))
            weighted_channel_maps(chunks, torch.ones(1, count, device=image.device))

    return run


def masks_of(pair: PairSimilarity, images: tuple[Tensor, Tensor], count: int) -> Callable[[], object]:
    """CorrRISE of one image for so many masks, everything included."""
    masks = random_patches(count, (112, 112), generator=torch.Generator().manual_seed(0))
    method = CorrRISE(pair)
    return lambda: method.attribute_probe(images, masks=masks)


def fggb(setup: Setup) -> Rows:
    pair, images = setup.pair, setup.images
    dimensions = pair.embed(images[0]).shape[1]
    counts, loop = (8, 40), 6

    def naive() -> None:
        # Not inside frozen(): parameters require gradients, as in published code.
        leaf = images[0].clone().requires_grad_()
        embeddings = nn.functional.normalize(pair.embed(leaf))
        for channel in range(loop):
            leaf.grad = None
            embeddings[0, channel].backward(retain_graph=True)
            channel_map = leaf.grad[0].abs().mean(0)
            channel_map / channel_map.norm()
        pair.zero_grad(set_to_none=True)

    works: dict[str, Callable[[], object]] = {"naive": naive}
    with pair.frozen():
        twin = accelerated(pair, images[0])
        for kind, wrapper in (("model", pair), ("twin", twin)):
            for size in setup.sizes:
                works[f"{kind} {size}"] = backward(wrapper, images[0], size)
    works |= {f"fggb {n}": channels_of(pair, images[0], n) for n in counts}
    small = dimensions <= 128
    if small:
        works["fggb"] = channels_of(pair, images[0], dimensions)
    times = interleaved(works, setup)
    one = whole(times[f"fggb {counts[0]}"], times[f"fggb {counts[1]}"], counts, dimensions)
    floors = {kind: cheapest(times, kind, setup.sizes) for kind in ("model", "twin")}
    own = times["fggb"] if small else one
    yield Row("FGGB, a pair", [2 * s for s in own], "s")
    for kind, title in (("model", "floor"), ("twin", "floor of the twin")):
        aim = "at most 1.10" if kind == "model" else ""
        yield Row(f"FGGB / {title}", over(own, [dimensions * s for s in floors[kind]]), aim=aim)
    loop_all = [s / loop * dimensions for s in times["naive"]]
    yield Row("published-style loop / FGGB", over(loop_all, own), aim="at least 3")
    yield Row("backward pass, model / twin", over(floors["model"], floors["twin"]))
    if small:
        yield Row("FGGB, calculated / measured", over(one, own))


def tolerance(setup: Setup) -> Rows:
    """On real pairs: which share of the channels is left, what that saves, and the error beside its bound."""
    pair, pairs = setup.pair, setup.pairs(40)
    with torch.no_grad(), pair.frozen():
        weights = [pair.contributions(pair.embed(a), pair.embed(b)) for a, b in pairs]
    dimensions = weights[0].shape[1]
    shares = {
        t: [len(heaviest_channels(w - pair.threshold / dimensions, t)[0]) / dimensions for w in weights]
        for t in (0.05, 0.1, 0.2)
    }
    for t, share in shares.items():
        yield Row(f"channels left at tolerance {t}, {len(pairs)} pairs", [100 * s for s in share], "%")
    left = round(statistics.median(shares[0.1]) * dimensions)
    counts = (8, 40)
    times = interleaved({str(n): channels_of(pair, setup.images[0], n) for n in counts}, setup)
    full, part = (whole(times["8"], times["40"], counts, n) for n in (dimensions, left))
    yield Row("FGGB / FGGB at tolerance 0.1", over(full, part), aim="at least 1.5")
    if dimensions > 128:
        return  # whole maps take too long
    errors, alike = [], []
    for images in pairs[:4]:
        exact = FGGB(pair).attribute(images)
        found = FGGB(pair).attribute_detailed(images, tolerance=0.1)
        for side, (whole_map, part) in enumerate(zip(exact, found.attributions, strict=True)):
            error = float((whole_map - part)[:, 0].norm())
            errors.append(error / float(found.details["error_bound"][0, side]))
            alike.append(pearson(whole_map, part))
    yield Row("error / bound at tolerance 0.1, 8 maps", errors, aim="at most 1")
    yield Row("Pearson with the exact map, 8 maps", alike, "")


def pearson(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first[:, 0].flatten(), second[:, 0].flatten()]).double())[0, 1])


def corrrise(setup: Setup) -> Rows:
    pair, images = setup.pair, setup.images
    counts, loop = (40, 120), 6
    masks = random_patches(loop, (112, 112)).to(setup.device)

    def naive() -> None:
        with torch.no_grad():
            for mask in masks:
                pair(images[0] * mask, images[1]).item()

    works: dict[str, Callable[[], object]] = {"naive": naive}
    works |= {f"corrrise {n}": masks_of(pair, images, n) for n in counts}
    with pair.frozen():
        twin = accelerated(pair, images[0])
        for kind, wrapper in (("model", pair), ("twin", twin)):
            for size in setup.sizes:
                works[f"{kind} {size}"] = forward(wrapper, images[0], size)
        times = interleaved(works, setup)
    own = whole(*(times[f"corrrise {n}"] for n in counts), counts, N_MASKS)
    floors = {kind: cheapest(times, kind, setup.sizes) for kind in ("model", "twin")}
    yield Row(f"CorrRISE of {N_MASKS} masks, a pair", [2 * s for s in own], "s")
    for kind, title in (("model", "floor"), ("twin", "floor of the twin")):
        aim = "at most 1.05" if kind == "model" else ""
        yield Row(f"CorrRISE / {title}", over(own, [N_MASKS * s for s in floors[kind]]), aim=aim)
    loop_all = [s / loop * N_MASKS for s in times["naive"]]
    yield Row("loop over single masks / CorrRISE", over(loop_all, own))
    yield Row("forward pass, model / twin", over(floors["model"], floors["twin"]))


def morphs(setup: Setup) -> Rows:
    pair, images = setup.pair, setup.images
    dimensions = pair.embed(images[0]).shape[1]
    counts = (8, 40)
    cohort = torch.cat([images[1].flip(-1), images[1].roll(3, -1)]).repeat(8, 1, 1, 1)
    method = MorphGradients(pair, cohort)
    works = {f"fggb {n}": channels_of(pair, images[0], n) for n in counts}
    works |= {f"corrrise {n}": masks_of(pair, images, n) for n in counts}
    works["morphs"] = lambda: method.attribute(images, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cohort of the partner's own images takes as long as any
        times = interleaved(works, setup)
    yield Row("morph gradients, a pair", times["morphs"], "s")
    for name, total in (("fggb", dimensions), ("corrrise", N_MASKS)):
        other = whole(*(times[f"{name} {n}"] for n in counts), counts, total)
        title = {"fggb": f"FGGB (D = {dimensions})", "corrrise": "CorrRISE (500 masks)"}[name]
        aim = "at most 0.25" if dimensions == 512 else ""
        yield Row(f"morph gradients / {title}", over(times["morphs"], [2 * s for s in other]), aim=aim)


def precision(setup: Setup) -> Rows:
    """Time in reduced precision against float32, each as the methods run it."""
    works: dict[str, Callable[[], object]] = {}
    names = ["float32", "bfloat16"] + (["tf32"] if setup.device == "cuda" else [])
    dimensions = setup.pair.embed(setup.images[0]).shape[1]
    counts: dict[str, dict[str, tuple[int, int]]] = {"FGGB": {}, "CorrRISE": {}}
    for name in names:
        pair = setup.in_precision(name)
        # Whole passes: the forward pass before them has as many images as one of them.
        size = default_batch_size(setup.images[0].device, name)
        counts["FGGB"][name], counts["CorrRISE"][name] = (size, min(5 * size, dimensions)), (size, 5 * size)
        for n, m in zip(counts["FGGB"][name], counts["CorrRISE"][name], strict=True):
            works[f"FGGB {name} {n}"] = channels_of(pair, setup.images[0], n)
            works[f"CorrRISE {name} {m}"] = masks_of(pair, setup.images, m)
    times = interleaved(works, setup)
    total = {"FGGB": dimensions, "CorrRISE": N_MASKS}
    for method, aim in (("FGGB", "at least 2.5"), ("CorrRISE", "at least 3")):
        seconds = {
            name: whole(*(times[f"{method} {name} {n}"] for n in both), both, total[method])
            for name, both in counts[method].items()
        }
        for name in names[1:]:
            shown = f"{aim} (iresnet50)" if name == "bfloat16" else ""
            yield Row(f"{method}, float32 / {name}", over(seconds["float32"], seconds[name]), aim=shown)


def fidelity(setup: Setup) -> Rows:
    """Maps of real pairs in reduced precision against those in float32: Pearson correlation over pixels."""
    small = setup.pair.embed(setup.images[0]).shape[1] <= 128
    n_masks = N_MASKS if small else 100
    found: dict[str, list[float]] = defaultdict(list)
    for images in setup.pairs(setup.fidelity_pairs if small else 2):
        exact = _maps(setup.pair, images, n_masks, small)
        for name in ["bfloat16"] + (["tf32"] if setup.device == "cuda" else []):
            reduced = _maps(setup.in_precision(name), images, n_masks, small)
            for what in exact:
                found[f"{what}, {name}"] += [
                    pearson(x, y) for x, y in zip(exact[what], reduced[what], strict=True)
                ]
    for what, values in found.items():
        aim = "above 0.999" if what.startswith("CorrRISE") else ""
        yield Row(f"{what}: Pearson with float32, {len(values)} maps", values, "", aim)


def _maps(
    pair: PairSimilarity, images: tuple[Tensor, Tensor], n_masks: int, both: bool
) -> dict[str, list[Tensor]]:
    options, label = {"n_masks": n_masks, "seed": 0}, f"CorrRISE of {n_masks} masks"
    if not both:  # a large network's second map would take too long
        return {label: [CorrRISE(pair).attribute_probe(images, **options)]}
    exact = FGGB(pair).attribute(images)
    return {
        label: [*CorrRISE(pair).attribute(images, **options)],
        "FGGB": [*exact],
        "FGGB smoothed (sigma 5)": [smooth(side, 5) for side in exact],
    }


def batch(setup: Setup) -> Rows:
    """The rule for the images in one pass, and ``"auto"``, which measures."""
    pair, image = setup.pair, setup.images[0]
    seconds = setup.timed(lambda: plan(pair, image, measure=True))
    chosen = plan(pair, image, measure=True)
    yield Row("the rule: images in a pass", [chosen.images_per_pass], "")
    yield Row('"auto": images in a forward pass', [chosen.forward_images], "")
    yield Row('"auto": channels in a backward pass', [chosen.backward_channels], "")
    yield Row('"auto": seconds to measure, once for each model', [seconds], "s")
    with pair.frozen():
        twin = accelerated(pair, image)
        sizes = {"rule": [chosen.images_per_pass] * 2}
        sizes["auto"] = [images_per_pass("auto", twin, image, backward=way) for way in (False, True)]
        works = {}
        for name, (ahead, back) in sizes.items():
            works[f"forward {name}"] = forward(twin, image, ahead)
            works[f"backward {name}"] = backward(twin, image, back)
        times = interleaved(works, setup)
    for place, kind in enumerate(("forward", "backward")):
        each = {name: [s / sizes[name][place] for s in times[f"{kind} {name}"]] for name in ("rule", "auto")}
        yield Row(f"{kind} pass, a sample: rule / auto", over(each["rule"], each["auto"]))


def gallery(setup: Setup) -> Rows:
    """One probe against many gallery images and against one, beyond embedding the gallery."""
    pair, probe = setup.pair, setup.images[0]
    crops = torch.cat([image for images in setup.pairs(-(-N_GALLERY // 2)) for image in images])
    with torch.no_grad(), pair.frozen():
        known = embed_gallery(pair, crops)
    drawn = load_pair("synthetic").to(setup.device)
    with torch.no_grad(), drawn.frozen():
        known_drawn = embed_gallery(drawn, crops)
    cases = [
        ("FGGB", FGGB(pair), {}, known, N_GALLERY),
        ("CorrRISE", CorrRISE(pair), {"seed": 0}, known, N_GALLERY),
        ("RISE", METHODS["rise"](pair), {"seed": 0}, known, N_GALLERY),
        ("xFace (single)", XFace(pair), {"variant": "single"}, known, N_GALLERY),
        ("reconstruction (bundled network)", METHODS["reconstruction"](drawn), {}, known_drawn, N_GALLERY),
        ("BiLRP", METHODS["bilrp"](pair), {}, known, N_GALLERY_SLOW),
    ]
    for name, method, options, embeddings, most in cases:

        def run(k: int, method=method, options=options, known=embeddings) -> Callable[[], object]:
            return lambda: attribute_gallery(
                method, probe, crops[:k], gallery_embeddings=known[:k], **options
            )

        times: dict[int, list[float]] = {1: [], most: []}
        setup.timed(run(1))
        for _ in range(max(1, setup.rounds // 3)):  # whole runs: they take long, and differ little
            for k, seconds in times.items():
                seconds.append(setup.timed(run(k)))
        aim = "at most 1.5" if most == N_GALLERY else f"at most 1.5 at K = {N_GALLERY}"
        yield Row(f"{name}: K = {most} / K = 1", over(times[most], times[1]), aim=aim)


def curves(setup: Setup) -> Rows:
    """Deletion curves of 10 steps with 4 fills against a loop over single images."""
    pairs, few, n_steps = setup.pairs(10), 1, 10
    image_a, image_b = (torch.cat(side) for side in zip(*pairs, strict=True))
    others = image_b.roll(1, 0)  # faces of other people
    fills: tuple[str | Tensor, ...] = ("black", "mean", "blur", others)
    maps = torch.randn(image_a.shape, generator=torch.Generator().manual_seed(0)).to(setup.device)

    def naive(pair: PairSimilarity) -> Tensor:
        scores = []
        for a, b, other, attr in zip(image_a[:few], image_b, others, maps, strict=False):
            a, b, other = a[None], b[None], other[None]
            order = attr.mean(0).flatten().argsort(descending=True)
            filled = [torch.zeros_like(a), a.mean((2, 3), keepdim=True).expand_as(a), smooth(a, 10), other]
            for fill in filled:
                for step in range(n_steps + 1):
                    image = a.flatten(2).clone()
                    first = order[: -(-len(order) * step // n_steps)]
                    image[..., first] = fill.flatten(2)[..., first]
                    with torch.no_grad():
                        scores.append(pair(image.reshape(a.shape), b))
        return torch.cat(scores).reshape(few, len(fills), n_steps + 1).double().cpu()

    def own(pair: PairSimilarity) -> Tensor:
        known: dict[object, Tensor] = {}
        return torch.stack(
            [
                perturbation_curve(
                    pair,
                    (image_a, image_b),
                    (maps, None),
                    fill=fill,
                    n_steps=n_steps,
                    embedded=known,
                ).scores
                for fill in fills
            ],
            1,
        )

    pair, reduced = setup.pair, setup.in_precision("bfloat16")
    with pair.frozen():
        twin = accelerated(pair, image_a[:1])
        size = images_per_pass(None, twin, image_a[:1])
        # The passes that no sharing saves: what lies between the ends, and both images.
        n = len(pairs) * (len(fills) * (n_steps - 1) + 2)
        passes = forward(twin, image_a[:1], size)
        works = {
            "naive": lambda: naive(pair),
            "own": lambda: own(pair),
            "bfloat16": lambda: own(reduced),
            "passes": passes,
            "single": forward(pair, image_a[:1], 1),
        }
        times = interleaved(works, setup)
        difference = (naive(pair) - own(pair)[:few]).abs().max()
    each = {
        "naive": [s / few for s in times["naive"]],
        **{name: [s / len(pairs) for s in times[name]] for name in ("own", "bfloat16")},
    }
    yield Row("100 pairs x 10 steps x 4 fills", [100 * s for s in each["own"]], "s")
    yield Row("loop over single images / curves", over(each["naive"], each["own"]), aim="at least 5")
    yield Row("loop in float32 / curves in bfloat16", over(each["naive"], each["bfloat16"]))
    yield Row("largest difference of a score", [float(difference)], "", "at most 1e-05")
    per_image = [s / size for s in times["passes"]]
    yield Row(
        "curves: share of forward passes",
        [100 * n * p / t for p, t in zip(per_image, times["own"], strict=True)],
        "%",
    )
    yield Row("passes of the loop / passes of the curves", [2 * 4 * 11 * len(pairs) / n])
    yield Row("a pass of one image, model / of several, twin", over(times["single"], per_image))


def compiled(setup: Setup) -> Rows:
    """``torch.compile`` of the model, which a user can give; and how many images until it has paid."""
    image = setup.images[0]
    with setup.pair.frozen(), torch.no_grad():
        twin = accelerated(setup.pair, image)
        size = images_per_pass(None, twin, image)
        model = torch.compile(setup.pair.embedding_model)
        batch_of = setup.pair.preprocess(image.repeat(size, 1, 1, 1))
        once = setup.timed(lambda: model(batch_of))
        times = interleaved({"twin": forward(twin, image, size), "compiled": lambda: model(batch_of)}, setup)
    yield Row("torch.compile: seconds until the first answer", [once], "s")
    yield Row("forward pass, twin / compiled model", over(times["twin"], times["compiled"]))
    saved = [(a - b) / size for a, b in zip(times["twin"], times["compiled"], strict=True)]
    gain = statistics.median(saved)
    if gain > 0:
        yield Row("images until compiling has paid", [once / gain], "")


def memory(setup: Setup) -> Rows:
    """Above the loaded model; independent of what is not in one pass."""
    for work, title in (
        ("fggb", "FGGB, internal_batch_size"),
        ("corrrise", "CorrRISE, perturbations_per_eval"),
    ):
        for size in (1, 4, 16):
            yield Row(f"{title}={size}", [peak_memory(setup, work, size)], "MiB")
    for work, title in (
        ("channels", "FGGB, {} channels"),
        ("masks", "CorrRISE, {} masks"),
        ("gallery", "FGGB against {} gallery images"),
        ("pairs", "CorrRISE of {} pairs"),
        ("partners", "CorrRISE of an image against {}"),
    ):
        for count in {"channels": (16, 128), "masks": (64, 512), "gallery": (1, 100)}.get(work, (1, 16)):
            yield Row(title.format(count), [peak_memory(setup, work, count)], "MiB")


def leak(setup: Setup) -> Rows:
    """What a process holds after 200 calls beyond what it held after 50."""
    yield Row("held after 200 calls beyond 50 calls", [growth(setup, 200)], "MiB")


def imports(setup: Setup) -> Rows:
    captum_s, own_s, heavy = import_seconds(setup.rounds)
    yield Row("import captum.attr", captum_s, "s")
    yield Row("import captum_face beyond it", own_s, "s")
    yield Row("heavy modules that it adds", [len(heavy)], "", "0")


SECTIONS: dict[str, tuple[str, Callable[[Setup], Rows]]] = {
    "fggb": ("FGGB", fggb),
    "tolerance": ("FGGB with a tolerance", tolerance),
    "corrrise": ("CorrRISE", corrrise),
    "morphs": ("Morph gradients", morphs),
    "precision": ("Time in reduced precision", precision),
    "fidelity": ("Maps in reduced precision", fidelity),
    "batch": ("Images in one pass", batch),
    "gallery": ("One probe, many gallery images", gallery),
    "curves": ("Perturbation curves", curves),
    "compile": ("torch.compile", compiled),
    "memory": ("Peak memory", memory),
    "leak": ("Memory over many calls", leak),
    "import": ("Import", imports),
}
# On one network only: they say nothing about a second, or take too long on it.
FIRST_MODEL_ONLY = ("gallery", "curves", "compile", "memory", "leak", "import")


def machine(device: str) -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    cpu = facts.get("model name", platform.machine())
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if unit in facts.get("flags", "")]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "bfloat16 units": "yes" if device == "cuda" else ", ".join(units) or "none",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "captum": captum.__version__,
        "captum_face": __version__,
    }  # fmt: skip


def merged(known: dict, name: str, title: str, model: str, facts: dict, rows: list[Row]) -> None:
    """Enters what was measured beside what the file has of other models on the same machine."""
    section = known.setdefault(name, {})
    if section.get("machine") != facts:
        section.clear()
        section |= {"title": title, "machine": facts, "rows": {}}
    for row in section["rows"].values():
        row["values"].pop(model, None)
    for row in rows:
        entry = section["rows"].setdefault(row.what, {"values": {}})
        entry |= {"unit": row.unit, "aim": row.aim}
        entry["values"][model] = {
            "median": statistics.median(row.values),
            "low": min(row.values),
            "high": max(row.values),
            "n": len(row.values),
        }
    section["rows"] = {what: row for what, row in section["rows"].items() if row["values"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mobilefacenet,iresnet50")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4, help="pairs whose maps are compared in 'fidelity'")
    parser.add_argument("--shared", type=Path, help="folder with the real pairs and the MobileFaceNet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="'processor' counts the time of this process alone, for a busy machine and one thread",
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    facts = machine(options.device) | {"clock": options.clock}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for section in options.only.split(","):
        title, measure = SECTIONS[section]
        models = options.models.split(",")
        for model in models[:1] if section in FIRST_MODEL_ONLY else models:
            setup = Setup(model, options.device, options.rounds, options.shared, options.pairs, options.clock)
            started = time.perf_counter()
            rows = list(measure(setup))
            print(f"\n{title}: {model}, {time.perf_counter() - started:.0f} s")
            for row in rows:
                middle, low, high = statistics.median(row.values), min(row.values), max(row.values)
                spread = f"{low:.4g} to {high:.4g}" if len(row.values) > 1 else ""
                print(f"  {row.what:58}{middle:10.4g} {row.unit:4}{spread:24}{row.aim}")
            sys.stdout.flush()
            if options.json:
                known = json.loads(options.json.read_text()) if options.json.exists() else {}
                merged(known, section, title, model, facts, rows)
                ordered = {name: known[name] for name in SECTIONS if name in known}
                options.json.write_text(json.dumps(ordered, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
