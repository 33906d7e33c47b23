"""Programs that deploy trained models, and that check what they wrote."""
