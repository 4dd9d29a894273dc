"""mnistcnn: a configurable experiment runner for image-classification CNNs on MNIST."""

__version__ = "0.1.0"

NUM_CLASSES = 10
IMAGE_SIZE = 28  # height and width of an image, pixels
