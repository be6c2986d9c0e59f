"""A trained detector on new pictures: what it finds, in tiles, from videos, into files."""
