"""What `export.label_images` is made of."""
