"""Training of one model with Lightning: module, data module, metrics, optimizer, callbacks."""
