"""What morph gradients say when the partner is moved by a seventh of the image."""

from common import SEED, faces, model, show

from captum_face import explain

moved = faces().image_b.roll(16, -1)
show(explain(model(), faces().image_a, moved, "morph_gradients", seed=SEED).plot())
