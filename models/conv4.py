"""The small encoder of the Keras example of NNCLR: four convolutions and a dense layer, without norms."""

from torch import Tensor, nn

# B batch, C channels, H height, W width, D feature


class Conv4(nn.Module):
    """Four 3x3 convolutions with stride 2, flattened into a dense layer; a ReLU after each.

    As Keras has it by default, no convolution pads ("valid"), weights start Glorot uniform and biases zero.

    Args:
        width: channels of every layer, and D; 128 in the example.
        image_size: side of the images in pixels; the dense layer fits no other.

    Raises:
        ValueError: the image is too small for four convolutions; from `forward`, images of another size.

    Source: https://keras.io/examples/vision/nnclr/, `encoder`.
    """

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        side = image_size
        for _ in range(4):
            side = (side - 1) // 2
        if side < 1:
            raise ValueError(
                f"conv4: images of {image_size} px are too small for four convolutions with stride 2, "
                "it takes 31 px or more"
            )
        self.feature_dim = width
        self.image_size = image_size
        layers: list[nn.Module] = []
        for in_channels in (3, width, width, width):
            layers += [nn.Conv2d(in_channels, width, 3, stride=2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(width * side * side, width), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def stages_in_order(self) -> list[nn.Module]:
        """The four convolutions, and the dense layer."""
        return [*self.convolutions[::2], self.dense]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"conv4 was built for images of {self.image_size} x {self.image_size} px, "
                f"these are {height} x {width}"
            )
        features: Tensor = self.dense(self.convolutions(images))  # [B, D]
        return features
