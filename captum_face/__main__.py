"""``python -m captum_face``: the command line."""

from captum_face.cli import main

main(prog_name="captum-face")
