"""DS-CNN, the keyword spotter of Zhang et al., "Hello Edge" (arXiv 1711.07128), as in MLPerf Tiny (arXiv 2106.07597).

A convolution over the spectrogram, then depthwise 3x3 + pointwise 1x1 blocks, each with BatchNorm and ReLU, an average
over time and frequency, and a linear head. The pointwise convolutions hold most of the weights; they become ternary.
"""

from __future__ import annotations

from torch import Tensor, nn

from edge.runtime.errors import BadInput


def _conv_norm(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class DSCNN(nn.Module):
    """Depthwise-separable CNN over log-mel features.

    Args:
        input_shape: (1, frames, mel bands).
        num_classes: outputs.
        channels, blocks: width and number of separable blocks; 64 and 4 are the paper's small model.
        kernel: (frames, bands) of the first convolution, which has stride 2.
        dropout: before the head, in training.

    Raises:
        BadInput: an input that is not three-dimensional or has fewer than 2 frames or bands.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (1, 49, 40),
        num_classes: int = 12,
        *,
        channels: int = 64,
        blocks: int = 4,
        kernel: tuple[int, int] = (10, 4),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 2:
            raise BadInput(f"input shape {list(input_shape)}: ds_cnn takes [channels, frames, bands], each at least 2")
        self.stem = nn.Sequential(*_conv_norm(input_shape[0], channels, kernel, stride=2))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    *_conv_norm(channels, channels, (3, 3), groups=channels),
                    *_conv_norm(channels, channels, (1, 1)),
                )
                for _ in range(blocks)
            )
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, channels, frames, bands] to logits float32 [B, classes]."""
        y: Tensor = self.blocks(self.stem(x))
        y = self.fc(self.dropout(y.mean((2, 3))))
        return y
