"""Rendered people whom the shipped decoder has not learned from, and its pictures of them."""

from common import model, show

from captum_face.data import synthetic
from captum_face.decoder import shipped_decoder
from captum_face.figures import show_reconstructions

PEOPLE, SEED = 8, 2**27
photos = synthetic.sample_nuisance(PEOPLE, SEED, strength=0.5)
images = synthetic.render(synthetic.sample_identities(PEOPLE, SEED), photos)
show(show_reconstructions(model(), shipped_decoder(), images))
