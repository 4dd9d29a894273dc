"""mnistcnn: a configurable experiment runner for image-classification CNNs on MNIST."""

DIGITS = 10  # classes
SIDE = 28  # height and width of an image, pixels
