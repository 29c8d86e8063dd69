"""The map of one face from few masks and from many, two seeds each."""

import matplotlib.pyplot as plt
import torch
from common import faces, model

from captum_face.attr.corrrise import correlation_map
from captum_face.engines.masks import masked_scores, random_patches

pair, two = model(), faces()
runs = [(n_masks, seed) for n_masks in (50, 500) for seed in (1, 2)]
figure, axes = plt.subplots(1, len(runs), figsize=(7.5, 2.3), layout="constrained")
for axis, (n_masks, seed) in zip(axes, runs, strict=True):
    masks = random_patches(n_masks, (112, 112), generator=torch.Generator().manual_seed(seed))
    with pair.frozen():
        scores = masked_scores(pair, two.image_a, two.image_b, masks)
    drawn = axis.imshow(correlation_map(scores, masks)[0], cmap="RdBu", norm=plt.Normalize(-0.8, 0.8))
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{n_masks} masks, seed {seed}", fontsize=9)
figure.colorbar(drawn, ax=axes, shrink=0.8, label="correlation")
