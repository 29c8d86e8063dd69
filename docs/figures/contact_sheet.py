"""People in rows; in columns photos of them under growing nuisance, and where their parts are."""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from captum_face.data import synthetic

PEOPLE, STRENGTHS = 4, (0.0, 0.5, 0.5, 1.0, 1.0)
people = synthetic.sample_identities(PEOPLE, seed=7)
figure, axes = plt.subplots(PEOPLE, len(STRENGTHS) + 1, figsize=(8.4, 6.2), layout="constrained")
for column, strength in enumerate(STRENGTHS):
    photo = synthetic.sample_nuisance(PEOPLE, seed=20 + column, strength=strength)
    images, parts = synthetic.render(people, photo, return_parts=True)
    if column == 0:
        at_rest = parts
    for axis, image in zip(axes[:, column], images, strict=True):
        axis.imshow(image.permute(1, 2, 0))
    axes[0, column].set_title("at rest" if strength == 0 else f"strength {strength:g}", fontsize=9)
colours = plt.get_cmap("tab20")([(2 * i) % 20 + (i >= 10) for i in range(len(synthetic.PARTS))])
palette = ListedColormap(["white", *map(tuple, colours)])
for axis, masks in zip(axes[:, -1], at_rest, strict=True):
    label = torch.where(masks.any(0), masks.int().argmax(0) + 1, 0)
    axis.imshow(label, cmap=palette, interpolation="nearest", vmin=0, vmax=len(colours))
axes[0, -1].set_title("parts at rest", fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
handles = [Patch(color=colour, label=part) for part, colour in zip(synthetic.PARTS, colours, strict=True)]
figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
