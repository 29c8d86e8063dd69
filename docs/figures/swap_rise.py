from common import explained, show

show(explained("swap_rise").plot())
