"""Programs that measure the layers and the networks beside others."""
