"""The train step: fine-tune the model on the dataset."""
