"""One synthetic face as it should lie, and changed in ways that the check is for, with what it says."""

import textwrap

import matplotlib.pyplot as plt
import torch

from captum_face.data import check_faces, synthetic

face = synthetic.pair(seed=0, strength=0).image_a
images = {
    "aligned": face,
    "moved": face.roll(16, 3),
    "turned": face.rot90(1, (2, 3)),
    "upside down": face.flip(2, 3),
    "two faces": torch.nn.functional.interpolate(torch.cat([face, face], 3), (112, 112), mode="area"),
    "no face": torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)),
}
figure, axes = plt.subplots(1, len(images), figsize=(10, 2.4), layout="constrained")
for axis, (name, image) in zip(axes, images.items(), strict=True):
    check = check_faces(torch.nn.functional.interpolate(image, (112, 112)))[0]
    axis.imshow(image[0].permute(1, 2, 0))
    axis.set_title(f"{name}: {check.figure:.2f}", fontsize=9)
    axis.set_xlabel(textwrap.fill(check.looks or "passes", 24), fontsize=8)
    axis.set(xticks=[], yticks=[])
