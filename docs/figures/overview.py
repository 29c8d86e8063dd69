from common import explained, faces, show

from captum_face import show_comparison

masks = (faces().mask_a, faces().mask_b)
methods = ("fggb", "corrrise", "morph_gradients", "reconstruction")
show(show_comparison([explained(method) for method in methods], masks=masks))
