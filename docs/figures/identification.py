"""A synthetic probe, a gallery with another photo of that person, and the three best matches."""

import torch
from common import SEED, model, show

from captum_face import identify
from captum_face.data import synthetic

people = [synthetic.pair(seed) for seed in range(20)]
gallery = torch.cat([person.image_b for person in people])
names = [f"person {number}" for number in range(len(people))]
found = identify(model(), people[4].image_a, gallery, names=names, top_k=4, seed=SEED)
show(found.plot())
