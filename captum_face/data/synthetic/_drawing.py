"""Draws faces part by part, lights them by one lamp and puts them before a background."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_face.data.synthetic._canvas import (
    SIZE,
    Canvas,
    bump,
    columns,
    cover,
    ellipse,
    from_image,
    hill,
    palette,
    rgb,
    smooth,
    soft,
    to_image,
)
from captum_face.data.synthetic._parameters import IDENTITY, NUISANCE, PARTS, Identities, Nuisance

__all__ = ["draw", "five_points"]

# The five-point template, in face coordinates: the face is symmetric, the template nearly so.
EYE_X, EYE_ROW, NOSE_ROW, MOUTH_X, MOUTH_ROW = 17.62, 51.6, 71.74, 14.59, 92.28
REST_SMILE = NUISANCE["expression"]["smile"][0]

SKIN = [
    (0.97, 0.84, 0.76),
    (0.93, 0.76, 0.65),
    (0.86, 0.66, 0.52),
    (0.72, 0.51, 0.38),
    (0.54, 0.36, 0.26),
    (0.40, 0.26, 0.19),
]
HAIR = [
    (0.07, 0.06, 0.06),
    (0.17, 0.11, 0.08),
    (0.33, 0.20, 0.12),
    (0.42, 0.20, 0.11),
    (0.56, 0.40, 0.25),
    (0.76, 0.63, 0.43),
    (0.62, 0.61, 0.60),
]
IRIS = [
    (0.22, 0.12, 0.07),
    (0.42, 0.25, 0.12),
    (0.47, 0.42, 0.20),
    (0.30, 0.47, 0.34),
    (0.33, 0.52, 0.66),
    (0.22, 0.36, 0.60),
    (0.50, 0.55, 0.58),
]
LIPS = [
    (0.80, 0.52, 0.47),
    (0.84, 0.47, 0.49),
    (0.72, 0.36, 0.36),
    (0.74, 0.22, 0.26),
    (0.55, 0.18, 0.26),
    (0.56, 0.32, 0.27),
]


def _head(c: Canvas, skin: Values, jaw: Values, tone: Tensor) -> Tensor:
    """Skin and the outline of the head; returns its coverage."""
    down = (c.v - 60).clamp(min=1e-3) / (jaw.chin_row - 60)
    width = jaw.cheek_width * (1 - (1 - jaw.jaw_width) * smooth(down))
    below = (c.a / width).clamp(min=1e-4) ** jaw.square + down**jaw.square
    below = below ** (1 / jaw.square)
    above = ((c.a / jaw.cheek_width).square() + ((c.v - 60) / 50).square()).sqrt()
    radius = torch.where(c.v > 60, below, above)
    distance = (radius - 1) * 38

    mottle = torch.sin(c.u * 0.9 + 2 * torch.sin(c.v * 0.35)) * torch.sin(c.v * 0.8 + c.u * 0.2)
    c.colour.copy_(tone * (1 + 0.022 * skin.texture * mottle)[:, None])
    c.gloss.copy_(skin.gloss * (0.55 + 0.45 * bump(c.u / 30, (c.v - 50) / 45)))
    c.rise(34 * (1.06 - radius.square()).clamp(min=0.02).sqrt())
    c.rise(jaw.cheekbone * bump((c.a - 23) / 15, (c.v - 67) / 13))
    chin = c.v - jaw.chin_row
    c.rise(jaw.chin_ball * bump(c.u / 12, (chin + 8) / 8))
    c.rise(-jaw.cleft.clamp(min=0) * bump(c.u / 2.5, (chin + 6) / 5))
    inside = distance < 0
    c.mark(inside, "skin")
    c.mark(inside & (distance > -6) & (c.v > 66), "jaw")
    return cover(distance)


def _marks(c: Canvas, p: Values) -> None:
    c.paint(0.28 * p.blush * bump((c.a - 21) / 14, (c.v - 72) / 12), rgb(0.86, 0.36, 0.34))
    dots = torch.sin(c.u * 1.9 + 1.7 * torch.sin(c.v * 1.3 + p.phase))
    dots = dots * torch.sin(c.v * 2.1 + 1.9 * torch.sin(c.u * 1.1 + p.phase))
    dots = ((dots - 0.45) * 3).clamp(0, 1) * bump(c.u / 36, (c.v - 66) / 16)
    c.darken(0.42 * p.freckles.clamp(min=0) * dots)
    # A mole on a cheek (never on the nose), and a smaller one on the forehead or the chin.
    mole = (0.8 * p.mole_x + 7.5 * p.mole_x.sign(), p.mole_row, p.mole_size)
    row = torch.where(p.spot_row > 0, 101 + 2 * p.spot_row, 35 + 4 * p.spot_row)
    for x, y, size in (mole, (p.spot_x, row, p.spot_size)):
        distance = ((c.u - x).square() + (c.v - y).square() + 1e-8).sqrt() - size
        c.paint(0.8 * soft(distance, 1.6), rgb(0.26, 0.14, 0.10))
        c.rise(0.5 * soft(distance, 2.0))
        c.mark(distance < 0.3, "marks")


def _nose(c: Canvas, p: Values, light: Values) -> None:
    tip = NOSE_ROW + p.tip_row
    along = ((c.v - 46) / (tip - 46)).clamp(0, 1)
    ridge_width = p.bridge_width * (1 + 0.35 * along)
    profile = p.bridge_height * along * (0.45 + 0.75 * along) + p.hump * hill((c.v - 60) / 7)
    c.rise(hill(c.u / ridge_width) * profile * smooth((tip + 5 - c.v) / 7))
    c.rise(p.tip_size * bump(c.u / (0.62 * p.width + 2), (c.v - tip + 1) / 6.5))
    wing = bump((c.a - p.width + 2.2) / 4.6, (c.v - tip - 2.0) / 4.8)
    c.rise(2.4 * wing)
    # What a height map cannot show: shadows below and beside, creases of the wings, nostrils.
    c.darken(0.26 * bump(c.u / (p.width + 4), (c.v - tip - 6.6) / 4.2))
    c.darken(0.22 * light.x.abs() * bump((c.u + 8 * light.x) / 7, (c.v - tip + 6) / 15))
    ring = ((c.a - p.width + 2.6).square() + (0.95 * (c.v - tip - 1.8)).square() + 1e-8).sqrt()
    crease = (1 - (ring - 3.9).abs() / 1.3).clamp(min=0)
    c.darken(0.34 * crease * ((c.a - p.width + 2.2) / 2).clamp(0, 1))
    hole = ellipse(c.a - 0.52 * p.width, c.v - tip - 3.7 + 0.12 * c.a, 1.55 * p.nostril, p.nostril)
    c.paint(0.72 * soft(hole, 1.5), rgb(0.17, 0.07, 0.06))
    ridge = (c.a < 0.75 * ridge_width) & (c.v > 52) & (c.v < tip + 5.5)
    c.mark((wing > 0.12) | ridge, "nose")


def _beard(c: Canvas, p: Values) -> None:
    size = torch.ones_like(p.density)
    lips = ellipse(c.u, c.v - 92.5, 20 * size, 8.5 * size)
    edge = 65 + 26 * (1 - (c.a / 36).square()) + 1.2 * torch.sin(0.9 * c.u)
    cheeks = p.cheeks * smooth((c.v - edge) / 7) * (1 - soft(lips, 5))
    chin = p.chin * soft(ellipse(c.u, c.v - 106, 11.5 * size, 8 * size), 4)
    ring = ellipse(c.u, c.v - 93, 21 * size, 14 * size).abs() - 2.2
    circle = p.chin.clamp(max=p.moustache) * soft(ring, 3.5) * smooth((c.v - 83) / 6)
    row = 84.2 + 0.012 * c.u.square()
    moustache = smooth((4.6 - 0.1 * c.a - (c.v - row).abs()) / 2.4) * smooth((19 - c.a) / 5)
    moustache = p.moustache * moustache * (1 - 0.5 * hill(c.u / 2.0))
    hairy = torch.stack([cheeks, chin, 0.8 * circle, moustache]).amax(dim=0).clamp(min=0)
    grain = torch.sin(2.3 * c.u + 1.5 * torch.sin(1.9 * c.v)) * torch.sin(2.0 * c.v + 0.7 * c.u)
    strength = (p.density * hairy * (1 + 0.15 * grain)).clamp(0, 1)
    c.paint(strength, palette(HAIR, p.colour) * (0.7 + 0.15 * grain)[:, None])
    c.rise(1.2 * p.density * hairy * (1 + 0.25 * grain))
    c.gloss.mul_(1 - 0.8 * strength)
    c.mark(strength > 0.3, "beard")


def _mouth_width(p: Values, face: Values) -> Tensor:
    return MOUTH_X + p.width + 1.6 * (face.smile - REST_SMILE)


def _corner_rise(face: Values) -> Tensor:
    return 2.2 * (face.smile - REST_SMILE)


def _mouth(c: Canvas, p: Values, face: Values) -> None:
    width, rise = _mouth_width(p, face), _corner_rise(face)
    t = c.u / width
    inner = (1 - t * t).clamp(min=-1)
    span = inner.clamp(min=0)
    gape = 2.6 * face.open.clamp(min=0) * span
    line = MOUTH_ROW + (1.8 + p.curve) * inner + rise * (inner - 1)
    bow = p.upper * span**0.8 * (0.72 + 0.42 * hill((t.abs() - 0.24) / 0.5))
    bow = (bow - p.bow * hill(t / 0.22)).clamp(min=0)
    outside = 4 * (-inner).clamp(min=0)
    top = line - 0.45 * gape - bow + outside
    bottom = line + 0.55 * gape + p.lower * span**0.65 - outside
    lips = torch.maximum(top - c.v, c.v - bottom) * 0.9
    c.darken(0.20 * bump(c.u / (0.75 * width), (c.v - bottom - 2.4) / 3.4))
    c.darken(0.10 * bump(c.u / 2.6, (c.v - MOUTH_ROW + 9) / 5))
    shade = 0.82 + 0.18 * ((c.v - line) / 1.5).clamp(0, 1)
    c.paint(p.strength * soft(lips, 1.8), palette(LIPS, p.colour) * shade[:, None])
    c.rise(1.3 * bump(t, (c.v - 0.5 * (top + line)) / (p.upper + 1.5)))
    c.rise(2.2 * bump(t, (c.v - 0.5 * (bottom + line)) / (0.8 * p.lower + 1.5)))
    c.gloss.add_(0.8 * soft(lips, 1.5) * (c.v > line))
    gap = torch.maximum(line - 0.45 * gape - c.v, c.v - line - 0.55 * gape)
    ends = (inner / 0.14 + 1).clamp(0, 1)
    c.paint(0.75 * soft(gap - 0.5, 1.5) * ends, rgb(0.26, 0.07, 0.07))
    teeth = torch.maximum(gap, c.v - line - 0.25 * gape) + 0.35
    c.paint(0.9 * cover(teeth) * (3 * inner - 0.6).clamp(0, 1), rgb(0.93, 0.92, 0.90))
    c.darken(0.3 * bump((c.a - width) / 2.4, (c.v - MOUTH_ROW + rise) / 2.4))
    # The fold from the wing of the nose around the corner of the mouth.
    fold = (c.a - width - 2.5 - 0.42 * (MOUTH_ROW - 4 - c.v)) / 3.0
    c.darken(0.10 * (0.4 + face.smile).clamp(min=0) * hill(fold) * hill((c.v - 84) / 9))
    c.mark((lips < 0) & (inner > 0), "mouth")


def _eyes(c: Canvas, p: Values, face: Values) -> None:
    dx, dy = c.a - EYE_X - p.spacing, c.v - EYE_ROW
    c.rise(-p.socket * bump(dx / 13, (dy + 2.5) / 10))
    c.rise(1.8 * bump(dx / 12, dy / 7.5))
    c.darken((0.08 + 0.14 * p.shadow) * bump((dx + 1.5) / 12, (dy + 2) / 8))
    c.darken(0.10 * p.shadow * bump((dx + 1) / 10, (dy - 6) / 3.5))
    dx, dy = dx - p.tilt * dy, dy + p.tilt * dx
    t = dx / p.width
    inner = (1 - t * t).clamp(min=-0.6)
    upper = -p.upper * face.lids * inner * (1 - 0.22 * t.clamp(-1, 1))
    lower = p.lower * inner * (1 + 0.2 * t.clamp(-1, 1))
    eye = torch.maximum(upper - dy, dy - lower) * 0.9
    open_ = cover(eye)
    crease = (1 - (dy - upper + p.crease + 0.3).abs() / 1.1).clamp(min=0)
    c.darken(0.34 * crease * (inner * 2 + 0.5).clamp(0, 1))
    # The eyeball: white in the shadow of the lid, iris with a dark rim, pupil, glint.
    shade = 0.58 + 0.42 * ((dy - upper) / 3.2).clamp(0, 1)
    shade = shade * (1 - 0.44 * (t.abs() - 0.5).clamp(0, 0.5))
    c.paint(open_, rgb(0.95, 0.94, 0.93) * shade[:, None])
    side = c.u.sign()
    gx, gy = dx - side * face.gaze_x, dy - face.gaze_y + 0.45
    r = (gx.square() + gy.square() + 1e-8).sqrt()
    glow = 1.18 - 0.62 * ((r - p.iris + 1.4) / 1.4).clamp(0, 1)
    glow = glow * (1 + 0.35 * (gy / p.iris).clamp(-1, 1)) * shade
    iris = (palette(IRIS, p.colour) * glow[:, None]).clamp(0, 1)
    c.paint(open_ * cover(r - p.iris), iris)
    c.paint(open_ * cover(r - 0.43 * p.iris), rgb(0.03, 0.03, 0.03))
    glint = ((side * gx + 1.3).square() + (gy + 1.4).square() + 1e-8).sqrt()
    c.paint(0.95 * open_ * cover(glint - 0.85), rgb(1.0, 1.0, 1.0))
    c.paint(0.5 * bump((dx + p.width - 0.3) / 1.6, dy / 1.2), rgb(0.78, 0.45, 0.42))
    dark = rgb(0.09, 0.06, 0.05)
    reach = ((1.12 - t.abs()) / 0.12).clamp(0, 1)
    lash = (dy - upper + 0.3).abs() - (0.35 + 0.5 * p.lash * (0.75 + 0.4 * t))
    c.paint(0.88 * soft(lash, 1.3) * reach, dark)
    c.paint(0.28 * soft((dy - lower).abs() - 0.2, 1.2) * reach, dark)
    c.mark((torch.minimum(eye, lash) < 0.3) & (t.abs() < 1.12), "eyes")


def _brows(c: Canvas, p: Values, face: Values) -> None:
    t = (c.a - p.inner) / (p.outer - p.inner)
    row = p.row - face.brows + p.slope * (t - 0.5) + 0.5 * p.arch
    row = row - p.arch * (1 - ((t - 0.6) / 0.6).square()).clamp(min=-1)
    thick = p.thickness * (1.08 - 0.75 * t.clamp(0, 1).square()) * (0.55 + 2.2 * t.clamp(0, 0.2))
    grain = torch.sin(2.1 * c.a + 1.3 * c.v)
    distance = torch.maximum((c.v - row).abs() - thick, 20 * (t - 0.5).abs() - 10) + 0.15 * grain
    c.rise(1.2 * bump((t - 0.5) / 0.7, (c.v - row - 1) / 6))
    alpha = p.density * soft(distance, 2.0) * (0.9 + 0.1 * grain)
    c.paint(alpha, palette(HAIR, p.colour) * 0.75)
    c.mark(distance < 0, "brows")


def _hair_shape(c: Canvas, p: Values) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distances to all of the hair and to its front, and a number across its strands."""
    curl = p.wave.clamp(min=0).square()
    wave = curl * (1.6 * torch.sin(0.27 * c.v + p.phase) + 0.5 * torch.sin(0.5 * c.v - p.phase))
    strand = (c.u - p.parting + 1.6 * wave) / (c.v + 30)

    full = 38.5 + p.volume
    crown = ellipse(c.u, c.v - 52, full, 47.0 + p.height) - 0.4 * wave * c.u.sign()
    lower = (c.v - 52).clamp(min=0)
    short = ((80 - p.length) / 25).clamp(0, 1)
    side = full + 0.06 * lower + wave * c.u.sign()
    ends = p.length - 3 * torch.sin(0.16 * c.a + p.phase)
    whole = torch.where(c.v < 52, crown, torch.maximum(c.a - side, c.v - ends))
    whole = whole + short * 0.6 * (c.v - 42).clamp(min=0)  # short hair hugs the head

    across = (c.u - p.parting) / 34
    row = p.line + p.drop * (across.square() + 1e-6) ** (0.5 * p.power)
    jag = torch.sin(34 * strand + p.phase) + 0.6 * torch.sin(57 * strand) * torch.sin(19 * strand)
    row = row.clamp(max=40) + p.jag * jag + 30 * ((c.a - 29) / 9).clamp(0, 1).square()
    front = 0.75 * (c.v - row)
    # Before the ears the hair ends in a wedge.
    wedge = torch.maximum(34.5 + 0.35 * (c.v - 46) - c.a, c.v - 61)
    front = torch.maximum(front, torch.where(c.v > 46, wedge, front))
    return whole, torch.maximum(front, whole), strand


def _hair_colour(c: Canvas, p: Values, strand: Tensor) -> Tensor:
    run = torch.sin(70 * strand + p.phase + 1.5 * torch.sin(0.06 * c.v + p.phase))
    run = run + 0.8 * torch.sin(31 * strand + 2 * p.phase)
    run = run + 0.7 * torch.sin(125 * strand - p.phase + 0.12 * c.v)
    ring = ((c.u / (38 + p.volume)).square() + ((c.v - 52) / (47 + p.height)).square()).sqrt()
    on_top = smooth((58 - c.v) / 12)
    band = bump((ring - 0.80) / 0.24, c.u / 60) * on_top
    tone = 0.95 + p.streaks * 0.34 * run + 0.34 * band * (1 + 0.3 * run)
    tone = tone * (1.05 - 0.35 * ((ring - 0.85) / 0.2).clamp(0, 1) * on_top)
    sheen = 0.05 * band * (1 + 0.4 * run)
    return (palette(HAIR, p.colour) * tone[:, None] + sheen[:, None]).clamp(0, 1)


def _lit(c: Canvas, light: Values) -> Tensor:
    """The head in the light: Lambert with the soft terminator of skin, and a broad highlight."""
    height = pad(c.height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = 0.5 * (height[:, 1:-1, 2:] - height[:, 1:-1, :-2])
    gy = 0.5 * (height[:, 2:, 1:-1] - height[:, :-2, 1:-1])
    norm = (gx.square() + gy.square() + 1).rsqrt()
    lamp = (light.x.square() + light.y.square() + 1).rsqrt()
    slope = gx * light.x + gy * light.y
    wrap = rgb(0.5, 0.36, 0.32)
    diffuse = ((((1 - slope) * norm * lamp)[:, None] + wrap) / (1 + wrap)).clamp(min=0)
    # Between lamp and viewer, who stands at (0, 0, 1), lies the direction that shines most.
    shine = ((lamp + 1 - slope * lamp) * norm / (2 * lamp + 2).sqrt()).clamp(0, 1)
    shine = shine.square().square().square()
    shine = shine * shine.square()
    level = light.ambient[:, None] + (1.12 - light.ambient[:, None]) * diffuse
    return c.colour * level + (0.13 * c.gloss * shine)[:, None]


def draw(identities: Identities, nuisance: Nuisance) -> tuple[Tensor, Tensor]:
    """Pictures ``(N, 3, 112, 112)`` before noise, and the part on top ``(N, 112, 112)`` or -1."""
    part = {name: columns(IDENTITY[name], rows) for name, rows in identities.vectors.items()}
    photo = {name: columns(NUISANCE[name], rows) for name, rows in nuisance.vectors.items()}
    light, face, hair, ear = photo["light"], photo["expression"], part["hair"], part["ears"]
    grid = torch.arange(SIZE, dtype=torch.float32)
    c = Canvas(*from_image(photo["pose"], grid[None, None, :], grid[None, :, None]))

    warmth = part["skin"].warmth[:, None]
    tone = palette(SKIN, part["skin"].tone) * (1 + 0.05 * warmth * rgb(0.6, 0.0, -1.0))
    head = _head(c, part["skin"], part["jaw"], tone)
    _marks(c.window(28, 112, 40), part["marks"])
    _nose(c.window(45, 86, 17), part["nose"], light)
    _beard(c.window(60, 120, 45), part["beard"])
    _mouth(c.window(74, 109, 30), part["mouth"], face)
    _eyes(c.window(38, 63, 33), part["eyes"], face)
    _brows(c.window(30, 52, 36), part["brows"], face)
    whole, front, strand = _hair_shape(c, hair)
    c.darken(0.35 * soft(front - 3, 8.0))

    # The layers, from the back to the front.
    ground = photo["background"]
    ramp = (grid[None, None, :] - 56) * ground.angle.cos() / SIZE
    ramp = ramp + (grid[None, :, None] - 56) * ground.angle.sin() / SIZE
    picture = ground.level[:, None] + torch.stack([ground.warm, ground.green, -ground.warm], 1)
    picture = (picture * (1 + ground.gradient * ramp)[:, None]).clamp(0, 1)
    label = torch.full_like(c.label, -1)
    side = 1 + 0.3 * light.x * (c.u / 45).clamp(-1, 1)
    locks = _hair_colour(c, hair, strand)
    locks = locks * ((light.ambient + (1.1 - light.ambient) * 0.9) * side)[:, None]

    def put(alpha: Tensor, colour: Tensor, name: str) -> None:
        picture.lerp_(colour.expand_as(picture), alpha[:, None])
        label.masked_fill_(alpha > 0.5, PARTS.index(name))

    depth = 1 - 0.42 * smooth((c.v - 44) / 30) * (1 - 0.4 * smooth((c.a - 37) / 8))
    put(soft(whole, 1.6), locks * depth[:, None], "hair")
    neck = torch.maximum(c.a - 24 - 0.045 * (c.v - 92).clamp(min=0).square(), 84 - c.v)
    throat = 0.55 + 0.25 * ((c.v - 100) / 14).clamp(0, 1)
    put(cover(neck), tone * (throat * side)[:, None], "skin")
    ex, ey, width = c.a - 35.5 - 0.5 * ear.spread, c.v - ear.row, 2.6 + 0.55 * ear.spread
    lobe = ellipse(ex + 1.5, ey - ear.height + 1, 2.0 + 0.4 * ear.lobe, 1.5 + ear.lobe)
    hollow = bump((ex - 0.1 * width) / (0.62 * width), (ey + 1) / (0.7 * ear.height))
    shell = tone * rgb(0.96, 0.86, 0.84) * ((0.92 - 0.37 * hollow) * side)[:, None]
    put(cover(torch.minimum(ellipse(ex, ey, width, ear.height), lobe)), shell, "ears")
    picture.lerp_(_lit(c, light), head[:, None])
    label = torch.where(head > 0.5, c.label, label)
    put(soft(front, 1.8), locks, "hair")

    gain = torch.stack([1 + light.warmth, 1 + light.tint, 1 - light.warmth], dim=1)
    picture = picture * gain * light.exposure[:, None]
    picture = 0.5 + (picture - 0.5) * light.contrast[:, None]
    return picture.clamp(0, 1), label


def five_points(identities: Identities, nuisance: Nuisance) -> Tensor:
    """Eyes, nose tip and mouth corners in the picture, ``(N, 5, 2)``."""
    part = {name: columns(IDENTITY[name], rows) for name, rows in identities.vectors.items()}
    photo = {name: columns(NUISANCE[name], rows) for name, rows in nuisance.vectors.items()}
    eye = EYE_X + part["eyes"].spacing
    mouth = _mouth_width(part["mouth"], photo["expression"])
    nose = NOSE_ROW + part["nose"].tip_row
    corner = MOUTH_ROW - _corner_rise(photo["expression"]) + 0 * mouth
    middle, eyes = torch.zeros_like(eye), torch.full_like(eye, EYE_ROW)
    x = torch.cat([-eye, eye, middle, -mouth, mouth], dim=2)
    y = torch.cat([eyes, eyes, nose, corner, corner], dim=2)
    return torch.stack(to_image(photo["pose"], x, y), dim=3)[:, 0]
