"""Every method on one pair, a figure for those that look inside the model and one for those that don't."""

from common import explained, faces, show

from captum_face import METHODS, show_comparison

masks = (faces().mask_a, faces().mask_b)
black_box = [name for name, method in METHODS.items() if method.needs == "scores alone"]
for names in ([name for name in METHODS if name not in black_box], black_box):
    show(show_comparison([explained(name) for name in names], masks=masks))
