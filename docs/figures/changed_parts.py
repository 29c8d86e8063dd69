"""Pairs of one seed, each with other parts taken from another face, and where that shows."""

import matplotlib.pyplot as plt

from captum_face.data import synthetic

exchanges = ((), ("mouth",), ("nose",), ("brows", "eyes"), ("hair",))
figure, axes = plt.subplots(3, len(exchanges), figsize=(8, 5.2), layout="constrained")
for column, changed in zip(axes.T, exchanges, strict=True):
    two = synthetic.pair(seed=0, changed=changed)
    for axis, image in zip(column, (two.image_a[0], two.image_b[0]), strict=False):
        axis.imshow(image.permute(1, 2, 0))
    column[2].imshow(two.mask_b[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    column[0].set_title(" and ".join(changed) or "nothing changed", fontsize=9)
    for axis in column:
        axis.set(xticks=[], yticks=[])
for axis, name in zip(axes[:, 0], ("image A", "image B", "mask of B"), strict=True):
    axis.set_ylabel(name, fontsize=9)
