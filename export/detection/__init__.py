"""What `export.export_detector` and `export.detect` are made of."""
