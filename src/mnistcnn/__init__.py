"""mnistcnn: a configurable experiment runner for image-classification CNNs on MNIST."""

NUM_CLASSES = 10
IMAGE_SIZE = 28  # height and width of an image, pixels
