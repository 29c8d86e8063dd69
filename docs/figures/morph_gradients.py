from common import explained, show

show(explained("morph_gradients").plot())
