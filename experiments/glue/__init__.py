"""What pretraining is worth: the arms of a masked study fine-tuned on GLUE with equal effort."""
