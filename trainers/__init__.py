"""Programs that train lambda networks with TensorFlow."""
