from common import explained, show

show(explained("corrrise").plot())
