"""The configuration files of mnistcnn, installed as the package ``mnistcnn.conf``."""
