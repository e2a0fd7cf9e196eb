"""Invented garments, shops and street scenes, drawn by this package: their truth is known."""
