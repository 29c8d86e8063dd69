"""The map of one face at thresholds below, at and above the pair's score."""

import matplotlib.pyplot as plt
import torch
from common import faces, model

from captum_face.engines.channels import gradient_channel_maps
from captum_face.maps.signed import smooth

pair, two = model(), faces()
maps = gradient_channel_maps(pair, two.image_a)  # they do not depend on the threshold
with torch.no_grad():
    shares = pair.contributions(pair.embed(two.image_a), pair.embed(two.image_b))[0]
offsets = (-0.3, -0.1, 0.0, 0.1, 0.3)
weights = torch.stack([shares - (shares.sum() + offset) / len(shares) for offset in offsets])
signed = smooth(torch.einsum("td,dhw->thw", weights, maps), 2)

figure, axes = plt.subplots(1, len(offsets), figsize=(9, 2.3), layout="constrained")
scale = plt.Normalize(-float(signed.abs().max()), float(signed.abs().max()))
for axis, attr, offset in zip(axes, signed, offsets, strict=True):
    drawn = axis.imshow(attr, cmap="RdBu", norm=scale)
    axis.set(xticks=[], yticks=[])
    sign = "−" if offset < 0 else "+"
    axis.set_title(f"θ = score {sign} {abs(offset)}" if offset else "θ = score", fontsize=9)
figure.colorbar(drawn, ax=axes, shrink=0.8, label="relevance, σ = 2 px")
