"""The ends of an image model: pixels to tokens, tokens to class scores."""
