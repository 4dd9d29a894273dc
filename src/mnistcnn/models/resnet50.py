"""Build ResNet50 for one input channel."""

from torch import nn

from mnistcnn import NUM_CLASSES
from mnistcnn.config.schema import ResNet50Settings
from mnistcnn.models.classifier import Classifier, scale_channels


def resnet50(settings: ResNet50Settings) -> Classifier:
    """Build torchvision's ResNet50 (arXiv:1512.03385, v1.5) with one input channel."""
    # imported here: importing torchvision takes seconds, and the other models do not need it
    from torchvision.models.resnet import Bottleneck, ResNet

    body = ResNet(
        Bottleneck,
        settings.layers,
        num_classes=NUM_CLASSES,
        width_per_group=scale_channels(64, settings.width),
    )
    body.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    head, body.fc = body.fc, nn.Identity()
    return Classifier(body, head)
