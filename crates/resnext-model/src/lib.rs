//! ResNeXt and ResNet for candle: configurations, the three block forms, torchvision's weight names.
