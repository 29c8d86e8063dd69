"""Two rendered people in one picture, one of them compared with a crop, drawn on the picture."""

import numpy as np
from common import SEED, model, show
from PIL import Image

from captum_face import explain
from captum_face.data import synthetic
from captum_face.maps.templates import TEMPLATES
from captum_face.photos import Face

pair = synthetic.pair(seed=1)
crops = [synthetic.pair(seed=4).image_a, pair.image_a]
# From each crop to the picture: enlarged, turned and moved.
places = [np.array([[1.5, 0.2, 40], [-0.2, 1.5, 70]]), np.array([[1.1, -0.2, 330], [0.2, 1.1, 90]])]

picture = Image.new("RGB", (520, 320), "#8a9aa5")
for crop, place in zip(crops, places, strict=True):
    face = Image.fromarray((crop[0] * 255).byte().permute(1, 2, 0).numpy())
    back = np.linalg.inv(np.vstack([place, (0, 0, 1)]))[:2].flatten()
    drawn, inside = (
        image.transform(picture.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
        for image in (face, Image.new("L", face.size, 255))
    )
    picture.paste(drawn, mask=inside)


class Places:
    """A detector that knows where the faces are."""

    def find(self, photo):
        for place in places:
            points = {
                name: tuple(place[:, :2] @ point + place[:, 2])
                for name, point in TEMPLATES["arcface"].points.items()
            }
            left, top = np.min([*points.values()], 0) - 25
            right, bottom = np.max([*points.values()], 0) + 25
            yield Face(photo, (left, top, right, bottom), points)


explanation = explain(
    model(), picture, pair.image_b, "morph_gradients",
    detector=Places(), face_a=1, seed=SEED, names=("a picture", "a crop"),
)  # fmt: skip
show(explanation.on_photos())
