"""What people are handed: explanations, identifications, and a probe's maps against a gallery."""
