from common import explained, faces, show

from captum_face import show_comparison

masks = (faces().mask_a, faces().mask_b)
show(show_comparison([explained("fggb"), explained("corrrise")], masks=masks))
