"""From images in files to batches."""
