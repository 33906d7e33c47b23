"""Labels that a trained network gives, and what is trained with them."""
