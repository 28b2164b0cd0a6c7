"""tinyfcn: Fully Convolutional Networks for Semantic Segmentation, from nothing but array operations."""

__version__ = "0.1.0"
