"""A wardrobe drawn by this package: invented garments, shops and street scenes whose truth is known to the pixel."""
