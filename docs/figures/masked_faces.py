"""One face as CorrRISE's model sees it."""

import matplotlib.pyplot as plt
import torch
from common import SEED, faces

from captum_face.engines.masks import apply_masks, random_patches

masks = random_patches(6, (112, 112), generator=torch.Generator().manual_seed(SEED))
figure, axes = plt.subplots(1, len(masks), figsize=(9, 1.6), layout="constrained")
for axis, image in zip(axes, apply_masks(faces().image_a, masks), strict=True):
    axis.imshow(image.permute(1, 2, 0))
    axis.set(xticks=[], yticks=[])
