"""The formats in which a classifier is exported."""
