"""Fine-tunes a model on the dataset with accelerate."""
