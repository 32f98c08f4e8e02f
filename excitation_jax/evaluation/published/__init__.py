"""What the papers and TorchRay published, to show beside one's own figures."""
