from common import explained, show

show(explained("fggb").plot(sigma=2))
