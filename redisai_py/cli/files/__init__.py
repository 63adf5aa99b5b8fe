"""Files that commands read and write: models, tensors, images and scripts."""
