"""Parts that several methods of a family share."""
