"""Grad-CAM and HiResCAM of one pair."""

from common import explained, faces, show

from captum_face import show_comparison

masks = (faces().mask_a, faces().mask_b)
show(show_comparison([explained("layer_gradcam"), explained("hirescam")], masks=masks))
