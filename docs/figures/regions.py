"""The regions over a synthetic face, with the five landmarks of the template."""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from captum_face.data import synthetic
from captum_face.maps.regions import face_regions
from captum_face.maps.templates import TEMPLATES

regions = face_regions()
label = torch.stack(list(regions.values())).int().argmax(0)
colours = plt.get_cmap("tab20")(range(len(regions)))
image = synthetic.pair(seed=0, strength=0).image_a[0].permute(1, 2, 0)

figure, axes = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
axes[0].imshow(image)
axes[0].set_title("a face aligned to the template", fontsize=9)
axes[1].imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
axes[1].imshow(label, cmap=ListedColormap(colours), alpha=0.6, interpolation="nearest")
axes[1].set_title("its regions", fontsize=9)
for axis in axes:
    axis.plot(*zip(*TEMPLATES["arcface"].points.values(), strict=True), "x", color="black", markersize=5)
    axis.set(xticks=[], yticks=[])
handles = [Patch(color=colour, label=name) for name, colour in zip(regions, colours, strict=True)]
figure.legend(handles=handles, loc="outside right center", fontsize=7, frameon=False)
