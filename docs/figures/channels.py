"""Which regions the bundled model's strongest channels draw."""

from common import model, show

from captum_face.data import synthetic
from captum_face.decoder import channel_regions
from captum_face.figures import show_channels

PEOPLE, SEED = 8, 2**27
photos = synthetic.sample_nuisance(PEOPLE, SEED, strength=0.5)
images = synthetic.render(synthetic.sample_identities(PEOPLE, SEED), photos)
show(show_channels(channel_regions(model(), images), images))
