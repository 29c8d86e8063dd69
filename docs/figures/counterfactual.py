"""What would have to change for two different people to match."""

from common import SEED, model, show

from captum_face.data import synthetic
from captum_face.decoder import counterfactual
from captum_face.figures import show_counterfactual

two = synthetic.pair(SEED, same=False)
show(show_counterfactual(counterfactual(model(), two.image_a, two.image_b)))
