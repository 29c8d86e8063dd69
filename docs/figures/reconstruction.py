from common import explained, show

show(explained("reconstruction").plot())
